"""Batches from workers: the same bytes as local reading, over every transport, whoever is killed meanwhile.

The coordinator and the workers are the real program in processes of their own.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import conftest
import numpy as np
import pytest
from conftest import posts

import corpusmill
from corpusmill import _native

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path.home() / ".cache/corpusmill/target"))
PROGRAM = pathlib.Path(os.environ.get("CORPUSMILL_PROGRAM", TARGET / "debug/corpusmill"))
DEADLINE_S = 60.0
COLUMNS = ["label", "agreement", "votes", "embedding", "media"]

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"not run here: served streams, there is no program {PROGRAM}: cargo build"
)


def until(what: str, condition: Callable[[], object]) -> None:
    """Waits for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S} s"
        time.sleep(0.02)


class Cluster:
    """A coordinator and workers over one warehouse, as processes."""

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        self.processes: list[subprocess.Popen[str]] = []
        self.address = "127.0.0.1:0"
        self.workers: list[subprocess.Popen[str]] = []

    def start(self, workers: int) -> None:
        self.coordinator = self.start_coordinator()
        self.workers = [self.start_worker() for _ in range(workers)]
        until("the workers serve", lambda: self.logs().count("a worker serves worker=") >= workers)

    @property
    def source(self) -> str:
        return f"corpusmill://{self.address}"

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        log = (self.home / f"log-{len(self.processes)}").open("w")
        process = subprocess.Popen(
            [str(PROGRAM), "--home", str(self.home), *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"CORPUSMILL_LOG": "info"},
        )
        self.processes.append(process)
        return process

    def start_coordinator(self) -> subprocess.Popen[str]:
        process = self._start("coordinator", "--listen", self.address)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.startswith("http://"), (line, self.logs())
        self.address = line.removeprefix("http://")
        return process

    def start_worker(self, *more: str) -> subprocess.Popen[str]:
        work = self.home / f"work-{len(self.processes)}"
        return self._start("worker", "--coordinator", f"http://{self.address}", "--work-dir", str(work), *more)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.home.glob("log-*")))

    def worker_called(self, name: str) -> subprocess.Popen[str]:
        return next(w for w in self.workers if name == f"worker-{w.pid}")

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture()
def cluster(tmp_path: pathlib.Path) -> Iterator[Cluster]:
    started: list[Cluster] = []
    home = tmp_path / "home"
    (home / "warehouse").mkdir(parents=True)
    warehouse = str(home / "warehouse")
    _native._testing.write_corpus(
        warehouse, "posts", posts(3000), primary_key=["post_id"], shards=3, block_rows=64, masked=[(5, 9)]
    )
    try:
        started.append(Cluster(home))
        started[0].start(2)
        yield started[0]
    finally:
        for one in started:
            one.stop()


def plan_of(cluster: Cluster, **arguments: object) -> corpusmill.Plan:
    defaults: dict[str, object] = {
        "global_batch": 8,
        "seed": 3,
        "pack": 128,
        "epochs": 1,
        "columns": COLUMNS,
        "fill": {"votes": -1},
        "cache_dir": "",
    }
    warehouse = cluster.home / "warehouse"
    return corpusmill.Plan("posts", warehouse=warehouse, **(defaults | arguments))  # type: ignore[arg-type]


def digest(batch: corpusmill.Batch) -> str:
    """A hash of every field's dtype, shape and bytes."""
    found = hashlib.sha256(str(batch.step).encode())
    for field in batch:
        value = batch[field]
        parts = value if isinstance(value, tuple) else (value,)
        for part in parts:
            if isinstance(part, np.ndarray):
                found.update(f"{field} {part.dtype} {part.shape}".encode() + part.tobytes())
            else:
                found.update(f"{field} {part!r}".encode())
    return found.hexdigest()


def digests(loader: corpusmill.Loader) -> list[str]:
    return [digest(batch) for batch in loader]


@pytest.mark.parametrize("transport", ["shm", "tcp", "auto"])
@pytest.mark.parametrize("shape", [{"pack": 128}, {"pack": None, "max_length": 40}, {"pack": None, "ids": "int64"}])
def test_served_batches_are_those_of_local_reading(cluster: Cluster, transport: str, shape: dict[str, object]) -> None:
    plan = plan_of(cluster, **shape)
    for world in (1, 4):
        for rank in range(world):
            served = corpusmill.Loader(plan, rank, world, source=cluster.source, transport=transport)  # type: ignore[arg-type]
            assert digests(served) == digests(corpusmill.Loader(plan, rank, world))
            assert served.served_by is not None
            assert served.served_by[0] == ("shm" if transport == "auto" else transport)
            assert served.stats().failovers == 0


def test_the_state_is_the_same_and_goes_on_in_either(cluster: Cluster) -> None:
    plan = plan_of(cluster)
    local, served = corpusmill.Loader(plan), corpusmill.Loader(plan, source=cluster.source)
    whole = digests(corpusmill.Loader(plan))
    for step in range(7):
        assert digest(next(local)) == digest(next(served)) == whole[step]
    assert local.state_dict() == served.state_dict()
    other = corpusmill.Loader(plan, source=cluster.source)
    other.load_state_dict(local.state_dict())
    local.load_state_dict(served.state_dict())
    assert digests(other) == digests(local) == whole[7:]
    assert list(other) != [], "a second pass begins at step 0"


