"""What the loader bench compares: one file each, and one line in `CONTESTANTS`.

A contestant is a module with
  ``prepare(work)``                       writes the samples of ``work / "input"`` in its own format, once
  ``SURFACES``                            names of what it can deliver, see below
  ``open(work, surface, shuffle, state)`` gives an iterable of batches, with ``state_dict()`` if ``RESUMES``

Surfaces, all over torch tensors on the CPU:
  ``fixed``   batches of 256 samples: ids [256, longest] int32 padded with 0, and lengths [256]
  ``packed``  batches of 16 packs: ids [16, 8192] int32, and the bounds of documents where the contestant knows them
"""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import torch

# name in the table -> module
CONTESTANTS = {
    "corpusmill": "ours",
    "mmap, a sample at a time": "floor_samples",
    "mmap, numpy batches": "floor_batches",
    "pyarrow + StatefulDataLoader": "parquet",
    "LitData": "lit",
    "MosaicML Streaming": "mosaic",
}


def load(name: str) -> ModuleType:
    """Imports a contestant by its name in the table."""
    return importlib.import_module(f"contestants.{CONTESTANTS[name]}")


def collate(samples: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples as one padded batch: what the peers' data loaders are given as their collate function."""
    lengths = np.fromiter(map(len, samples), dtype=np.int32, count=len(samples))
    ids = np.zeros((len(samples), lengths.max()), dtype=np.int32)
    for row, sample in zip(ids, samples, strict=True):
        row[: len(sample)] = sample
    return torch.from_numpy(ids), torch.from_numpy(lengths)
