"""The cluster bench: what corpusmill adds to its engine, and what a cluster adds to one process, on the same two cores.

* queries: `corpusmill run` against DataFusion's own Python package (the same version of the engine), whole processes,
  the time of a process that runs ``SELECT 1`` subtracted from both;
* examples/moderation.sql: embedded, and submitted to 1, 2 and 4 workers that share two task slots (four have one each);
* the same on two workers, one of which is killed with -9 in the middle and replaced;
* planning: ``EXPLAIN REFRESH CORPUS`` over 10,000 input files and 1,000 shards;
* memory: a build whose input is ten times its memory limit, its peak against that limit.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from loader_bench import ROUNDS, BenchError
from table import Row

POSTS = int(os.environ.get("CORPUSMILL_BENCH_CLUSTER_POSTS", "300000"))
FILES = int(os.environ.get("CORPUSMILL_BENCH_FILES", "10000"))
SHARDS = int(os.environ.get("CORPUSMILL_BENCH_SHARDS", "1000"))
# Decoded input of the memory bench. A batch of texts is counted with the pages that it is a part of, some 10 MB.
LONG_MB = int(os.environ.get("CORPUSMILL_BENCH_LONG_MB", "2560"))
PARTITIONS = 2
EMBEDDED_MAX, CLUSTER_MAX, KILL_MAX = 1.05, 1.5, 1.3
MODERATION = Path(__file__).parents[1] / "examples" / "moderation.sql"
# Each many times, so that the engine and not the start of a process is measured.
QUERIES = {
    "aggregate": "SELECT policy_version, decision, count(*) AS n, count(DISTINCT moderator_id) AS m, min(voted_at) AS t"
    " FROM votes GROUP BY policy_version, decision",
    "join": "SELECT p.lang, v.decision, count(*) AS n FROM posts p JOIN votes v ON v.post_id = p.post_id"
    " JOIN users u ON u.user_id = p.user_id WHERE u.followers > 10 GROUP BY p.lang, v.decision",
    "window": "SELECT count(*) AS n FROM (SELECT post_id, row_number() OVER (PARTITION BY user_id ORDER BY created_at,"
    " post_id) AS place FROM posts) WHERE place = 1",
    "top": "SELECT post_id, length(body) AS n FROM posts ORDER BY n DESC, post_id LIMIT 100",
    "text": "SELECT count(*) AS n FROM posts WHERE lower(body) LIKE '%spam%' OR body LIKE '%http%'",
}
REPEATS = int(os.environ.get("CORPUSMILL_BENCH_REPEATS", "10"))
PEER = """
import sys
import datafusion
context = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(int(sys.argv[2])))
for table in ("posts", "votes", "users"):
    context.register_parquet(table, f"{sys.argv[1]}/{table}/")
for _ in range(int(sys.argv[3])):
    context.sql(sys.argv[4]).collect()
