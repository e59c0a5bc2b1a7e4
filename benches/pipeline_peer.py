"""The pipeline of `pipeline_bench.py` in Python: ``python pipeline_peer.py duckdb|polars INPUT OUTPUT``.

Normalise (references, invisible characters, NFKC, white space), one row of each text, tokenise in batches, write
Parquet. DuckDB and Polars read, remove duplicates and write; neither knows NFKC, so the text goes through Python.
"""

from __future__ import annotations

import html
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from tokenizers import Tokenizer

THREADS = int(os.environ.get("RAYON_NUM_THREADS", "2"))
MAX_LENGTH = 128
BATCH_ROWS = 8192

_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")
_SPACE = re.compile(r"\s+")


def _space(found: re.Match[str]) -> str:
    ends = found.group().replace("\r\n", "\n").count("\n")
    return " " if ends == 0 else "\n" if ends == 1 else "\n\n"


def normalize(texts: pa.Array) -> pa.Array:
    """What a person would write for `normalize_text`, a text at a time."""

    def one(text: str | None) -> str | None:
        if text is None:
            return None
        if "&" in text:
            text = html.unescape(text)
        if not text.isascii():
            text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
        return _SPACE.sub(_space, text).strip()

    return pa.array([one(text) for text in texts.to_pylist()], pa.string())


def tokenize(batches: Iterator[pa.RecordBatch], file: Path) -> Iterator[pa.RecordBatch]:
    """Adds ``input_ids``; the tokenizer's threads are those of RAYON_NUM_THREADS."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.no_padding()
    for batch in batches:
        encoded = tokenizer.encode_batch_fast(batch.column("body").to_pylist())
        ids = pa.array([one.ids for one in encoded], pa.list_(pa.int32()))
        yield pa.record_batch({"post_id": batch.column("post_id"), "input_ids": ids})


def run_duckdb(source: Path, target: Path) -> None:
    """DuckDB reads and removes duplicates."""
    import duckdb

    db = duckdb.connect()
    db.execute(f"SET threads = {THREADS}")
    db.create_function("norm", lambda c: pa.chunked_array([normalize(c.combine_chunks())]), ["VARCHAR"], "VARCHAR", type="arrow")
    unique = db.execute(
        "SELECT min(post_id) AS post_id, body FROM "
        f"(SELECT post_id, norm(body) AS body FROM read_parquet('{source}/posts/*.parquet')) GROUP BY body"
    )
    _write(tokenize(iter(unique.to_arrow_reader(BATCH_ROWS)), source / "tokenizer.json"), target)


def run_polars(source: Path, target: Path) -> None:
    """Polars reads and removes duplicates."""
    import polars as pl

    posts = pl.read_parquet(f"{source}/posts/*.parquet", columns=["post_id", "body"])
    body = pl.Series("body", normalize(posts["body"].to_arrow().cast(pa.string())))
    unique = posts.with_columns(body).group_by("body").agg(pl.col("post_id").min()).to_arrow()
    unique = unique.cast(pa.schema([("body", pa.string()), unique.schema.field("post_id")]))
    _write(tokenize(iter(unique.to_batches(BATCH_ROWS)), source / "tokenizer.json"), target)


def _write(batches: Iterator[pa.RecordBatch], target: Path) -> None:
    import pyarrow.parquet as pq

    first = next(batches)
    with pq.ParquetWriter(target, first.schema, compression="zstd") as out:
        out.write_batch(first)
        for batch in batches:
            out.write_batch(batch)


if __name__ == "__main__":
    {"duckdb": run_duckdb, "polars": run_polars}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
