"""The floor without a Python object for each sample: mapped tokens, copied straight into a batch that is used again.

Packs are what most training scripts make: documents one after the other, cut where a pack is full.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import samples

SURFACES = ["fixed", "packed"]
RESUMES = False


def prepare(work: Path) -> None:
    """The input is its format."""


def open(work: Path, surface: str, shuffle: bool, state: Any) -> Iterator[Any]:
    mapped, offsets = samples.read(work / "input")
    # A plain array over the same map: slices of a memmap object cost a microsecond more.
    tokens = np.asarray(mapped)
    rng = np.random.default_rng(samples.SEED)
    order = rng.permutation(samples.SAMPLES) if shuffle else np.arange(samples.SAMPLES)
    starts, lengths = offsets[order], np.diff(offsets)[order]
    return (_fixed if surface == "fixed" else _packed)(tokens, starts, lengths)


def _fixed(tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Iterator[Any]:
    buffer = np.empty(samples.BATCH * samples.LONGEST, dtype=np.int32)
    for first in range(0, len(starts), samples.BATCH):
        of = slice(first, first + samples.BATCH)
        width = int(lengths[of].max())
        rows = len(lengths[of])
        ids = buffer[: rows * width].reshape(rows, width)
        for row, start, length in zip(ids, starts[of].tolist(), lengths[of].tolist(), strict=True):
            row[:length] = tokens[start : start + length]
            row[length:] = 0
        yield torch.from_numpy(ids), torch.from_numpy(lengths[of].astype(np.int32))


def _packed(tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Iterator[Any]:
    size = samples.PACK * samples.PACKS
    buffer, filled = np.empty(size, dtype=np.int32), 0
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        fits = min(length, size - filled)
        buffer[filled : filled + fits] = tokens[start : start + fits]
        filled += fits
        if filled == size:
            yield torch.from_numpy(buffer.reshape(samples.PACKS, samples.PACK)), None
            filled = length - fits
            buffer[:filled] = tokens[start + fits : start + length]
    buffer[filled:] = 0
    yield torch.from_numpy(buffer.reshape(samples.PACKS, samples.PACK)), None
