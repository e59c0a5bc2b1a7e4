"""The jobs of the duplicates bench in Python: ``python duplicates_peer.py JOB INPUT [OUTPUT]``, one thread.

Prints one JSON object: what was counted, and for look-ups the CPU seconds of the search alone.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq

PERMUTATIONS, BANDS, WORDS = 100, 20, 3
DISTANCE_MAX = 31


def _posts(source: Path) -> tuple[list[int], list[str]]:
    table = ds.dataset(source / "posts", format="parquet").to_table(columns=["post_id", "body"])
    return table["post_id"].to_pylist(), [body or "" for body in table["body"].to_pylist()]


def _shingles(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[at : at + WORDS]) for at in range(max(1, len(words) - WORDS + 1))]


def _signatures(name: str, texts: list[str]) -> Iterator[object]:
    if name == "datasketch":
        from datasketch import MinHash

        first = MinHash(num_perm=PERMUTATIONS)
        for text in texts:
            signature = first.copy()
            signature.update_batch([shingle.encode() for shingle in _shingles(text)])
            yield signature
    else:
        from rensa import RMinHash

        for text in texts:
            signature = RMinHash(num_perm=PERMUTATIONS, seed=42)
            signature.update(_shingles(text))
            yield signature


def signatures(name: str, source: Path) -> dict[str, object]:
    """Counts the signatures of all posts."""
    return {"count": sum(1 for _ in _signatures(name, _posts(source)[1]))}


def clusters(name: str, source: Path, target: Path) -> dict[str, object]:
    """Puts posts that share a band, and whose estimate reaches 0.8, into one cluster, as the libraries' pages show it."""
    ids, texts = _posts(source)
    if name == "datasketch":
        from datasketch import MinHashLSH

        index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, PERMUTATIONS // BANDS))
    else:
        from rensa import RMinHashLSH

        index = RMinHashLSH(threshold=0.8, num_perm=PERMUTATIONS, num_bands=BANDS)
    parent = list(range(len(ids)))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    kept: list[object] = []
    for number, signature in enumerate(_signatures(name, texts)):
        for other in index.query(signature):
            if signature.jaccard(kept[other]) >= 0.8:  # type: ignore[attr-defined]
                a, b = find(number), find(other)
                parent[max(a, b)] = min(a, b)
        index.insert(number, signature)
        kept.append(signature)
    import pyarrow as pa

    found = [ids[find(number)] for number in range(len(ids))]
    pq.write_table(pa.table({"post_id": ids, "dup_cluster_id": found}), target)
    return {"count": len(set(found))}


def pictures(source: Path) -> dict[str, object]:
    """Hashes all pictures by the reference's own code."""
    import pdqhash
    from PIL import Image

    count = 0
    for path in sorted((source / "media").iterdir()):
        with Image.open(path) as picture:
            pdqhash.compute(np.asarray(picture.convert("RGB")))
        count += 1
    return {"count": count}


def thumbnails(source: Path) -> dict[str, object]:
    """Makes the same bytes of pixels by Pillow, and a PNG of them, as fast as it can be told to."""
    from PIL import Image

    count = 0
    for path in sorted((source / "media").iterdir()):
        with Image.open(path) as picture:
            picture.resize((224, 224), Image.Resampling.BICUBIC).save(io.BytesIO(), "PNG", compress_level=1)
        count += 1
    return {"count": count}


def _hashes(path: Path) -> np.ndarray:
    text = "".join(pq.read_table(path, columns=["hash"])["hash"].to_pylist())
    return np.frombuffer(bytes.fromhex(text), dtype=np.uint8).reshape(-1, 32)


def look_up(name: str, source: Path) -> dict[str, object]:
    """Looks the queries up in the list by one of faiss's indexes; counts those that have an entry within 31 bits."""
    import faiss

    faiss.omp_set_num_threads(1)
    entries, queries = _hashes(source / "list.parquet"), _hashes(source / "queries.parquet")
    if name == "faiss flat":
        index = faiss.IndexBinaryFlat(256)
        queries = queries[:200]  # all with all: enough to tell
    else:
        # The same index as ours: 16 pieces of 16 bits, and their values one bit away.
        index = faiss.IndexBinaryMultiHash(256, 16, 16)
        index.nflip = 1
    index.add(entries)
    began = time.process_time()
    limits, _, _ = index.range_search(queries, DISTANCE_MAX + 1)
    seconds = time.process_time() - began
    return {"count": int(np.count_nonzero(np.diff(limits))), "queries": len(queries), "search_s": seconds}


def main() -> None:
    job, name, source, *target = sys.argv[1:]
    jobs: dict[str, Callable[[], dict[str, object]]] = {
        "signatures": lambda: signatures(name, Path(source)),
        "clusters": lambda: clusters(name, Path(source), Path(target[0])),
        "pictures": lambda: pictures(Path(source)),
        "thumbnails": lambda: thumbnails(Path(source)),
        "look_up": lambda: look_up(name, Path(source)),
    }
    print(json.dumps(jobs[job]()))


if __name__ == "__main__":
    main()
