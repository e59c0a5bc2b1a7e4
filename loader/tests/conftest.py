"""Corpora for the tests, written by the corpus crate itself (cargo feature ``fixtures``)."""

from __future__ import annotations

import pathlib

import numpy as np
import pyarrow as pa
import pytest

from corpusmill import _native

if not hasattr(_native, "_testing"):
    raise pytest.UsageError("the extension was built without the feature `fixtures`: run loader/develop.sh")

SEED = 7


def posts(rows: int, *, seed: int = SEED, longest: int = 60, start: int = 0) -> pa.Table:
    """A table whose tokens tell their row: token t of row r is ``r * 1000 + t``."""
    rng = np.random.default_rng(seed)
    ids = np.arange(start, start + rows)
    lengths = rng.integers(0, longest, rows)
    tokens = [(int(r) * 1000 + np.arange(n)).tolist() for r, n in zip(ids, lengths, strict=True)]
    labels = np.array(["none", "spam", "hate"])[rng.choice(3, rows, p=[0.8, 0.15, 0.05])]
    agreement = rng.random(rows)
    return pa.table(
        {
            "post_id": pa.array(ids, pa.int64()),
            "input_ids": pa.array(tokens, pa.list_(pa.int32())),
            "label": pa.array([None if a < 0.05 else str(x) for x, a in zip(labels, agreement, strict=True)]),
            "agreement": pa.array(agreement, pa.float64()),
            "votes": pa.array([None if r % 11 == 0 else int(r % 7) for r in ids], pa.int32()),
            "flagged": pa.array([bool(r % 3 == 0) for r in ids]),
            "embedding": pa.array(
                rng.random((rows, 8), dtype=np.float32).reshape(-1).tolist() and
                [row.tolist() for row in np.repeat(ids[:, None], 8, 1).astype(np.float32)],
                pa.list_(pa.float32(), 8),
            ),
            "media": pa.array([f"bytes of {r}".encode() for r in ids], pa.binary()),
            "day": pa.array([19000 + int(r % 5) for r in ids], pa.int32()).cast(pa.date32()),
            "split": pa.array(["train" if r % 10 else "valid" for r in ids]),
        }
    )


class Warehouse:
    """A folder of corpora, and what was written to each."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = str(folder / "warehouse")
        self.cache = str(folder / "cache")
        self.tables: dict[str, pa.Table] = {}

    def write(self, name: str, table: pa.Table, **layout: object) -> str:
        """Writes a version and gives its name, ``name@version``."""
        options = {"primary_key": ["post_id"], "partition_by": ["split"], "shards": 2, "block_rows": 64} | layout
        version = _native._testing.write_corpus(self.path, name, table, **options)
        full = f"{name}@{version}"
        self.tables[full] = table
        return full

    def plan(self, corpus: object = "posts", **arguments: object):
        """A plan over this warehouse, with a cache of its own."""
        import corpusmill

        options = {"warehouse": self.path, "cache_dir": self.cache, "global_batch": 12, "seed": 3} | arguments
        return corpusmill.Plan(corpus, **options)

    def shards(self, name: str) -> list[pathlib.Path]:
        """The Parquet files of a corpus."""
        folder = pathlib.Path(self.path) / name
        return sorted(p for p in folder.rglob("*.parquet") if "_corpusmill" not in p.parts)


@pytest.fixture(scope="session")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """``posts@0`` with 1,000 rows in two partitions, and ``other@0`` with 300. Read only."""
    made = Warehouse(tmp_path_factory.mktemp("shared"))
    made.write("posts", posts(1000))
    made.write("other", posts(300, seed=11, start=100_000))
    return made


@pytest.fixture
def own_warehouse(tmp_path: pathlib.Path) -> Warehouse:
    """An empty warehouse of one test."""
    return Warehouse(tmp_path)