def test_tensors_are_views_of_the_slot_and_may_be_written(cluster: Cluster) -> None:
    torch = pytest.importorskip("torch")
    from corpusmill.torch import Loader

    plan = plan_of(cluster, columns=["votes"])
    expected = [batch["input_ids"].clone() for batch in Loader(plan)]
    loader = Loader(plan, source=cluster.source, transport="shm")
    for step, batch in enumerate(loader):
        assert torch.equal(batch["input_ids"], expected[step])
        # What this trainer writes stays here, and is gone when the slot is used again.
        batch["input_ids"].fill_(-7)
    assert loader.stats().copies == 0, "a loop that keeps one batch copies none"


def test_a_consumer_that_keeps_everything_gets_copies_and_never_waits(cluster: Cluster) -> None:
    plan = plan_of(cluster)
    loader = corpusmill.Loader(plan, source=cluster.source)
    kept = list(loader)
    assert len(kept) > 30
    assert [digest(batch) for batch in kept] == digests(corpusmill.Loader(plan))
    assert loader.stats().copies > 0


def test_a_trainer_that_stops_reading_holds_its_slots_and_no_more(cluster: Cluster) -> None:
    plan = plan_of(cluster, epochs=None)
    loader = corpusmill.Loader(plan, source=cluster.source, transport="shm")
    first = next(loader)
    until("the queue is full", lambda: loader.stats().prefetch_bytes_peak > 3 * first["input_ids"].nbytes)
    peaks = []
    until("nothing more arrives", lambda: peaks.append(loader.stats().prefetch_bytes_peak) or len(peaks) > 20)
    assert peaks[-1] == peaks[-10], "the bytes held grow while nobody reads"
    assert digest(next(loader)) == digest(list(zip(range(2), corpusmill.Loader(plan), strict=False))[1][1])


def audited(cluster: Cluster, fault: Callable[[corpusmill.Loader, int], None], **arguments: object) -> corpusmill.Loader:
    """Reads a whole plan with ``fault`` called before each step, and checks every batch against local reading."""
    plan = plan_of(cluster, **arguments)
    expected = digests(corpusmill.Loader(plan))
    loader = corpusmill.Loader(plan, source=cluster.source)
    found = []
    for step in range(len(plan)):
        fault(loader, step)
        found.append(digest(next(loader)))
    assert next(loader, None) is None
    assert found == expected, cluster.logs()
    return loader


def test_killed_workers_cost_no_batch(cluster: Cluster) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    at = random.Random(seed).randrange(3, 12)
    killed = []

    def fault(loader: corpusmill.Loader, step: int) -> None:
        if step in (at, 2 * at):
            assert loader.served_by is not None
            victim = cluster.worker_called(loader.served_by[1])
            victim.kill()
            victim.wait()
            killed.append(victim.pid)
            cluster.workers.append(cluster.start_worker())

    loader = audited(cluster, fault)
    assert loader.stats().failovers >= 1 and len(killed) == 2


def test_a_stopped_worker_is_left_for_another(cluster: Cluster) -> None:
    stopped = []

    def fault(loader: corpusmill.Loader, step: int) -> None:
        if step == 5:
            assert loader.served_by is not None
            victim = cluster.worker_called(loader.served_by[1])
            victim.send_signal(signal.SIGSTOP)
            stopped.append((victim, time.monotonic()))

    loader = audited(cluster, fault)
    assert loader.served_by is not None and loader.served_by[1] != f"worker-{stopped[0][0].pid}"
    assert time.monotonic() - stopped[0][1] < DEADLINE_S


def test_streams_go_on_without_the_coordinator_and_workers_come_back_to_a_new_one(cluster: Cluster) -> None:
    def fault(loader: corpusmill.Loader, step: int) -> None:
        if step == 4:
            cluster.coordinator.kill()
            cluster.coordinator.wait()
        if step == 8:
            # Another worker is known from before.
            assert loader.served_by is not None
            cluster.worker_called(loader.served_by[1]).kill()

    audited(cluster, fault)
    cluster.coordinator = cluster.start_coordinator()
    plan = plan_of(cluster)
    assert digests(corpusmill.Loader(plan, source=cluster.source)) == digests(corpusmill.Loader(plan))


RANK = """
import os, sys
import test_served as t, corpusmill
plan = corpusmill.Plan("posts", warehouse=sys.argv[1], **t.RANK_PLAN)
loader = corpusmill.Loader(plan, int(sys.argv[3]), 2, source=sys.argv[2], job="run")
state = sys.argv[4]
if os.path.exists(state):
    import json
    loader.load_state_dict(json.load(open(state)))
for batch in loader:
    print(batch.step, t.digest(batch), flush=True)
    sys.stdin.readline()
print("end", flush=True)
os._exit(0)
"""
RANK_PLAN = {"global_batch": 8, "seed": 3, "pack": 128, "epochs": 1, "cache_dir": ""}


