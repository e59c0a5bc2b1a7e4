"""The duplicates bench: MinHash signatures, near-duplicates, pictures and look-ups in hash lists, against libraries.

CPU seconds of whole processes with one thread, reading their input included, but for look-ups: there the time to read the
list is taken out on both sides. The best of the rounds counts, and all take turns within a round.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from loader_bench import ROUNDS, BenchError
from table import Row

POSTS = int(os.environ.get("CORPUSMILL_BENCH_DUPLICATE_POSTS", "100000"))
HASHES = int(os.environ.get("CORPUSMILL_BENCH_HASHES", "1000000"))
PICTURES = 300
FEW, MANY = 1_000, 21_000
TABLE = "CREATE EXTERNAL TABLE posts STORED AS PARQUET LOCATION '{input}/posts/';"
# Words as the peers have them; `unit => 'auto'`, what a person would write, does more.
NEAR = "near_duplicates(TABLE posts, key => 'post_id', text => 'body', threshold => 0.8{more})"
WORDS = ", unit => 'word', ngram => 3"


@dataclass
class DuplicatesBench:
    """CPU seconds by job and contestant."""

    work: Path
    binary: Path
    cpu_s: dict[tuple[str, str], float] = field(default_factory=dict)
    counted: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    missing: dict[tuple[str, str], str] = field(default_factory=dict)

    def run(self) -> list[Row]:
        """Makes the inputs, runs all, and gives the rows of the table."""
        self._prepare()
        for number in range(ROUNDS):
            print(f"    duplicates: round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            self._ours("signatures", "ours", "SELECT count(minhash(body, 'word', 3, 20, 5)) AS n FROM posts")
            self._ours("clusters", "ours", self._copy("words", WORDS))
            self._ours("clusters", "ours, auto", self._copy("auto", ""))
            self._history()
            for job, call in (("pictures", "pdq(content)"), ("thumbnails", "resize_image(content, 224, 224)")):
                self._ours(job, "ours", f"SELECT count({call}) AS n FROM read_blob('{self.work}/input/media/*')")
            for queries in (FEW, MANY):
                self._ours("look_up", f"ours, {queries}", self._matches(queries))
            for job, peers in PEERS.items():
                for peer in peers:
                    self._peer(job, peer)
        return self._rows()

    def _prepare(self) -> None:
        source = self.work / "input"
        if not (self.work / "ready").exists():
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            options = ["--posts", str(POSTS), "--images", str(PICTURES), "--seed", "3", "--out", str(source)]
            self._timed([str(self.binary), "generate", *options])
            self._hashes(source)
            sql = f"{TABLE.format(input=source)} CREATE EXTERNAL TABLE entries STORED AS PARQUET LOCATION '{source}/list.parquet';"
            sql += f"CREATE EXTERNAL TABLE queries STORED AS PARQUET LOCATION '{source}/queries.parquet';"
            sql += "CREATE HASH LIST known WITH (signal = 'pdq') AS SELECT hash FROM entries"
            self._program(sql)
            (self.work / "ready").touch()

    def _hashes(self, source: Path) -> None:
        """Random hashes, and queries of which every second is an entry with up to 40 bits turned over."""
        random = np.random.default_rng(5)
        entries = random.integers(0, 256, (HASHES, 32), dtype=np.uint8)
        queries = random.integers(0, 256, (MANY, 32), dtype=np.uint8)
        for number in range(0, MANY, 2):
            bits = np.unpackbits(entries[random.integers(HASHES)])
            bits[random.choice(256, random.integers(41), replace=False)] ^= 1
            queries[number] = np.packbits(bits)
        for name, hashes in (("list", entries), ("queries", queries)):
            text = hashes.tobytes().hex()
            column = pa.array([text[at : at + 64] for at in range(0, len(text), 64)])
            pq.write_table(pa.table({"number": np.arange(len(column)), "hash": column}), source / f"{name}.parquet")

    def _copy(self, name: str, more: str) -> str:
        near = NEAR.format(more=more)
        return f"COPY (SELECT post_id, dup_cluster_id FROM {near}) TO '{self.work}/{name}.parquet' STORED AS PARQUET"

    def _history(self) -> None:
        """A corpus of all posts but every hundredth, and its next version, which compares those with the history."""
        home = self.work / "history"
        shutil.rmtree(home, ignore_errors=True)
        near = NEAR.format(more=", against => 'history:kept'").replace("posts", "part")
        corpus = f"CREATE OR REFRESH CORPUS kept (PRIMARY KEY (post_id)) AS SELECT post_id, dup_cluster_id FROM {near}"
        table = TABLE.format(input=self.work / "input")
        for name, before, condition in (("first build", table, "<> 0"), ("next build", "", "= 0")):
            view = f"CREATE OR REPLACE VIEW part AS SELECT * FROM posts WHERE post_id % 100 {condition};"
            _, seconds = self._program(f"{before} {view} {corpus}", home)
            self._keep("history", name, seconds, {})

    def _matches(self, queries: int) -> str:
        return (
            f"SELECT count(match_id) AS n FROM hash_match((SELECT number, hash FROM queries WHERE number < {queries}), "
            "HASHLIST known, key => 'number', hash => 'hash')"
        )

    def _program(self, sql: str, home: Path | None = None) -> tuple[str, float]:
        home = home or self.work / "home"
        command = [str(self.binary), "run", "--quiet", "--home", str(home), "--target-partitions", "1", "-o", "csv", "-c", sql]
        return self._timed(command)

    def _ours(self, job: str, name: str, sql: str) -> None:
        out, seconds = self._program(sql)
        self._keep(job, name, seconds, {"count": float(out.split()[-1])} if out.startswith("n\n") else {})

    def _peer(self, job: str, name: str) -> None:
        if (job, name) in self.missing:
            return
        script = str(Path(__file__).parent / "duplicates_peer.py")
        target = str(self.work / f"{name}.parquet")
        try:
            out, seconds = self._timed([sys.executable, script, job, name, str(self.work / "input"), target])
            self._keep(job, name, seconds, json.loads(out))
        except BenchError as error:
            self.missing[job, name] = str(error).strip().splitlines()[-1][:160]

    def _keep(self, job: str, name: str, seconds: float, counted: dict[str, float]) -> None:
        seconds = counted.get("search_s", seconds)
        self.cpu_s[job, name] = min(seconds, self.cpu_s.get((job, name), seconds))
        self.counted[job, name] = counted

    def _timed(self, command: list[str]) -> tuple[str, float]:
        one = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "TOKIO_WORKER_THREADS"), "1")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = subprocess.run(command, env=os.environ | one, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if ran.returncode != 0:
            raise BenchError(f"{' '.join(command[:2])}: exit status {ran.returncode}\n{ran.stderr[-2000:]}")
        return ran.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def _found(self, name: str) -> tuple[int, int]:
        """Planted pairs that are near-duplicates by the words that all compare, and how many of them share a cluster."""
        truth = ds.dataset(self.work / "input" / "truth" / "posts", format="parquet").to_table().to_pylist()
        bodies = ds.dataset(self.work / "input" / "posts", format="parquet").to_table(columns=["post_id", "body"])
        texts = dict(zip(bodies["post_id"].to_pylist(), bodies["body"].to_pylist(), strict=True))
        table = pq.read_table(self.work / f"{name}.parquet")
        cluster = dict(zip(table["post_id"].to_pylist(), table["dup_cluster_id"].to_pylist(), strict=True))

        def shingles(post: int) -> set[tuple[str, ...]]:
            words = (texts[post] or "").lower().split()
            return {tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))}

        planted = found = 0
        for row in truth:
            if row["duplicate_of"] is None:
                continue
            a, b = shingles(row["post_id"]), shingles(row["duplicate_of"])
            if len(a & b) >= 0.8 * len(a | b):
                planted += 1
                found += cluster[row["post_id"]] == cluster[row["duplicate_of"]]
        return planted, found

    def _rows(self) -> list[Row]:
        rows = []
        for job, what, unit, scale in (
            ("signatures", f"MinHash signatures of {POSTS:,} posts", "µs CPU/post", 1e6 / POSTS),
            ("clusters", f"near-duplicates among {POSTS:,} posts", "µs CPU/post", 1e6 / POSTS),
            ("pictures", f"PDQ of {PICTURES} pictures, decoded", "ms CPU/picture", None),
            ("thumbnails", f"{PICTURES} pictures decoded, resized to 224 × 224, as PNG", "ms CPU/picture", None),
        ):
            scale = scale or 1e3 / self.counted[job, "ours"]["count"]
            ours = scale * self.cpu_s[job, "ours"]
            rows += [self._row(job, what, ours, unit, peer, scale) for peer in PEERS[job]]
        rows.append(Row("duplicates", "the same, unit => 'auto'", 1e6 / POSTS * self.cpu_s["clusters", "ours, auto"], "µs CPU/post", None, None, None))
        for name in ("words", *PEERS["clusters"]):
            if ("clusters", name) not in self.missing:
                planted, found = self._found(name)
                label = "ours" if name == "words" else name
                rows.append(Row("duplicates", f"planted pairs found by {label}", found, f"of {planted:,}", None, None, None))
        first, second = (self.cpu_s["history", name] for name in ("first build", "next build"))
        what = f"near-duplicates of {POSTS // 100:,} new posts against a history of {POSTS - POSTS // 100:,}"
        rows.append(Row("duplicates", what, 100 * second / first, "% CPU of the first build", None, None, None))
        few, many = (self.cpu_s["look_up", f"ours, {queries}"] for queries in (FEW, MANY))
        ours = 1e6 * (many - few) / (MANY - FEW)
        what = f"look-up of a PDQ hash among {HASHES:,}"
        for peer in PEERS["look_up"]:
            queries = self.counted.get(("look_up", peer), {}).get("queries", 1)
            rows.append(self._row("look_up", what, ours, "µs CPU", peer, 1e6 / queries))
        agree = {name: counted["count"] for (job, name), counted in self.counted.items() if job == "look_up"}
        note = ", ".join(f"{name}: {count:,.0f}" for name, count in agree.items())
        rows.append(Row("duplicates", "index of the list, read and built", few, "s CPU", None, None, None, f"matches: {note}"))
        return rows

    def _row(self, job: str, what: str, ours: float, unit: str, peer: str, scale: float) -> Row:
        theirs = self.cpu_s.get((job, peer))
        why = self.missing.get((job, peer))
        return Row("duplicates", what, ours, unit, peer, None if theirs is None else scale * theirs, None, why)


PEERS: dict[str, tuple[str, ...]] = {
    "signatures": ("datasketch", "rensa"),
    "clusters": ("datasketch", "rensa"),
    "pictures": ("pdqhash",),
    "thumbnails": ("Pillow",),
    "look_up": ("faiss multi-hash", "faiss flat"),
}
