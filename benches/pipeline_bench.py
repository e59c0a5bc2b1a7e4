"""The pipeline bench: posts in Parquet become a corpus of token ids, against the same job in Python.

Whole processes are timed, start to end, as a person runs them; all with two threads. Ours does more: rows are placed by
the hash of their key, digested and committed as a version.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from loader_bench import ROUNDS, BenchError
from table import Row

POSTS = int(os.environ.get("CORPUSMILL_BENCH_POSTS", "300000"))
THREADS = 2
PEERS = ("duckdb", "polars")
# `normalize_text` knows more than a few lines of Python (variation selectors, joiners, nested references): so many
# rows at least must agree for the work to count as the same.
AGREE_MIN = 0.98
SQL = """
CREATE EXTERNAL TABLE posts STORED AS PARQUET LOCATION '{source}/posts/';
CREATE TOKENIZER wordpiece WITH (uri = '{source}/tokenizer.json', max_length = 128);
CREATE CORPUS tokens (PRIMARY KEY (post_id)) WITH (shards = 2) AS
SELECT post_id, {column} FROM
  (SELECT min(post_id) AS post_id, body FROM (SELECT post_id, normalize_text(body, 'NFKC') AS body FROM posts) GROUP BY body);
"""


@dataclass
class PipelineBench:
    """Wall and CPU seconds by name; ``ours, no tokens`` is the same pipeline that writes the text instead."""

    work: Path
    binary: Path
    wall_s: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    agree: dict[str, float] = field(default_factory=dict)

    def run(self) -> list[Row]:
        """Generates posts, runs all, compares what they wrote, and gives the rows of the table."""
        source = self.work / "input"
        if not (source / "dataset.json").exists():
            shutil.rmtree(self.work, ignore_errors=True)
            self._timed([str(self.binary), "generate", "--posts", str(POSTS), "--seed", "1", "--out", str(source)])
        for number in range(ROUNDS):
            print(f"    pipeline: round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            self._ours("ours", "tokenize(body, 'wordpiece') AS input_ids")
            self._ours("ours, no tokens", "body")
            for peer in PEERS:
                if peer not in self.missing:
                    self._peer(peer)
            if number == 0:
                self._compare()
        return self._rows()

    def _ours(self, name: str, column: str) -> None:
        home = self.work / name.replace(", ", "-").replace(" ", "-")
        shutil.rmtree(home, ignore_errors=True)
        sql = SQL.format(source=self.work / "input", column=column)
        command = [str(self.binary), "run", "--quiet", "--home", str(home), "--target-partitions", str(THREADS), "-c", sql]
        self._keep(name, self._timed(command))

    def _peer(self, name: str) -> None:
        script = str(Path(__file__).parent / "pipeline_peer.py")
        target = self.work / f"{name}.parquet"
        try:
            self._keep(name, self._timed([sys.executable, script, name, str(self.work / "input"), str(target)]))
        except BenchError as error:
            self.missing[name] = str(error).strip().splitlines()[-1][:160]

    def _keep(self, name: str, times: tuple[float, float]) -> None:
        self.wall_s[name] = min(times[0], self.wall_s.get(name, times[0]))
        self.cpu_s[name] = min(times[1], self.cpu_s.get(name, times[1]))

    def _timed(self, command: list[str]) -> tuple[float, float]:
        threads = {"RAYON_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "true", "TOKIO_WORKER_THREADS": str(THREADS)}
        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        ran = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
        if ran.returncode != 0:
            raise BenchError(f"{' '.join(command[:2])}: exit status {ran.returncode}\n{ran.stderr[-2000:]}")
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def _compare(self) -> None:
        """Rows with the same id and the same tokens, as a share of the larger side."""
        files = [str(path) for path in (self.work / "ours" / "warehouse" / "tokens").glob("g*.parquet")]
        ours = _by_id(ds.dataset(files).to_table(columns=["post_id", "input_ids"]))
        for peer in PEERS:
            if peer in self.missing:
                continue
            theirs = _by_id(pq.read_table(self.work / f"{peer}.parquet"))
            same = sum(1 for post, ids in ours.items() if theirs.get(post) == ids)
            self.agree[peer] = same / max(len(ours), len(theirs))
            if self.agree[peer] < AGREE_MIN:
                self.missing[peer] = f"other work: {same:,} of {len(ours):,} and {len(theirs):,} rows agree"

    def _rows(self) -> list[Row]:
        rows = []
        for peer in PEERS:
            label, why = f"{peer} + tokenizers", self.missing.get(peer)
            for unit, figures in (("s wall", self.wall_s), ("s CPU", self.cpu_s)):
                what = f"{POSTS:,} posts, Parquet to corpus"
                rows.append(Row("pipeline", what, figures["ours"], unit, label, None if why else figures.get(peer), None, why))
            if peer in self.agree:
                what = f"rows that agree with {peer}"
                rows.append(Row("pipeline", what, 100 * self.agree[peer], "%", None, None, None, "checked before timing counts"))
        share = 100 * self.cpu_s["ours, no tokens"] / self.cpu_s["ours"]
        rows.append(Row("pipeline", "CPU that is not tokenising", share, "%", None, None, None, "the same, text instead of ids"))
        return rows


def _by_id(table: object) -> dict[object, list[int]]:
    return dict(zip(table["post_id"].to_pylist(), table["input_ids"].to_pylist(), strict=True))  # type: ignore[index]
