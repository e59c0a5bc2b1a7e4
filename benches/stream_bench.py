"""The stream bench: what batches cost on their way from a worker to a trainer, on one machine.

* transports: `transport_speed` (CPU time of both sides, against a copy in memory and against bare sockets);
* a trainer's CPU time a sample, served and reading itself from decoded blocks; that of trainer and worker together a
  gigabyte, over shared memory, TCP and Arrow Flight;
* samples a second of 1, 4 and 8 ranks; the time to a first batch; the longest pause when the worker is killed;
* how much a trainer waits that needs 50, 80 and 95 % of what the service gives.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster_bench import Cluster
from loader_bench import ROUNDS, BenchError, LoaderBench
from table import Row

GIGABYTES = os.environ.get("CORPUSMILL_BENCH_GIGABYTES", "2")
RANKS = (1, 4, 8)
SHARES = (0.5, 0.8, 0.95)
SHM_MAX, TCP_MAX = 1.3, 1.2


@dataclass
class StreamBench:
    """Least figures by name."""

    work: Path
    binary: Path
    transport_speed: Path
    loader: LoaderBench
    best: dict[str, float] = field(default_factory=dict)

    def run(self) -> list[Row]:
        """Writes the loader bench's corpus where it is missing, measures in turns, and gives the rows of the table."""
        if not (self.loader.work / "warehouse").exists():
            self.loader._prepare()
        self.work.mkdir(parents=True, exist_ok=True)
        rows = self._transports()
        home = self.work / "home"
        warehouse = ["--warehouse", str(self.loader.work / "warehouse")]
        with Cluster(home, self.binary, self.work, *warehouse) as cluster:
            self.cluster = cluster
            # The second one is there to go on when the first is killed.
            cluster.worker(1)
            self.flight = cluster.worker(1, "--flight", "127.0.0.1:0").address
            self._trainer(source=True)
            for number in range(ROUNDS):
                print(f"    stream: round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
                self._round()
            return rows + self._rows() + self._waiting()

    def _transports(self) -> list[Row]:
        ran = subprocess.run([str(self.transport_speed), GIGABYTES], capture_output=True, text=True)
        if ran.returncode != 0:
            raise BenchError(f"transport_speed: exit status {ran.returncode}\n{ran.stderr[-2000:]}")
        line = re.compile(r" *(\d+) MB  (.{22}) *([\d.]+) +([\d.]+) (memcpy|raw) +([\d.]+) +([\d.]+)")
        found = {(m[1], m[2].strip()): m for m in map(line.fullmatch, ran.stdout.splitlines()) if m}
        rows = []
        for (size, name), m in found.items():
            base = found[size, "memcpy" if m[5] == "memcpy" else "raw tcp"]
            if m is base:
                continue
            aim = {"shm": SHM_MAX, "tcp": TCP_MAX}.get(name)
            note = f"{m[3]} against {base[3]} ms CPU/GB; {m[6]} ms a batch"
            peer = "memcpy" if m[5] == "memcpy" else "bare sockets"
            rows.append(Row("stream", f"{name}, {size} MB, over {peer}", float(m[4]), "×", None, None, aim, note))
        if not rows:
            raise BenchError(f"transport_speed printed something else:\n{ran.stdout[-2000:]}")
        return rows

    def _round(self) -> None:
        for name, how in {"local": {}, "shm": {"transport": "shm"}, "tcp": {"transport": "tcp"}}.items():
            before = self.cluster.cpu_us()
            got = self._trainer(source=bool(how), **how)
            self._keep(f"{name} trainer", got["cpu_us"] / got["samples"])
            if how:
                both = got["cpu_us"] + self.cluster.cpu_us() - before
                self._keep(f"{name} both", both / 1e3 / (got["bytes"] / 1e9))
                self._keep(f"{name} first", got["first_s"] * 1e3)
        before = self.cluster.cpu_us()
        got = self._trainer(flight=self.flight)
        self._keep("flight both", (got["cpu_us"] + self.cluster.cpu_us() - before) / 1e3 / (got["bytes"] / 1e9))
        for ranks in RANKS:
            self._keep(f"{ranks} ranks", -self._throughput(ranks))
        # The other worker has no blocks open yet; a new one takes the place of the killed.
        got = self._trainer(source=True, kill_after=20)
        if got["failovers"] < 1:
            raise BenchError("nobody noticed that the worker was killed")
        self._keep("failover", got["longest_s"] * 1e3)
        self.flight = self.cluster.worker(1, "--flight", "127.0.0.1:0").address

    def _rows(self) -> list[Row]:
        best = self.best
        rows = []
        for name in ("shm", "tcp"):
            served, local = best[f"{name} trainer"], best["local trainer"]
            rows.append(Row("stream", f"trainer, {name}", served, "µs CPU/sample", "reading itself, decoded", local, None))
        for name in ("shm", "tcp"):
            both, flight = best[f"{name} both"], best["flight both"]
            rows.append(Row("stream", f"trainer and worker, {name}", both, "ms CPU/GB", "Arrow Flight", flight, None))
        rows += [Row("stream", f"first batch, {name}", best[f"{name} first"], "ms", None, None, None) for name in ("shm", "tcp")]
        rows += [Row("stream", f"{n} ranks together", -best[f"{n} ranks"], "samples/s", None, None, None) for n in RANKS]
        return [*rows, Row("stream", "longest pause when the worker is killed", best["failover"], "ms", None, None, None)]

    def _waiting(self) -> list[Row]:
        """A trainer that computes for so long that the service would be busy for a share of the time."""
        got = self._trainer(source=True)
        capacity_s = got["wall_s"] / got["batches"]
        rows = []
        for share in SHARES:
            waited = self._trainer(source=True, pause_s=capacity_s / share)["wait_share"]
            what = f"a trainer that needs {share:.0%} of the service waits"
            rows.append(Row("stream", what, waited * 100, "% of its time", None, None, None))
        return rows

    def _throughput(self, ranks: int) -> float:
        """Samples a second of so many ranks that begin together."""
        running = [self._start(source=True, rank=rank, world=ranks) for rank in range(ranks)]
        for one in running:
            assert one.stdout is not None and one.stdout.readline() == "ready\n"
        for one in running:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        got = [self._end(one) for one in running]
        return sum(one["samples"] for one in got) / max(one["wall_s"] for one in got)

    def _trainer(self, **how: Any) -> dict[str, Any]:
        return self._end(self._start(**how))

    def _start(self, source: bool = False, rank: int = 0, world: int = 1, **how: Any) -> subprocess.Popen[str]:
        wanted = {
            "warehouse": str(self.loader.work / "warehouse"),
            "cache_dir": str(self.loader.work / "blocks"),
            "source": self.cluster.address.replace("http://", "corpusmill://") if source else None,
            "rank": rank,
            "world": world,
            **how,
        }
        command = [sys.executable, str(Path(__file__).parent / "trainer.py"), json.dumps(wanted)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _end(self, running: subprocess.Popen[str]) -> dict[str, Any]:
        out, err = running.communicate("\n")
        if running.returncode != 0:
            raise BenchError(f"trainer: exit status {running.returncode}\n{err[-2000:]}")
        measured: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return measured

    def _keep(self, name: str, value: float) -> None:
        self.best[name] = min(value, self.best.get(name, value))
