"""The input of the loader bench: token sequences of 64 to 1,024 ids, the same bytes on every machine."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

SAMPLES = int(os.environ.get("CORPUSMILL_BENCH_SAMPLES", "200000"))
SEED = 7
SHORTEST, LONGEST = 64, 1024
VOCABULARY = 50_000
BATCH = 256
PACK, PACKS = 8192, 16
BLOCK_ROWS = 1024


def write(folder: Path) -> None:
    """Writes ``tokens.bin`` (int32, one sequence after the other) and ``offsets.npy`` (int64, [samples + 1])."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    lengths = rng.integers(SHORTEST, LONGEST, SAMPLES, endpoint=True)
    offsets = np.zeros(SAMPLES + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    with (folder / "tokens.bin").open("wb") as out:
        for start in range(0, SAMPLES, 4096):
            tokens = int(offsets[min(start + 4096, SAMPLES)] - offsets[start])
            # Frequent ids are small ones, as in a trained vocabulary: uniform ids would compress like no text does.
            out.write((VOCABULARY ** rng.random(tokens)).astype(np.int32).tobytes())
    np.save(folder / "offsets.npy", offsets)


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Maps the tokens and reads the offsets that `write` wrote."""
    return np.memmap(folder / "tokens.bin", dtype=np.int32, mode="r"), np.load(folder / "offsets.npy")


class Tally:
    """Counts samples and tokens, with a fingerprint that does not depend on the order of samples, and one that does."""

    def __init__(self) -> None:
        self.samples = self.tokens = 0
        self._set = self._order = np.uint64(0)

    def add(self, sums: np.ndarray, lengths: np.ndarray) -> None:
        """Adds samples by the sum of their ids and their lengths; int64, [N] both."""
        with np.errstate(over="ignore"):
            mixed = sums.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ lengths.astype(np.uint64)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            places = np.arange(self.samples, self.samples + len(sums), dtype=np.uint64)
            self._set += mixed.sum()
            self._order += (mixed * (places * np.uint64(2) + np.uint64(1))).sum()
        self.samples += len(sums)
        self.tokens += int(lengths.sum())

    def result(self) -> dict[str, int | str]:
        """The counts and fingerprints, as JSON."""
        return {"samples": self.samples, "tokens": self.tokens, "set": f"{self._set:016x}", "order": f"{self._order:016x}"}
