"""pyarrow over Parquet in pyarrow's defaults (but row groups of 1,024 rows), in torchdata's StatefulDataLoader.

Shuffled: row groups in random order, and rows at random in a window of eight of them, as corpusmill does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

import samples
from contestants import collate

SURFACES = ["fixed"]
RESUMES = True
WINDOW = 8


def prepare(work: Path) -> None:
    tokens, offsets = samples.read(work / "input")
    ids = pa.ListArray.from_arrays(pa.array(offsets.astype("int32")), pa.array(tokens))
    pq.write_table(pa.table({"input_ids": ids}), work / "samples.parquet", row_group_size=samples.BLOCK_ROWS)


class _Rows(IterableDataset):
    """The samples in order; its state is how many it has given, and windows before that are not read again."""

    def __init__(self, path: Path, shuffle: bool) -> None:
        self._path, self._shuffle = path, shuffle
        self._given = self._resume_at = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        file = pq.ParquetFile(self._path)
        rng = np.random.default_rng(samples.SEED)
        groups = np.arange(file.num_row_groups)
        if self._shuffle:
            rng.shuffle(groups)
        resume_at, self._resume_at, self._given = self._resume_at, 0, 0
        for first in range(0, len(groups), WINDOW):
            window = groups[first : first + WINDOW].tolist()
            rows = sum(file.metadata.row_group(group).num_rows for group in window)
            order = rng.permutation(rows) if self._shuffle else np.arange(rows)
            if self._given + rows <= resume_at:
                self._given += rows
                continue
            column = file.read_row_groups(window, columns=["input_ids"]).column(0).combine_chunks()
            values, offsets = column.values.to_numpy(), column.offsets.to_numpy()
            skipped = max(resume_at - self._given, 0)
            self._given += skipped
            for row in order[skipped:].tolist():
                self._given += 1
                yield values[offsets[row] : offsets[row + 1]]

    def state_dict(self) -> dict[str, int]:
        return {"given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume_at = state["given"]


def open(work: Path, surface: str, shuffle: bool, state: Any) -> StatefulDataLoader:
    rows = _Rows(work / "samples.parquet", shuffle)
    loader = StatefulDataLoader(rows, batch_size=samples.BATCH, num_workers=0, collate_fn=collate)
    if state is not None:
        loader.load_state_dict(state)
    return loader
