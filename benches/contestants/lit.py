"""LitData: chunks of 64 MB, arrays stored without a header, its own StreamingDataLoader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litdata
import numpy as np

import samples
from contestants import collate

SURFACES = ["fixed"]
RESUMES = True


class _Write:
    """Gives the samples of a range; litdata calls it in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, first: int) -> Any:
        tokens, offsets = samples.read(self._folder)
        for number in range(first, min(first + 4096, samples.SAMPLES)):
            yield np.array(tokens[offsets[number] : offsets[number + 1]])


def prepare(work: Path) -> None:
    firsts = list(range(0, samples.SAMPLES, 4096))
    litdata.optimize(
        fn=_Write(work / "input"), inputs=firsts, output_dir=str(work / "litdata"), num_workers=1, chunk_bytes="64MB"
    )


def open(work: Path, surface: str, shuffle: bool, state: Any) -> litdata.StreamingDataLoader:
    dataset = litdata.StreamingDataset(str(work / "litdata"), shuffle=shuffle, seed=samples.SEED)
    loader = litdata.StreamingDataLoader(dataset, batch_size=samples.BATCH, num_workers=0, collate_fn=collate)
    if state is not None:
        loader.load_state_dict(state)
    return loader
