"""The loader bench: CPU time a sample, and time to a first batch, of corpusmill and of what else there is.

Each figure is the best of `ROUNDS` runs, each in a process of its own; within a round all contestants take turns, so
that a busy minute of the machine falls on all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import samples
from table import Row

ROUNDS = int(os.environ.get("CORPUSMILL_BENCH_ROUNDS", "3"))
ORDERS = ("shuffled", "sequential")
OURS = "corpusmill"
PEERS = {
    "pyarrow + StatefulDataLoader": ["fixed"],
    "LitData": ["fixed"],
    "MosaicML Streaming": ["fixed"],
    "mmap, a sample at a time": ["fixed"],
    "mmap, numpy batches": ["fixed", "packed"],
}
RESUMING = ("pyarrow + StatefulDataLoader", "LitData", "MosaicML Streaming")
OUR_SURFACES = [f"{epoch} {shape}" for epoch in ("first", "cached") for shape in ("fixed", "packed", "packed, all fields")]
AIM_US = {"first": 5.0, "cached": 1.0}
AIM_MS = 50.0
TIMEOUT_S = 3600


class BenchError(Exception):
    """A contestant that cannot run, or does other work than the others."""


@dataclass
class LoaderBench:
    """Figures by (name, surface, order), and why a peer has none."""

    work: Path
    us: dict[tuple[str, str, str], float] = field(default_factory=dict)
    ms: dict[tuple[str, str, str], float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def run(self) -> list[Row]:
        """Prepares, checks that all deliver the same samples, measures, and gives the rows of the table."""
        self._prepare()
        self._check()
        for number in range(ROUNDS):
            _say(f"round {number + 1} of {ROUNDS}")
            for name, surface in self._cases():
                try:
                    self._epochs(name, surface)
                    self._starts(name, surface)
                except BenchError as error:
                    self._fail(name, error)
        return self._rows()

    def _cases(self) -> list[tuple[str, str]]:
        peers = [(name, surface) for name, surfaces in PEERS.items() if name not in self.missing for surface in surfaces]
        return [(OURS, surface) for surface in OUR_SURFACES] + peers

    def _prepare(self) -> None:
        stamp = self.work / "prepared.json"
        wanted = {"samples": samples.SAMPLES, "seed": samples.SEED, "format": 1}
        if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
            shutil.rmtree(self.work, ignore_errors=True)
            samples.write(self.work / "input")
            stamp.write_text(json.dumps(wanted))
        for name in (OURS, *PEERS):
            done = self.work / f"{name}.prepared"
            if done.exists() and name != OURS:
                continue
            # Ours is written anew: what it was written by may have changed since.
            if name == OURS:
                for old in ("warehouse", "blocks", "blocks-empty"):
                    shutil.rmtree(self.work / old, ignore_errors=True)
            _say(f"{name}: writing {samples.SAMPLES:,} samples in its format")
            try:
                self._one(name, "prepare")
                done.touch()
            except BenchError as error:
                if name == OURS:
                    raise
                self._miss(name, error)

    def _check(self) -> None:
        """Each contestant gives the same samples, and shuffling changes their order."""
        for name, surface in self._cases():
            found = {order: self._try(name, "check", surface, order) for order in ORDERS}
            if name in self.missing:
                continue
            expected = self._expected()
            for order, tally in found.items():
                # Packs that cut documents are compared by their tokens alone.
                keys = ("tokens",) if tally["samples"] == 0 else ("samples", "tokens", "set")
                wrong = {key: (tally[key], expected[key]) for key in keys if tally[key] != expected[key]}
                if wrong:
                    self._fail(name, BenchError(f"{surface}, {order}: other samples than the input (got, expected): {wrong}"))
            if found["shuffled"]["samples"] and found["shuffled"]["order"] == found["sequential"]["order"]:
                self._fail(name, BenchError(f"{surface}: shuffled is not in another order than sequential"))

    def _expected(self) -> dict[str, Any]:
        tokens, offsets = samples.read(self.work / "input")
        tally = samples.Tally()
        sums = samples.np.add.reduceat(tokens.astype("int64"), offsets[:-1])
        tally.add(sums, samples.np.diff(offsets))
        return tally.result()

    def _epochs(self, name: str, surface: str) -> None:
        """CPU time of an epoch in either order."""
        for order in ORDERS:
            result = self._one(name, "epoch", surface, order)
            _keep_least(self.us, (name, surface, order), result["cpu_us"] / samples.SAMPLES)

    def _starts(self, name: str, surface: str) -> None:
        """Time to the first batch, and in the middle of an epoch."""
        if not surface.endswith("fixed") or name not in (OURS, *RESUMING):
            return
        key = (name, surface, "first batch")
        _keep_least(self.ms, key, self._one(name, "first", surface, "shuffled")["ms"])
        self._one(name, "state", surface, "shuffled")
        resumed = self._one(name, "resume", surface, "shuffled")
        if not resumed["right"]:
            if name == OURS:
                raise BenchError(f"{name}, {surface}: resuming gave another batch than going on")
            self.missing[f"{name}, resume"] = "resumes at another batch than the one that was next"
        _keep_least(self.ms, (name, surface, "resume"), resumed["ms"])

    def _fail(self, name: str, error: BenchError) -> None:
        if name == OURS:
            raise error
        self._miss(name, error)

    def _miss(self, name: str, error: BenchError) -> None:
        self.missing[name] = str(error).strip().splitlines()[-1][:160]
        _say(f"{name} is left out: {error}")

    def _try(self, name: str, what: str, surface: str, order: str) -> dict[str, Any]:
        try:
            return self._one(name, what, surface, order)
        except BenchError as error:
            self._fail(name, error)
            return {}

    def _one(self, name: str, what: str, *rest: str) -> dict[str, Any]:
        command = [sys.executable, str(Path(__file__).parent / "one.py"), str(self.work), name, what, *rest]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{name} {what} {rest}: not done after {TIMEOUT_S} s") from None
        if ran.returncode != 0:
            raise BenchError(f"{name} {what} {rest}: exit status {ran.returncode}\n{ran.stderr[-2000:]}")
        return json.loads(ran.stdout.strip().splitlines()[-1])

    def _rows(self) -> list[Row]:
        rows = []
        for surface in OUR_SURFACES:
            epoch, shape = surface.split(" ", 1)
            for order in ORDERS:
                ours, what = self.us[OURS, surface, order], f"{_epoch(epoch)}, {order}, {shape}"
                rows.append(Row("loader", what, ours, "µs CPU/sample", None, None, AIM_US[epoch]))
                peers = [name for name, surfaces in PEERS.items() if shape.split(",")[0] in surfaces]
                for name in peers:
                    theirs = self.us.get((name, shape.split(",")[0], order))
                    rows.append(Row("loader", what, ours, "µs CPU/sample", name, theirs, None, self.missing.get(name)))
        for surface in (s for s in OUR_SURFACES if s.endswith("fixed")):
            for start in ("first batch", "resume"):
                what = f"{_epoch(surface.split(' ')[0])}, {start}"
                ours = self.ms[OURS, surface, start]
                rows.append(Row("loader", what, ours, "ms", None, None, AIM_MS))
                for name in RESUMING:
                    why = self.missing.get(name) or (self.missing.get(f"{name}, resume") if start == "resume" else None)
                    rows.append(Row("loader", what, ours, "ms", name, self.ms.get((name, "fixed", start)), None, why))
        return rows


def _epoch(name: str) -> str:
    return "first epoch, from Parquet" if name == "first" else "from the decoded cache"


def _keep_least(figures: dict[Any, float], key: Any, value: float) -> None:
    figures[key] = min(value, figures.get(key, value))


def _say(text: str) -> None:
    print(f"    loader: {text}", file=sys.stderr, flush=True)
