"""Runs one contestant once, in a process of its own, and prints what was measured as a line of JSON.

    python one.py WORK NAME prepare
    python one.py WORK NAME check|epoch|first|state|resume SURFACE shuffled|sequential

``epoch`` counts CPU time (user and system, all threads and finished children) from behind the imports to the end of the
epoch: opening what is read and shuffling are in it. ``first`` and ``resume`` time how long the first
batch takes, ``state`` leaves the state of the middle of an epoch for ``resume``.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import resource
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

import contestants
import samples


def cpu_us() -> float:
    """CPU time of this process and its finished children, µs."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) * 1e6


class _Case:
    def __init__(self, contestant: ModuleType, work: Path, surface: str, shuffle: bool) -> None:
        self._contestant, self._work, self._surface, self._shuffle = contestant, work, surface, shuffle
        order = "shuffled" if shuffle else "sequential"
        self._saved = work / f"state {contestant.__name__} {surface} {order}.pickle"

    def _open(self, state: Any = None) -> Any:
        return self._contestant.open(self._work, self._surface, self._shuffle, state)

    def epoch(self) -> dict[str, Any]:
        """CPU and wall time of one epoch."""
        cpu, wall, batches = cpu_us(), time.perf_counter(), 0
        for _ in self._open():
            batches += 1
        gc.collect()
        return {"cpu_us": cpu_us() - cpu, "wall_s": time.perf_counter() - wall, "batches": batches}

    def check(self) -> dict[str, Any]:
        """What was delivered: each sample once?"""
        tally = samples.Tally()
        for ids, second in self._open():
            ids, flat = ids.numpy(), ids.numpy().reshape(-1)
            if self._surface.endswith("fixed"):
                tally.add(ids.sum(axis=1, dtype=np.int64), second.numpy())
            elif second is not None:
                bounds = second.numpy()
                sums = np.add.reduceat(flat.astype(np.int64), bounds[:-1])
                # Padding is a segment of zeros; ids of samples begin at 1.
                tally.add(sums[sums > 0], np.diff(bounds)[sums > 0])
            else:
                tally.tokens += int(np.count_nonzero(flat))
        return tally.result()

    def first(self) -> dict[str, Any]:
        """Time from nothing open to the first batch."""
        return self._first(None)

    def state(self) -> dict[str, Any]:
        """Takes half an epoch and keeps the state, with the batch that follows it."""
        batches = self._open()
        taken: Iterator[Any] = iter(batches)
        for _ in islice(taken, samples.SAMPLES // samples.BATCH // 2):
            pass
        state = batches.state_dict()
        self._saved.write_bytes(pickle.dumps((state, next(taken)[0].numpy().copy())))
        return {}

    def resume(self) -> dict[str, Any]:
        """Time from nothing open to the first batch after the middle, and whether it is the right one."""
        state, expected = pickle.loads(self._saved.read_bytes())
        return self._first(state, expected)

    def _first(self, state: Any, expected: np.ndarray | None = None) -> dict[str, Any]:
        wall = time.perf_counter()
        batches = iter(self._open(state))
        ids = next(batches)[0].numpy()
        wall = time.perf_counter() - wall
        right = expected is None or (ids.shape == expected.shape and bool((ids == expected).all()))
        return {"ms": wall * 1e3, "right": right}


def main() -> None:
    work, name, what, *rest = sys.argv[1:]
    contestant = contestants.load(name)
    torch.set_num_threads(2)
    # What peers print while they prepare or iterate is not ours to hand on.
    with contextlib.redirect_stdout(sys.stderr):
        if what == "prepare":
            result = contestant.prepare(Path(work)) or {}
        else:
            surface, order = rest
            if hasattr(contestant, "reset"):
                contestant.reset(Path(work), surface)
            result = getattr(_Case(contestant, Path(work), surface, order == "shuffled"), what)()
    print(json.dumps(result), flush=True)
    # Peers leave threads and shared memory behind whose clean-up may hang; the measurement is over.
    os._exit(0)


if __name__ == "__main__":
    main()
