"""One rank's view of a plan, with what is made ahead in Rust threads."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from corpusmill import _native
from corpusmill.batch import Batch
from corpusmill.errors import PlanError, SlowLoaderWarning, StateError
from corpusmill.plan import Plan

__all__ = ["Loader", "Stats"]

_log = logging.getLogger("corpusmill")

_SLOW_SHARE = 0.01
_SLOW_AFTER_S = 10.0
_SLOW_CHECK_BATCHES = 64


@dataclass(frozen=True)
class Stats:
    """Counts of a loader since it was made, this rank only."""

    batches: int
    """Batches delivered."""
    samples: int
    """Documents or rows delivered, masked ones included; each piece of a split document counts."""
    tokens: int
    """Tokens delivered, padding left out."""
    bytes: int
    """Bytes of delivered arrays."""
    masked: int
    """Rows that arrived as mask."""
    wait_s: float
    """Seconds that the trainer waited for a batch, the first of each pass left out."""
    first_batch_s: float
    """Seconds that the trainer waited for the first batch of the last pass."""
    elapsed_s: float
    """Seconds from the first batch of each pass to the last request, the trainer's work included."""
    blocks_read: int
    """Blocks read and decoded from the warehouse."""
    blocks_read_bytes: int
    """Bytes of these blocks, decoded."""
    cache_hits: int
    """Blocks mapped from the local cache."""
    memory_hits: int
    """Blocks found open."""
    prefetch_bytes_peak: int
    """Most bytes of finished batches held at once."""
    failovers: int
    """With ``source``: how often a worker was left for another, or asked again, after a failure."""
    copies: int
    """With ``source``: batches that were copied because the consumer kept more of them than there are slots."""

    @property
    def wait_share(self) -> float:
        """Share of the time between first and last request that the trainer waited, 0 to 1."""
        return self.wait_s / self.elapsed_s if self.elapsed_s > 0 else 0.0


