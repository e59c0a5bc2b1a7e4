"""corpusmill: the release wheel, over a corpus of 1,024-row blocks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpusmill
import corpusmill.torch
import pyarrow as pa
from corpusmill._native import _testing  # type: ignore[attr-defined]

import samples

# "first": from Parquet, with an empty cache of decoded blocks that is filled on the way. "cached": from that cache.
SURFACES = [f"{epoch} {shape}" for epoch in ("first", "cached") for shape in ("fixed", "packed", "packed, all fields")]
RESUMES = True

_FIELDS = {
    "fixed": ["input_ids", "lengths"],
    "packed": ["input_ids", "cu_seqlens"],
    "packed, all fields": ["input_ids", "cu_seqlens", "position_ids", "doc_ids", "loss_mask"],
}


def prepare(work: Path) -> None:
    tokens, offsets = samples.read(work / "input")
    ids = pa.ListArray.from_arrays(pa.array(offsets.astype("int32")), pa.array(tokens))
    table = pa.table({"id": pa.array(range(len(ids)), pa.int64()), "input_ids": ids})
    _testing.write_corpus(str(work / "warehouse"), "bench", table, ["id"], shards=8, block_rows=samples.BLOCK_ROWS)
    for _ in open(work, "cached fixed", shuffle=False, state=None):
        pass


def reset(work: Path, surface: str) -> None:
    """Empties the cache of decoded blocks before a first epoch; not timed."""
    if surface.startswith("first"):
        shutil.rmtree(work / "blocks-empty", ignore_errors=True)


class _Batches:
    def __init__(self, loader: corpusmill.torch.Loader, shape: str) -> None:
        self._loader, self._shape = loader, shape

    def __iter__(self) -> Iterator[Any]:
        if self._shape == "fixed":
            return ((batch["input_ids"], batch["lengths"]) for batch in self._loader)
        return ((batch["input_ids"], batch["cu_seqlens"]) for batch in self._loader)

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()


def open(work: Path, surface: str, shuffle: bool, state: Any) -> _Batches:
    epoch, shape = surface.split(" ", 1)
    packs = {"pack": samples.PACK, "global_batch": samples.PACKS} if shape != "fixed" else {"global_batch": samples.BATCH}
    plan = corpusmill.Plan(
        "bench@0",
        warehouse=work / "warehouse",
        shuffle=shuffle,
        seed=samples.SEED,
        epochs=1,
        cache_dir=work / ("blocks" if epoch == "cached" else "blocks-empty"),
        **packs,
    )
    loader = corpusmill.torch.Loader(plan, fields=_FIELDS[shape])
    if state is not None:
        loader.load_state_dict(state)
    return _Batches(loader, shape)
