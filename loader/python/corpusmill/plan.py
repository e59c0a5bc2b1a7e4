"""What to deliver, in which order: the arguments of a `Plan`."""

from __future__ import annotations

import datetime
import json
import logging
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from corpusmill import _native
from corpusmill.errors import PlanError

__all__ = ["Plan"]

_log = logging.getLogger("corpusmill")

Weights = Mapping[str, float]


class Plan:
    """The order of samples and the shape of batches, as a pure function of these arguments and the step.

    Two processes that make a plan of the same arguments have the same plan; `hash` tells plans apart. A plan pins the
    versions of its corpora, so a corpus that gets a new version does not change a running job.

    Parameters
    ----------
    corpus
        ``"name@version"``, ``"name@tag"``, ``"name@latest"`` or ``"name"`` (the latest), or a mapping of several to their weights:
        ``{"mod_text@41": 0.7, "other@3": 0.3}``. Weights are relative; draws follow them exactly (low discrepancy).
        A name may have its warehouse before it: ``"s3://lake/corpora/mod_text@41"``.
    warehouse
        Folder or URL (``s3://``, ``gs://``, ``az://``, ``http(s)://``; credentials from the usual environment
        variables) that holds the corpora; ``./corpusmill-data/warehouse`` where neither it nor a name says so.
    seed
        Seed of every shuffle.
    global_batch
        Packs (or rows, without ``pack``) in a step, over all ranks.
    pack
        Tokens of a packed sequence; None delivers one sample a row, padded.
    long
        What happens to documents longer than ``pack``: ``"split"`` into pieces, ``"truncate"``, or ``"drop"``.
    max_length
        Without ``pack``: rows are cut to so many tokens.
    pad
        Without ``pack``: pad to the ``"longest"`` row of the batch or to ``"max"`` (``max_length``).
    pad_id
        Token id of the padding.
    tokens
        The column with token ids (a list of integers); None if the plan delivers other columns only.
    ids
        dtype of ``input_ids``, ``position_ids`` and ``attention_mask``: ``"int32"`` or ``"int64"``.
    columns
        Further columns to deliver; partition columns too.
    filter
        Rows to draw: ``"split = 'train' AND (agreement >= 0.8 OR label IS NULL)"``, for all corpora or a mapping
        from corpus to filter. ``= != < <= > >= IN BETWEEN LIKE``, ``IS [NOT] NULL``, ``AND OR NOT`` and parentheses,
        with SQL's three-valued logic. Partition columns leave out whole shards.
    balance
        Class-balanced sampling: a column (its classes get equal shares), or ``{column: {class: weight}}``.
    weights_at
        New weights from a step on: ``{1000: {"mod_text@41": 0.5, "other@3": 0.5}}``.
    shuffle
        False delivers rows in slot order.
    epochs
        Passes over the data; None goes on for ever. ``shuffle=False, epochs=1`` is a pass for evaluation.
    until
        With several sources and ``epochs``: whether the plan ends with the ``"first"`` that is through, or goes on
        until ``"all"`` are.
    last_batch
        Whether the rest behind the last full batch of a finite plan comes as a ``"partial"`` batch, or is left out
        (``"drop"``).
    window_blocks
        Stored blocks whose rows are shuffled among each other; what a loader holds decoded.
    run
        Name of a training run, the same on all its ranks and after each restart: makes the plan *live*. The run follows
        the log beside the plan (``_plans/HASH`` in the warehouse; ranks that read for themselves write there), so that
        `takedown`, `mask_blocks` and `reweigh` reach it while it trains. Without a run there is no log.
    on_corrupt
        A block that fails its checksum: ``"raise"``, or ``"mask"`` (logged; its rows arrive as mask).
    fill
        Values for NULLs and masked rows of number columns: ``{"label": -100}``.
    cache_dir
        Folder for decoded blocks, shared by all processes of the machine; default ``$CORPUSMILL_BLOCK_CACHE`` or
        ``~/.cache/corpusmill/blocks``; ``""`` keeps none. What filters found is kept there too.
    cache_bytes
        Bound of that folder, bytes.
    memory_bytes
        Bound of the decoded blocks that are held open, bytes.

    Raises
    ------
    PlanError
        For an argument, column or filter that cannot work; names it, and the nearest that would.
    NotFoundError
        For a warehouse, corpus or version that is not there; says which are.
    """

    def __init__(
        self,
        corpus: str | Weights,
        *,
        warehouse: str | os.PathLike[str] | None = None,
        seed: int = 0,
        global_batch: int = 32,
        pack: int | None = None,
        long: Literal["split", "truncate", "drop"] = "split",
        max_length: int | None = None,
        pad: Literal["longest", "max"] = "longest",
        pad_id: int = 0,
        tokens: str | None = "input_ids",
        ids: Literal["int32", "int64"] = "int32",
        columns: Sequence[str] = (),
        filter: str | Mapping[str, str] | None = None,
        balance: str | Mapping[str, Mapping[Any, float]] | None = None,
        weights_at: Mapping[int, Weights] | None = None,
        shuffle: bool = True,
        epochs: int | None = None,
        until: Literal["all", "first"] = "all",
        last_batch: Literal["partial", "drop"] = "partial",
        window_blocks: int = 8,
        run: str | None = None,
        on_corrupt: Literal["raise", "mask"] = "raise",
        fill: Mapping[str, float] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int = 64 << 30,
        memory_bytes: int = 1 << 30,
    ) -> None:
        if isinstance(columns, str):
            raise PlanError(f"columns is a list of names: columns=[{columns!r}]")
        names = [corpus] if isinstance(corpus, str) else list(corpus)
        folder = _folder(names, warehouse)
        self._arguments: dict[str, Any] = {
            "corpora": [_name(name) for name in names],
            "weights": None if isinstance(corpus, str) else _named("corpus", corpus),
            "warehouse": os.fspath("./corpusmill-data/warehouse" if folder is None else folder),
            "seed": _integer("seed", seed, 0, 2**64 - 1),
            "global_batch": _integer("global_batch", global_batch, 1, 2**32 - 1),
            "pack": None if pack is None else _integer("pack", pack, 1, 2**22),
            "long": long,
            "max_length": None if max_length is None else _integer("max_length", max_length, 1, 2**31 - 1),
            "pad": pad,
            "pad_id": _integer("pad_id", pad_id, -(2**31), 2**31 - 1),
            "tokens": tokens,
            "ids": ids,
            "columns": list(columns),
            "filter": {"": filter} if isinstance(filter, str) else {_name(k): v for k, v in (filter or {}).items()},
            "balance": _balance(balance),
            "weights_at": {str(int(k)): _named("weights_at", v) for k, v in (weights_at or {}).items()},
            "shuffle": shuffle,
            "epochs": None if epochs is None else _integer("epochs", epochs, 1, 2**31 - 1),
            "until": until,
            "last_batch": last_batch,
            "window_blocks": _integer("window_blocks", window_blocks, 1, 2**30),
            "run": run,
            "on_corrupt": on_corrupt,
            "fill": _numbers("fill", fill or {}),
            "cache_dir": _cache_dir(cache_dir),
            "cache_bytes": _integer("cache_bytes", cache_bytes, 0, 2**63 - 1),
            "memory_bytes": _integer("memory_bytes", memory_bytes, 0, 2**63 - 1),
        }
        self._open()

    def _open(self) -> None:
        self._native = _native.Plan(json.dumps(self._arguments))
        for note in self._native.notes():
            _log.warning("%s", note)

    @property
    def hash(self) -> str:
        """Identity of the plan, 32 hexadecimal digits: everything that decides the order of samples."""
        return self._native.hash

    @property
    def spec(self) -> str:
        """Everything that the hash is over, as JSON."""
        return self._native.spec

    @property
    def sources(self) -> list[str]:
        """The corpora with their versions, ``name@version``; ``row_source`` counts in this list."""
        return self._native.sources

    @property
    def pack(self) -> int | None:
        """Tokens of a packed sequence; None for a plan that does not pack."""
        length: int | None = self._arguments["pack"]
        return length

    @property
    def columns(self) -> list[str]:
        """The further columns that batches have."""
        return list(self._arguments["columns"])

    @property
    def global_batch(self) -> int:
        """Packs or rows in a step, over all ranks."""
        return int(self._arguments["global_batch"])

    @property
    def run(self) -> str | None:
        """The run that makes the plan live; None for a plan that nothing changes."""
        name: str | None = self._arguments["run"]
        return name

    @property
    def rows(self) -> dict[str, int]:
        """Rows that can be drawn, by source: those that pass the filter (and have a class, with ``balance``)."""
        return self._native.rows

    def __len__(self) -> int:
        """Steps of a finite plan.

        Raises
        ------
        TypeError
            For an endless plan (``epochs=None``).
        """
        steps = self._native.steps()
        if steps is None:
            raise TypeError("an endless plan has no length: give it epochs=N, or count steps yourself")
        return steps

    def counts(self, steps: int | None = None) -> dict[str, int]:
        """Counts documents up to a step (default: the end of a finite plan): drawn, split, truncated, dropped, …

        Reads no data, only row lengths.
        """
        return self._native.counts(steps)

    def provenance(self, step: int, *, keys: bool = True) -> list[dict[str, Any]]:
        """The rows of a step's global batch, in order: ``corpus``, ``slot``, ``masked``, and if ``keys`` the key columns.

        Keys are read from the blocks that hold them. A piece of a long document counts as its document. In a live plan
        these are the rows that the run was handed, with the entries of ``log(step)``, if it has been there; for later
        steps, those that it would be handed now.
        """
        found = self._native.provenance(_integer("step", step, 0, 2**63 - 1), keys)
        names = self.sources
        known = [_rows_of(found.key_columns(at)) for at in range(len(names) if keys else 0)]
        return [
            {"corpus": names[source], "slot": slot, "masked": masked}
            | (next(known[source]) if keys and not masked else {})
            for source, slot, masked in found.rows
        ]

    def takedown(self, keys: Iterable[Any], *, corpus: str | None = None, note: str = "") -> dict[str, Any]:
        """Takes rows down: in every run of this plan they keep their slots and arrive as mask, and never again as rows.

        It holds from the first group of steps on that no rank has made anything of (a plan's ``group_turns``, at least
        2,048 draws); batches that were made ahead are delivered as they are. ``corpusmill takedown`` does the same for
        all plans over a corpus.

        Parameters
        ----------
        keys
            Primary keys; a tuple each where the key has several columns.
        corpus
            The corpus that has them; all of the plan's are searched without.
        note
            Why, for whoever reads the log.

        Returns
        -------
        dict
            ``entries`` (numbers in the log), ``rows`` (that are masked), and ``missing``: keys that no row has.

        Raises
        ------
        PlanError
            If no row has any of the keys, for a key of another form, and for a plan without a run.
        """
        told: dict[str, Any] = json.loads(self._native.takedown([_key(key) for key in keys], corpus, note))
        return told

    def mask_blocks(self, corpus: str, slots: Iterable[int], *, note: str = "") -> dict[str, Any]:
        """Masks the blocks that hold ``slots`` of a corpus, in every run of this plan; from when on, see `takedown`.

        For blocks that are damaged: with ``on_corrupt="mask"`` each rank does so when it finds one, here all do.
        """
        wanted = [_integer("slots", slot, 0, 2**63 - 1) for slot in slots]
        told: dict[str, Any] = json.loads(self._native.mask_blocks(corpus, wanted, note))
        return told

    def reweigh(self, weights: Weights, *, note: str = "") -> int:
        """Draws by new weights, in every run of this plan; from when on, see `takedown`. Who has none is left out.

        Returns the number of the entry in the log.
        """
        return self._native.reweigh(_named("weights", weights), note)

    def log(self, step: int | None = None) -> list[dict[str, Any]]:
        """The entries of the plan's log: all, or those that hold for a step of this run.

        Each has ``number``, ``at_ms``, ``note`` and ``change``.
        """
        at = None if step is None else _integer("step", step, 0, 2**63 - 1)
        entries: list[dict[str, Any]] = json.loads(self._native.log(at))
        return entries

    def __reduce__(self) -> tuple[Any, ...]:
        # Versions are pinned: a process that unpickles the plan has the same one, whatever "latest" is by then.
        return _reopen, (self._arguments | {"corpora": self.sources},)

    def __repr__(self) -> str:
        return f"Plan({', '.join(self.sources)}, hash={self.hash[:8]})"


