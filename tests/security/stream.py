"""The batches of a corpus as a digest: `stream.py WAREHOUSE SOURCE [BATCHES]`, where SOURCE is a coordinator, or `-` for
none. After so many batches it says `paused`, and waits for a line.
"""

from __future__ import annotations

import hashlib
import sys

import numpy as np

import corpusmill

warehouse, source, *pause = sys.argv[1:]
plan = corpusmill.Plan(
    "text", warehouse=warehouse, seed=5, global_batch=64, tokens=None, columns=["posts", "newest"], epochs=1, cache_dir=""
)
loader = corpusmill.Loader(plan) if source == "-" else corpusmill.Loader(plan, source=source, patience_s=20.0)
digest, batches = hashlib.sha256(), 0
for batch in loader:
    for field in batch:
        value = batch[field]
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, np.ndarray):
                digest.update(f"{field} {part.dtype} {part.shape}".encode() + part.tobytes())
            else:
                digest.update(f"{field} {part!r}".encode())
    batches += 1
    if [str(batches)] == pause:
        print("paused", flush=True)
        sys.stdin.readline()
assert batches > 10, batches
print(digest.hexdigest(), loader.served_by[0] if loader.served_by else "-")