"""


@dataclass
class ClusterBench:
    """Best wall seconds by name."""

    work: Path
    binary: Path
    best: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def run(self) -> list[Row]:
        """Generates the input, runs all in turns, and gives the rows of the table."""
        self.input = self.work / "input"
        if not (self.input / "dataset.json").exists():
            shutil.rmtree(self.work, ignore_errors=True)
            self._run([str(self.binary), "generate", "--posts", str(POSTS), "--seed", "1", "--out", str(self.input)])
        rows: list[Row] = []
        for number in range(ROUNDS):
            print(f"    cluster: round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            self._queries()
            self._builds()
        rows += self._query_rows() + self._build_rows()
        print("    cluster: planning and memory", file=sys.stderr, flush=True)
        return rows + self._planning() + self._memory()

    def _queries(self) -> None:
        home = self.work / "queries"
        tables = "".join(
            f"CREATE EXTERNAL TABLE IF NOT EXISTS {name} STORED AS PARQUET LOCATION '{self.input}/{name}/';"
            for name in ("posts", "votes", "users")
        )
        self._run([*self._embedded(home), "-c", tables])
        for name, query in {"nothing": "SELECT 1", **QUERIES}.items():
            ours = [*self._embedded(home), "-o", "csv", "-c", f"{query};" * REPEATS]
            self._keep(f"ours {name}", self._timed(ours))
            peer = [sys.executable, "-c", PEER, str(self.input), str(PARTITIONS), str(REPEATS), query]
            try:
                self._keep(f"peer {name}", self._timed(peer))
            except BenchError as error:
                self.missing[name] = str(error).strip().splitlines()[-1][:160]

    def _query_rows(self) -> list[Row]:
        rows, ours_all, peer_all = [], 0.0, 0.0
        for name in QUERIES:
            ours = self.best[f"ours {name}"] - self.best["ours nothing"]
            peer = self.best.get(f"peer {name}")
            peer = None if peer is None or name in self.missing else peer - self.best["peer nothing"]
            ours_all, peer_all = ours_all + ours, peer_all + (peer or 0.0)
            note = self.missing.get(name)
            rows.append(Row("cluster", f"{name} × {REPEATS}, embedded", ours, "s", "DataFusion", peer, None, note))
        if not self.missing:
            rows.append(Row("cluster", "all queries, over DataFusion", ours_all / peer_all, "×", None, None, EMBEDDED_MAX))
        return rows

    def _builds(self) -> None:
        self._keep("embedded", self._timed([*self._embedded(self._home()), str(MODERATION)], cwd=self.work))
        for workers in (1, 2, 4):
            with Cluster(self._home(), self.binary, self.work) as cluster:
                for _ in range(workers):
                    cluster.worker(max(1, PARTITIONS // workers))
                self._keep(f"{workers} workers", self._timed(cluster.submit(), cwd=self.work))
        with Cluster(self._home(), self.binary, self.work) as cluster:
            victim = cluster.worker(1)
            cluster.worker(1)
            killer = threading.Timer(self.best["2 workers"] / 2, lambda: cluster.replace(victim))
            killer.start()
            try:
                self._keep("one kill", self._timed(cluster.submit(), cwd=self.work))
            finally:
                killer.cancel()
                killer.join()

    def _build_rows(self) -> list[Row]:
        what, embedded = "examples/moderation.sql", self.best["embedded"]
        rows = [Row("cluster", f"{what}, embedded", embedded, "s", None, None, None)]
        for workers in (1, 2, 4):
            took = self.best[f"{workers} workers"]
            note = f"{took:.2f} s"
            rows.append(Row("cluster", f"{what}, {workers} workers, over embedded", took / embedded, "×", None, None, CLUSTER_MAX, note))
        took = self.best["one kill"]
        rows.append(Row("cluster", f"{what}, a worker killed, over none", took / self.best["2 workers"], "×", None, None, KILL_MAX, f"{took:.2f} s"))
        return rows

    def _planning(self) -> list[Row]:
        folder = self.work / f"files-{FILES}"
        if not folder.exists():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            for number in range(FILES):
                pq.write_table(pa.table({"post_id": [number], "body": [f"post {number}"]}), part / f"{number}.parquet")
            part.rename(folder)
        home = self._home()
        made = (
            f"CREATE EXTERNAL TABLE many STORED AS PARQUET LOCATION '{folder}/';"
            f"CREATE CORPUS c (PRIMARY KEY (post_id)) WITH (shards = {SHARDS}) AS SELECT post_id, body FROM many"
        )
        build = self._timed([*self._embedded(home), "-c", made])
        explain = [*self._embedded(home), "-o", "csv", "-c", "EXPLAIN REFRESH CORPUS c FULL"]
        took = min(self._timed(explain) for _ in range(ROUNDS))
        note = f"the build itself: {build:.1f} s"
        return [Row("cluster", f"planning {FILES:,} files, {SHARDS:,} shards", took, "s", None, None, None, note)]

    def _memory(self) -> list[Row]:
        folder = self.work / f"long-{LONG_MB}"
        decoded = LONG_MB << 20
        if not folder.exists():
            write_long_posts(folder, decoded)
        limit = decoded // 10
        sql = (
            f"CREATE EXTERNAL TABLE posts STORED AS PARQUET LOCATION '{folder}/';"
            "CREATE CORPUS sorted (PRIMARY KEY (post_id)) WITH (shards = 2) AS SELECT * FROM"
            " exact_duplicates(TABLE posts, key => 'post_id', columns => ['body'])"
        )
        home = self._home()
        floor = peak_bytes([*self._embedded(home), "-c", "SELECT 1"])
        what = f"peak over an idle process, limit {limit >> 20} MB"
        try:
            peak = peak_bytes([*self._embedded(home), "--memory-limit", f"{limit >> 20}M", "-c", sql])
        except BenchError as error:
            return [Row("cluster", what, None, "× limit", None, None, 1.0, str(error).strip().splitlines()[-1][-200:])]
        note = f"{decoded >> 20} MB decoded; the process alone is {floor >> 20} MB"
        return [Row("cluster", what, (peak - floor) / limit, "× limit", None, None, 1.0, note)]

    def _home(self) -> Path:
        home = self.work / "home"
        shutil.rmtree(home, ignore_errors=True)
        return home

    def _embedded(self, home: Path) -> list[str]:
        return [str(self.binary), "run", "--quiet", "--home", str(home), "--target-partitions", str(PARTITIONS)]

    def _keep(self, name: str, seconds: float) -> None:
        self.best[name] = min(seconds, self.best.get(name, seconds))

    def _timed(self, command: list[str], cwd: Path | None = None) -> float:
        began = time.perf_counter()
        self._run(command, cwd)
        return time.perf_counter() - began

    def _run(self, command: list[str], cwd: Path | None = None) -> None:
        threads = {"TOKIO_WORKER_THREADS": str(PARTITIONS), "RAYON_NUM_THREADS": str(PARTITIONS)}
        ran = subprocess.run(command, cwd=cwd, env=os.environ | threads, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if ran.returncode != 0:
            raise BenchError(f"{' '.join(command[:2])}: exit status {ran.returncode}\n{ran.stderr[-2000:]}")


class Worker:
    """A worker that takes part."""

    def __init__(self, process: subprocess.Popen[str], flight: bool) -> None:
        self.process, self.address = process, ""
        assert process.stderr is not None
        joined = False
        for line in process.stderr:
            joined |= "joined as" in line
            found = re.search(r"serves Arrow Flight address=(\S+)", line)
            self.address = found[1] if found else self.address
            if joined and bool(self.address) == flight:
                break
        else:
            raise BenchError("a worker did not join")
        # Nobody reads on, and a full pipe would stop it.
        threading.Thread(target=process.stderr.read, daemon=True).start()


class Cluster:
    """A coordinator and workers as processes; they end with the block."""

    def __init__(self, home: Path, binary: Path, folder: Path, *options: str) -> None:
        self.home, self.binary, self.folder, self.options = home, binary, folder, options
        self.processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Cluster:
        home = ["--home", str(self.home), *self.options]
        coordinator = self._start("coordinator", *home, "--listen", "127.0.0.1:0", "--target-partitions", str(PARTITIONS))
        assert coordinator.stdout is not None
        self.address = coordinator.stdout.readline().strip()
        if not self.address.startswith("http"):
            raise BenchError("the coordinator did not start")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def _start(self, *arguments: str, log: str = "error") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(self.binary), *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"CORPUSMILL_LOG": log},
        )
        self.processes.append(process)
        return process

    def worker(self, vcores: int, *more: str) -> Worker:
        """Starts a worker, and waits until it takes part."""
        options = ["--coordinator", self.address, "--vcores", str(vcores), "--work-dir", str(self.folder / "work"), *more]
        flight = "--flight" in more
        process = self._start("worker", *options, log="error,corpusmill_worker=info" if flight else "error")
        return Worker(process, flight)

    def cpu_us(self) -> float:
        """CPU time of the processes so far, µs, those that were killed left out."""
        total = 0
        for process in self.processes:
            try:
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK") * 1e6

    def replace(self, victim: Worker) -> None:
        """Kills a worker with -9, and starts another."""
        victim.process.send_signal(signal.SIGKILL)
        self.worker(1)

    def submit(self) -> list[str]:
        return [str(self.binary), "submit", "--quiet", "--coordinator", self.address, str(MODERATION)]


def write_long_posts(folder: Path, decoded: int) -> None:
    """Posts of 400 random letters, in files of 16 MB; about every tenth is there twice."""
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    chance = random.Random(7)
    for number in range(decoded // (16 << 20)):
        posts = range(number * 40_960, (number + 1) * 40_960)
        letters = chance.randbytes(200 * len(posts)).hex()
        bodies = [letters[at * 400 : (at + 1) * 400] for at in range(len(posts))]
        bodies[::10] = bodies[1::10][: len(bodies[::10])]
        pq.write_table(pa.table({"post_id": list(posts), "body": bodies}), part / f"{number}.parquet", compression="none")
    part.rename(folder)


def peak_bytes(command: list[str]) -> int:
    """The most memory that a command held at once (its VmHWM, read until it ends)."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        peak = max(peak, int(found[1]) << 10) if found else peak
        time.sleep(0.005)
    assert process.stderr is not None
    told = process.stderr.read()
    if process.wait() != 0:
        raise BenchError(f"{' '.join(command[:2])}: exit status {process.returncode}\n{told[-2000:]}")
    return peak
