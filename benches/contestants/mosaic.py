"""MosaicML Streaming: MDS shards of 64 MB, its default shuffle (py1e), its own StreamingDataLoader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

import samples
from contestants import collate

SURFACES = ["fixed"]
RESUMES = True


def prepare(work: Path) -> None:
    tokens, offsets = samples.read(work / "input")
    with MDSWriter(out=str(work / "mds"), columns={"input_ids": "ndarray:int32"}, size_limit=64 << 20) as out:
        for number in range(samples.SAMPLES):
            out.write({"input_ids": tokens[offsets[number] : offsets[number + 1]]})


def reset(work: Path, surface: str) -> None:
    """Removes shared memory of a run that was killed; not timed."""
    clean_stale_shared_memory()


def _collate(rows: list[dict[str, Any]]) -> Any:
    return collate([row["input_ids"] for row in rows])


def open(work: Path, surface: str, shuffle: bool, state: Any) -> StreamingDataLoader:
    dataset = StreamingDataset(
        local=str(work / "mds"), shuffle=shuffle, shuffle_seed=samples.SEED, batch_size=samples.BATCH, num_canonical_nodes=1
    )
    loader = StreamingDataLoader(dataset, batch_size=samples.BATCH, num_workers=0, collate_fn=_collate)
    if state is not None:
        loader.load_state_dict(state)
    return loader
