"""Batches as torch tensors.

>>> loader = corpusmill.torch.Loader(plan, rank=r, world=w)
>>> for batch in loader:
...     loss = model(batch["input_ids"], batch["labels"])
>>> checkpoint["data"] = loader.state_dict()

A `Loader` can be iterated as it is, or be the dataset of ``torch.utils.data.DataLoader`` and of torchdata's
``StatefulDataLoader`` with ``batch_size=None, num_workers=0``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.data import IterableDataset

from corpusmill.batch import Batch, Ragged
from corpusmill.errors import PlanError
from corpusmill.loader import Loader as _NumpyLoader
from corpusmill.loader import Stats
from corpusmill.loader import job_of_launcher
from corpusmill.mesh import Kind, Layout, Place, same_plan
from corpusmill.plan import Plan

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Loader"]


class Loader(IterableDataset[dict[str, Any]]):
    """Iterates over one rank's batches of a plan, as dicts of torch tensors.

    The fields are those of `corpusmill.Batch`, with the same shapes and dtypes, as tensors over the same memory (no
    copy on the CPU). Texts and binary values stay lists; a list column becomes a pair (values, offsets) of tensors.
    A dict also has ``step`` (int).

    Parameters
    ----------
    plan, rank, world, prefetch_bytes, threads, source, job, transport, patience_s
        As for `corpusmill.Loader`.
    fields
        The fields of the dicts; default: all.
    pin_memory
        Copies tensors to page-locked memory, so that ``to(device, non_blocking=True)`` overlaps with compute.
    device
        Moves tensors there (with ``non_blocking=True`` from pinned memory).
    mesh
        A `DeviceMesh` in place of ``rank`` and ``world``: data-parallel ranks get packs of their own, context-parallel
        ones their slice of each pack (with ``labels``, the next tokens), tensor-parallel peers share one fetch, and
        pipeline stages between the first and the last get positions and bounds without tokens. See `corpusmill.mesh`.
    mesh_dims
        What the dimensions of the mesh are, where their names do not say it: ``{"replica": "dp"}``.
    cp_layout
        How context-parallel ranks cut a pack: ``"contiguous"``, or ``"zigzag"``, balanced for causal attention.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int = 0,
        world: int = 1,
        *,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        prefetch_bytes: int = 256 << 20,
        threads: int | None = None,
        fields: Sequence[str] | None = None,
        source: str | None = None,
        job: str | None = None,
        transport: Literal["auto", "shm", "rdma", "tcp"] = "auto",
        patience_s: float = 60.0,
        mesh: DeviceMesh | None = None,
        mesh_dims: Mapping[str, Kind] | None = None,
        cp_layout: Layout = "contiguous",
    ) -> None:
        super().__init__()
        self._place = Place()
        self._layout: Layout = cp_layout
        if mesh is not None:
            if (rank, world) != (0, 1):
                raise PlanError("a mesh says rank and world itself: leave them out")
            self._place = Place.of(mesh, mesh_dims)
            rank, world = self._place.dp
            self._place.check_length(plan.pack, cp_layout)
            fields = self._place.fields(None if fields is None else list(fields), plan.pack is not None)
            job = self._place.job(job_of_launcher() if job is None else job)
            same_plan(mesh, plan.hash, f"{self._place.dp[1]} {cp_layout} {plan.run}")
        if pin_memory and not torch.cuda.is_available():
            raise PlanError("pin_memory=True needs a CUDA device, and torch sees none: leave it out")
        self._inner = _NumpyLoader(
            plan,
            rank,
            world,
            prefetch_bytes=prefetch_bytes,
            threads=threads,
            fields=fields,
            source=source,
            job=job,
            transport=transport,
            patience_s=patience_s,
        )
        self._fields = None if fields is None else list(fields)
        self._pin = pin_memory
        self._device = None if device is None else torch.device(device)

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self._inner.plan

    @property
    def step(self) -> int:
        """The step of the next batch."""
        return self._inner.step

    @property
    def served_by(self) -> tuple[str, str] | None:
        """Transport and worker of a stream from a ``source``; see `corpusmill.Loader.served_by`."""
        return self._inner.served_by

    def __iter__(self) -> Iterator[dict[str, Any]]:
        iter(self._inner)
        return self

    def __next__(self) -> dict[str, Any]:
        if self._place.peers is None:
            return self._place.cut(self._tensors(next(self._inner)), self._layout)
        made: dict[str, Any] | BaseException | None = None
        if self._place.fetches:
            try:
                made = self._place.cut(self._tensors(next(self._inner)), self._layout)
            except StopIteration:
                pass
            except Exception as error:  # The peers wait for this rank: they end with its error.
                made = error
        batch = self._place.share(made)
        if not self._place.fetches:
            self._inner.follow(None if batch is None else batch["step"] + 1)
        if batch is None:
            raise StopIteration
        return batch

    def __len__(self) -> int:
        """Batches of a pass of a finite plan, from step 0."""
        return len(self._inner)

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """The position; see `corpusmill.Loader.state_dict`."""
        return self._inner.state_dict(step)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where ``state_dict`` was taken; see `corpusmill.Loader.load_state_dict`."""
        self._inner.load_state_dict(state)

    def provenance(self, step: int, *, keys: bool = True) -> list[dict[str, Any]]:
        """The rows of a step's global batch, see `corpusmill.Plan.provenance`."""
        return self._inner.provenance(step, keys=keys)

    def stats(self) -> Stats:
        """Counts and times since the loader was made."""
        return self._inner.stats()

    def _tensors(self, batch: Batch) -> dict[str, Any]:
        fields = batch if self._fields is None else self._fields
        out: dict[str, Any] = {field: self._tensor(field, batch) for field in fields}
        out["step"] = batch.step
        return out

    def _tensor(self, field: str, batch: Batch) -> Any:
        value = batch[field]
        if isinstance(value, np.ma.MaskedArray):
            raise PlanError(
                f"column `{field}` has NULLs in step {batch.step}, and a torch tensor has none: give the plan "
                f"fill={{{field!r}: -100}}, a filter `{field} IS NOT NULL`, or a COALESCE in the corpus"
            )
        if isinstance(value, Ragged):
            return tuple(self._placed(torch.from_numpy(part)) for part in value)
        if isinstance(value, np.ndarray):
            return self._placed(torch.from_numpy(value))
        return value

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._pin:
            tensor = tensor.pin_memory()
        if self._device is not None:
            tensor = tensor.to(self._device, non_blocking=self._pin)
        return tensor
