"""Runs the benches and prints one table: ``python main.py FOLDER BINARY [loader|pipeline|stream|cluster|duplicates]``.

The folder keeps inputs between runs; the binary is an optimised `corpusmill`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import samples
import table
from cluster_bench import POSTS as CLUSTER_POSTS
from cluster_bench import ClusterBench
from duplicates_bench import HASHES, DuplicatesBench
from duplicates_bench import POSTS as DUPLICATE_POSTS
from loader_bench import ROUNDS, LoaderBench
from pipeline_bench import POSTS, PipelineBench
from stream_bench import StreamBench


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} × {models[0] if models else platform.machine()}"


def _commit() -> str:
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    return f"{commit or 'no commit'}{' with changes' if changed else ''}"


def main() -> None:
    work, binary = Path(sys.argv[1]), Path(sys.argv[2])
    wanted = sys.argv[3:] or ["loader", "pipeline", "stream", "cluster", "duplicates"]
    rows: list[table.Row] = []
    if "loader" in wanted:
        rows += LoaderBench(work / f"loader-{samples.SAMPLES}").run()
    if "pipeline" in wanted:
        rows += PipelineBench(work / f"pipeline-{POSTS}", binary).run()
    if "stream" in wanted:
        loader = LoaderBench(work / f"loader-{samples.SAMPLES}")
        speed = Path(os.environ["CORPUSMILL_TRANSPORT_SPEED"])
        rows += StreamBench(work / "stream", binary, speed, loader).run()
    if "cluster" in wanted:
        rows += ClusterBench(work / f"cluster-{CLUSTER_POSTS}", binary).run()
    if "duplicates" in wanted:
        rows += DuplicatesBench(work / f"duplicates-{DUPLICATE_POSTS}-{HASHES}", binary).run()
    load = os.getloadavg()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}, {_machine()}, load {load[0]:.1f} at the end")
    print(f"{samples.SAMPLES:,} samples of {samples.SHORTEST} to {samples.LONGEST} tokens, best of {ROUNDS}")
    print(table.text(rows))


if __name__ == "__main__":
    main()
