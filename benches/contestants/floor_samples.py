"""The floor: memory-mapped tokens, copied out a sample at a time in Python, then collated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import samples
from contestants import collate

SURFACES = ["fixed"]
RESUMES = False


def prepare(work: Path) -> None:
    """The input is its format."""


def open(work: Path, surface: str, shuffle: bool, state: Any) -> Iterator[Any]:
    tokens, offsets = samples.read(work / "input")
    rng = np.random.default_rng(samples.SEED)
    order = rng.permutation(samples.SAMPLES) if shuffle else np.arange(samples.SAMPLES)
    pending = []
    for number in order.tolist():
        pending.append(np.array(tokens[offsets[number] : offsets[number + 1]]))
        if len(pending) == samples.BATCH:
            yield collate(pending)
            pending = []
    if pending:
        yield collate(pending)