def _reopen(arguments: dict[str, Any]) -> Plan:
    plan = Plan.__new__(Plan)
    plan._arguments = arguments
    plan._open()
    return plan


def _rows_of(columns: Sequence[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """Turns columns into one dict a row, of Python's own types."""
    names = [name for name, _ in columns]
    values = [np.asarray(v).tolist() if isinstance(v, _native.Tensor) else v for _, v in columns]
    return (dict(zip(names, row, strict=True)) for row in zip(*values, strict=True))


def _integer(what: str, value: Any, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise PlanError(f"{what} is an integer, got {value!r}") from None
    if isinstance(value, bool) or not low <= number <= high:
        raise PlanError(f"{what} is an integer from {low} to {high}, got {value!r}")
    return number


def _key(value: Any) -> list[str]:
    """The texts of a key's columns."""
    columns = value if isinstance(value, (tuple, list)) else (value,)
    for column in columns:
        if not isinstance(column, (str, int, np.integer, np.bool_, datetime.date)):
            raise PlanError(f"keys are texts, integers, booleans and dates, or tuples of them; got {value!r}")
    return [_class_text(column) for column in columns]


def _numbers(what: str, values: Mapping[str, Any]) -> dict[str, float]:
    try:
        return {str(k): float(v) for k, v in values.items()}
    except (TypeError, ValueError, AttributeError) as e:
        raise PlanError(f"{what} maps names to numbers, got {values!r}") from e


def _balance(value: str | Mapping[str, Mapping[Any, float]] | None) -> dict[str, dict[str, float]] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return {value: {}}
    if len(value) != 1:
        raise PlanError(f"balance takes one column, got {list(value)}")
    return {column: {_class_text(k): float(w) for k, w in weights.items()} for column, weights in value.items()}


def _class_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, (bool, np.bool_)) else str(value)


def _name(corpus: str) -> str:
    return corpus.rpartition("/")[2]


def _folder(corpora: Sequence[str], warehouse: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """The one folder that corpora lie in: the argument, or what stands before their names."""
    folders = {corpus.rpartition("/")[0] for corpus in corpora if "/" in corpus}
    if not folders:
        return warehouse
    if warehouse is not None or len(folders) > 1 or any("/" not in corpus for corpus in corpora):
        raise PlanError(
            f"the corpora of a plan lie in one warehouse: give it once, as warehouse={folders.pop()!r} with plain names"
        )
    return folders.pop()


def _named(argument: str, weights: Weights) -> dict[str, float]:
    return {_name(name): weight for name, weight in _numbers(argument, weights).items()}


def _cache_dir(given: str | os.PathLike[str] | None) -> str | None:
    if given is None:
        given = os.environ.get("CORPUSMILL_BLOCK_CACHE")
        if given is None:
            given = os.path.join(os.path.expanduser("~"), ".cache", "corpusmill", "blocks")
    return os.fspath(given) or None