def start_rank(cluster: Cluster, rank: int, state: pathlib.Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RANK, str(cluster.home / "warehouse"), cluster.source, str(rank), str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(conftest.__file__).parent,
    )
    cluster.processes.append(process)
    return process


def read_rank(process: subprocess.Popen[str], steps: int) -> list[str]:
    assert process.stdin is not None and process.stdout is not None
    lines = []
    for _ in range(steps):
        line = process.stdout.readline().strip()
        if line == "end":
            break
        lines.append(line)
        process.stdin.write("\n")
        process.stdin.flush()
    return lines


def test_a_killed_rank_goes_on_from_its_checkpoint(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    import json

    plan = corpusmill.Plan("posts", warehouse=cluster.home / "warehouse", **RANK_PLAN)  # type: ignore[arg-type]
    expected = [
        [f"{batch.step} {digest(batch)}" for batch in corpusmill.Loader(plan, rank, 2)] for rank in range(2)
    ]
    checkpoint = corpusmill.Loader(plan, 0, 2)
    for _ in range(3):
        next(checkpoint)
    ranks = [start_rank(cluster, rank, tmp_path / f"none-{rank}") for rank in range(2)]
    first = [read_rank(process, 6) for process in ranks]
    ranks[0].kill()
    ranks[0].wait()
    # Its own rank is free again; it goes on behind the checkpoint at step 3.
    state = tmp_path / "state"
    state.write_text(json.dumps(checkpoint.state_dict()))
    again = start_rank(cluster, 0, state)
    assert first[0][:3] + read_rank(again, 10**6) == expected[0]
    assert first[1] + read_rank(ranks[1], 10**6) == expected[1]


def test_ranks_of_a_job_are_on_one_plan_and_there_once(cluster: Cluster) -> None:
    plan, other = plan_of(cluster, epochs=None), plan_of(cluster, epochs=None, seed=4)
    first = corpusmill.Loader(plan, 0, 2, source=cluster.source, job="j")
    next(first)
    with pytest.raises(corpusmill.PlanError, match=f"job j: rank 1 has plan {other.hash}.*{plan.hash}"):
        next(corpusmill.Loader(other, 1, 2, source=cluster.source, job="j"))
    with pytest.raises(corpusmill.PlanError, match="rank 1 says there are 4 ranks"):
        next(corpusmill.Loader(plan, 1, 4, source=cluster.source, job="j"))
    with pytest.raises(OSError, match="rank 0 is read by another process"):
        next(corpusmill.Loader(plan, 0, 2, source=cluster.source, job="j", patience_s=1))
    next(corpusmill.Loader(plan, 1, 2, source=cluster.source, job="j"))
    next(corpusmill.Loader(other, 0, 2, source=cluster.source, job="another"))


def test_errors_of_a_worker_are_those_of_local_reading(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    plan = plan_of(cluster)
    for shard in (cluster.home / "warehouse").rglob("*.parquet"):
        data = bytearray(shard.read_bytes())
        data[len(data) // 3] ^= 0xFF
        shard.write_bytes(data)
    with pytest.raises(corpusmill.CorruptBlockError, match="on_corrupt"):
        digests(corpusmill.Loader(plan, source=cluster.source))


def test_nobody_there_is_told_in_time() -> None:
    started = time.monotonic()
    with pytest.raises(corpusmill.PlanError, match="corpusmill://127.0.0.1:50050"):
        next(_loader_to("localhost"))
    with pytest.raises(OSError, match="no coordinator answers"):
        next(_loader_to("corpusmill://127.0.0.1:9"))
    assert time.monotonic() - started < 30


def _loader_to(source: str) -> corpusmill.Loader:
    import tempfile

    warehouse = tempfile.mkdtemp()
    _native._testing.write_corpus(warehouse, "posts", posts(100), primary_key=["post_id"])
    plan = corpusmill.Plan("posts", warehouse=warehouse, cache_dir="")
    return corpusmill.Loader(plan, source=source, patience_s=1)


def test_rings_are_gone_when_the_last_array_is(cluster: Cluster) -> None:
    def is_mapped() -> bool:
        return "corpusmill-ring" in pathlib.Path("/proc/self/maps").read_text()

    loader = corpusmill.Loader(plan_of(cluster, epochs=None), source=cluster.source, transport="shm")
    ids = next(loader)["input_ids"]
    expected = ids.copy()
    assert loader.served_by is not None and is_mapped()
    cluster.worker_called(loader.served_by[1]).kill()
    del loader
    cluster.stop()
    assert np.array_equal(ids, expected), "an array outlives its worker"
    # The memory has no name in a file system: it is gone with the last process that maps it.
    assert not [name for name in os.listdir("/dev/shm") if "corpusmill" in name]
    del ids
    until("the ring is unmapped", lambda: not is_mapped())