class Loader:
    """Iterates over one rank's batches of a plan, as numpy.

    Iteration begins at step 0, or where ``load_state_dict`` says. An iterator of a finite plan ends; the next
    ``iter()`` begins again at step 0. Only one iterator at a time: they share the position.

    Parameters
    ----------
    plan
        The plan; the same on all ranks.
    rank, world
        This rank and the number of ranks; ``world`` divides the plan's ``global_batch``. With any world size the
        union over the ranks is the same global batch, and a job may go on with another world size.
    prefetch_bytes
        Bound of finished batches that are held ready, bytes (at least one batch is).
    threads
        Worker threads; default: the machine's cores, at most 4.
    fields
        The fields that are made ahead; default: all. Other fields can still be asked for, and are made then.
    source
        ``"corpusmill://host:port"``, a coordinator: its workers read, assemble and serve the batches. They are the
        same, to the byte, as those that the loader makes itself without it, and so is the state. ``threads`` has no
        meaning then. A coordinator beyond this machine wants certificates and a token: ``$CORPUSMILL_CERTS`` names
        the folder of them. Arrays lie in memory that the worker gets back when the last of them is dropped.
    job
        With ``source``: a name that all ranks of a run have in common. The coordinator checks that they are on one
        plan and that every rank is there once. Default: ``$CORPUSMILL_JOB``, torchrun's or Slurm's id; without any,
        nothing is checked.
    transport
        With ``source``: ``"shm"``, ``"rdma"``, ``"tcp"``, or ``"auto"`` for the first of these that works (logged).
    patience_s
        With ``source``: seconds after which a batch that no worker serves is an error.

    Raises
    ------
    PlanError
        For a world size that does not divide the global batch, a rank outside of it, or an unknown field.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int = 0,
        world: int = 1,
        *,
        prefetch_bytes: int = 256 << 20,
        threads: int | None = None,
        fields: Sequence[str] | None = None,
        source: str | None = None,
        job: str | None = None,
        transport: Literal["auto", "shm", "rdma", "tcp"] = "auto",
        patience_s: float = 60.0,
    ) -> None:
        if not isinstance(plan, Plan):
            raise PlanError(f"the first argument is a corpusmill.Plan, got {type(plan).__name__}")
        self.plan = plan
        self.rank = rank
        self.world = world
        wanted = None if fields is None else list(fields)
        self._options = {
            "prefetch_bytes": prefetch_bytes,
            "threads": threads,
            "fields": fields,
            "source": source,
            "job": job,
            "transport": transport,
            "patience_s": patience_s,
        }
        self._native = _native.Loader(
            plan._native,
            rank,
            world,
            prefetch_bytes,
            threads,
            wanted,
            source,
            job_of_launcher() if job is None else job,
            transport,
            patience_s,
        )
        self._is_served = source is not None
        self._exhausted = False
        self._in_pass = False
        self._wait_s = 0.0
        self._first_s = 0.0
        self._elapsed_s = 0.0
        self._last_request = 0.0
        self._unchecked = 0
        self._has_warned = False

    def __iter__(self) -> Iterator[Batch]:
        _refuse_workers()
        if self._exhausted:
            self._native.seek(0)
            self._exhausted = False
        self._in_pass = False
        return self

    def __next__(self) -> Batch:
        asked = time.perf_counter()
        try:
            native = self._native.next()
        finally:
            if self._is_served:
                for event in self._native.events():
                    _log.info("%s", event)
        got = time.perf_counter()
        if not self._in_pass:
            self._first_s = got - asked
            self._in_pass = True
        else:
            self._wait_s += got - asked
            self._elapsed_s += got - self._last_request
            self._check_speed()
        self._last_request = got
        if native is None:
            self._exhausted = True
            raise StopIteration
        for note in native.notes():
            _log.warning("%s", note)
        return Batch(native)

    def __len__(self) -> int:
        """Batches of a pass of a finite plan, from step 0 (the same on every rank)."""
        return len(self.plan)

    @property
    def step(self) -> int:
        """The step of the next batch: how many were handed to the consumer in this pass."""
        return self._native.step

    @property
    def served_by(self) -> tuple[str, str] | None:
        """Transport and worker of a stream from a ``source``; None before the first batch and without one."""
        return self._native.served_by()

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """The position as a few numbers and texts: the same on all ranks, and valid for any world size.

        It counts what was handed to the consumer, not what was made ahead. A consumer that takes batches before it
        trains on them says the ``step`` that it wants to go on at.
        """
        state: dict[str, Any] = json.loads(self._native.state(step))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where ``state_dict`` was taken, whatever the world size was then.

        Raises
        ------
        StateError
            For a state of another plan (the message says what differs), or one that is damaged.
        """
        if not isinstance(state, Mapping):
            raise StateError(f"a state is what state_dict() returned, a dict; got {type(state).__name__}")
        self._native.load_state(json.dumps(dict(state)))
        self._exhausted = False
        self._in_pass = False

    def follow(self, step: int | None) -> None:
        """Goes to ``step`` without making its batch, for a rank that gets its batches from another; None: the end."""
        if step is None:
            self._exhausted = True
        else:
            self._native.seek(step)

    def provenance(self, step: int, *, keys: bool = True) -> list[dict[str, Any]]:
        """The rows of a step's global batch, see `Plan.provenance`."""
        return self.plan.provenance(step, keys=keys)

    def stats(self) -> Stats:
        """Counts and times since the loader was made."""
        return Stats(
            wait_s=self._wait_s,
            first_batch_s=self._first_s,
            elapsed_s=self._elapsed_s,
            **self._native.counters(),
        )

    def _check_speed(self) -> None:
        self._unchecked += 1
        if self._has_warned or self._unchecked < _SLOW_CHECK_BATCHES or self._elapsed_s < _SLOW_AFTER_S:
            return
        self._unchecked = 0
        share = self._wait_s / self._elapsed_s
        if share > _SLOW_SHARE:
            self._has_warned = True
            warnings.warn(
                f"the trainer waited for data {share:.1%} of its time ({self._wait_s:.1f} of {self._elapsed_s:.1f} s)"
                " on rank "
                f"{self.rank}: give the loader more threads or prefetch_bytes, fewer columns, or a faster cache_dir",
                SlowLoaderWarning,
                stacklevel=3,
            )

    def __getstate__(self) -> dict[str, Any]:
        return {
            "plan": self.plan,
            "rank": self.rank,
            "world": self.world,
            "options": self._options,
            "state": self.state_dict(),
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__init__(saved["plan"], saved["rank"], saved["world"], **saved["options"])  # type: ignore[misc]
        self.load_state_dict(saved["state"])


def job_of_launcher() -> str | None:
    """The name of the run, as launchers give it to all its processes."""
    for variable in ("CORPUSMILL_JOB", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"):
        name = os.environ.get(variable, "none")
        if name != "none":
            return name
    return None


def _refuse_workers() -> None:
    """A DataLoader with workers would give each of them the whole stream."""
    import sys

    data = sys.modules.get("torch.utils.data")
    info = data.get_worker_info() if data is not None else None
    if info is not None and info.num_workers > 0:
        raise PlanError(
            f"this loader runs in worker {info.id} of a DataLoader: every worker would deliver the same batches. "
            "Use num_workers=0: the loader has threads of its own"
        )
