"""A batch as numpy arrays and lists, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from corpusmill import _native

__all__ = ["Batch", "Ragged", "ArrowTable"]


class Ragged(NamedTuple):
    """Values of a list column: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    values: np.ndarray
    """All values one after the other, in the column's dtype; shape [sum of lengths]."""
    offsets: np.ndarray
    """int64, shape [rows + 1], from 0."""


class ArrowTable:
    """A record batch for any library that knows the Arrow PyCapsule interface.

    ``pyarrow.record_batch(t)``, ``polars.DataFrame(t)`` and DuckDB take it without a copy.
    """

    __slots__ = ("_export",)

    def __init__(self, export: Callable[[], tuple[object, object]]) -> None:
        self._export = export

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """Exports (``arrow_schema``, ``arrow_array``) capsules; ``requested_schema`` is not needed and ignored."""
        return self._export()


class Batch(Mapping[str, Any]):
    """What one rank gets in one step.

    A mapping from field to array. Nothing is computed or converted before it is asked for.

    Packed plans (``pack=T``), with P packs of this rank and D documents (or pieces of long ones) in them:

    ============== ============== ========= ==========================================================
    field          shape          dtype
    ============== ============== ========= ==========================================================
    input_ids      [P, T]         int32/64  documents one after the other, then ``pad_id``
    position_ids   [P, T]         int32/64  position in the document; 0 in the padding
    doc_ids        [P, T]         int32     number of the document in its pack; -1 in the padding
    loss_mask      [P, T]         bool      True for tokens of delivered documents
    cu_seqlens     [segments + 1] int32     bounds of segments in the flattened batch: documents, and the padding
                                            of a pack as a segment of its own (the form of FlashAttention's varlen)
    max_seqlen     int                      longest segment
    doc_pack       [D]            int32     pack in which a document lies
    doc_start      [D]            int32     where it begins in the pack
    doc_length     [D]            int32     tokens
    ============== ============== ========= ==========================================================

    Other plans, with B rows of this rank:

    ============== ============== ========= ==========================================================
    input_ids      [B, L]         int32/64  padded to the longest row, or to ``max_length`` with ``pad="max"``
    attention_mask [B, L]         int32/64  1 for tokens, 0 for padding
    lengths        [B]            int32     tokens of a row
    ============== ============== ========= ==========================================================

    Both, per document or row (N = D or B):

    ============== ============== ========= ==========================================================
    row_mask       [N]            bool      False for a row that arrives as mask (corrupt or taken down)
    row_source     [N]            int32     position of its corpus in ``plan.sources``
    row_slot       [N]            int64     its slot in that corpus version
    *column*       [N] or [N, k]            numbers and booleans as they are stored; fixed-size lists as 2-D;
                                            texts as list of str, binary as list of bytes; lists as `Ragged`
    ============== ============== ========= ==========================================================

    A NULL arrives as NaN in a float column, None in a text or binary column, and as a masked element
    (``numpy.ma``) in a column of integers or booleans, unless the plan has a ``fill`` for the column.
    """

    __slots__ = ("_native", "_made")

    def __init__(self, native: _native.Batch) -> None:
        self._native = native
        self._made: dict[str, Any] = {}

    @property
    def step(self) -> int:
        """The step that this batch is of, from 0."""
        return self._native.step

    def __getitem__(self, field: str) -> Any:
        made = self._made
        if field not in made:
            made[field] = _as_python(self._native.get(field))
        return made[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._native.fields())

    def __len__(self) -> int:
        return len(self._native.fields())

    def arrow(self) -> ArrowTable:
        """The rows of the batch as Arrow: a row per pack (packed plans) or per sample, columns included."""
        return ArrowTable(self._native.arrow)

    def documents(self) -> ArrowTable:
        """The documents of a packed batch as Arrow, a row each: place, source, slot, and the plan's columns."""
        return ArrowTable(self._native.documents)

    def __repr__(self) -> str:
        return f"Batch(step={self.step}, fields={list(self)})"


def _as_python(value: Any) -> Any:
    """Turns what the native batch gives into numpy: a view over its memory, never a copy."""
    if isinstance(value, _native.Tensor):
        return np.asarray(value)
    if isinstance(value, tuple):
        kind, *parts = value
        if kind == "ragged":
            return Ragged(*(np.asarray(part) for part in parts))
        values, valid = (np.asarray(part) for part in parts)
        return np.ma.MaskedArray(values, mask=~valid)
    return value
