"""Live plans, served by workers: the log reaches them as it reaches ranks that read for themselves."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import pytest
from conftest import Warehouse
from test_live import PACKED, STEPS_OF_GROUP, Rank, check_run, entered, ranks, slots_of_keys  # noqa: F401
from test_served import PROGRAM, Cluster, cluster  # noqa: F401

import corpusmill

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"not run here: served live plans, there is no program {PROGRAM}: cargo build"
)


def program(home: pathlib.Path, *arguments: str) -> str:
    ended = subprocess.run(
        [str(PROGRAM), "--home", str(home), *arguments], capture_output=True, text=True, check=False, env=os.environ
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_takedown_reaches_served_ranks_and_a_worker_that_takes_over(
    cluster: Cluster, ranks: list[Rank]  # noqa: F811
) -> None:
    mill = Warehouse(cluster.home)
    arguments = PACKED | {"corpus": "posts@0", "warehouse": mill.path, "run": "r", "seed": 3}
    ranks += [Rank(arguments, rank, 2, source=cluster.source) for rank in range(2)]
    told = [rank.read(6) for rank in ranks]
    keys = set(range(0, 3000, 5))
    file = cluster.home / "keys"
    file.write_text("".join(f"{key}\n" for key in sorted(keys)))
    (taken,) = json.loads(
        program(cluster.home, "takedown", "posts", "--keys", str(file), "--note", "order 17", "-o", "json")
    )
    assert (taken["runs"], taken["rows"], taken["entries"], taken["missing"]) == (["r"], 600, [0], [])
    for rank, process in enumerate(ranks):
        told[rank] += process.read(18)
    # The workers of the run die in the middle; a rank dies too, and comes back.
    for worker in cluster.workers:
        worker.kill()
        worker.wait()
    cluster.workers = [cluster.start_worker()]
    ranks[1].kill()
    again = Rank(arguments, 1, 2, source=cluster.source, state=told[1][20]["state"])  # type: ignore[arg-type]
    ranks.append(again)
    told[0] += ranks[0].read(36)
    told[1] = told[1][:21] + again.read(39)

    plan = corpusmill.Plan(**arguments)  # type: ignore[arg-type]
    gone = slots_of_keys(plan, keys)
    masked_from = check_run(mill, arguments, told, gone)
    # A worker makes two steps ahead of what it has slots for, and the rank holds eight slots and more.
    assert masked_from <= 6 + 20 + STEPS_OF_GROUP[128]

    # The ledger says the same as what arrived.
    (run,) = json.loads(program(cluster.home, "runs", "--corpus", "posts", "-o", "json"))
    assert (run["run"], run["plan"], run["corpora"]) == ("r", plan.hash, ["posts@0"])
    assert run["entered"][0] == entered(mill, plan)[0] and run["steps"] >= 60
    assert "1 from step" in program(cluster.home, "runs")
    seen = json.loads(program(cluster.home, "runs", "--corpus", "posts@0", "--saw", "15", "--saw", "16", "-o", "json"))
    for key in (15, 16):
        (slot,) = slots_of_keys(plan, {key})
        arrived = {
            (step, delivered)
            for rank in told
            for step, batch in enumerate(rank)
            for _, row, delivered in batch["rows"]  # type: ignore[attr-defined]
            if row == slot
        }
        found = {(s["step"], not s["is_masked"]) for s in seen if s["key"] == [str(key)] and s["step"] < 60}
        assert found == arrived and arrived, key
    assert all(s["is_masked"] for s in seen if s["key"] == ["15"] and s["step"] > masked_from)


def test_ranks_of_a_job_are_in_one_run(cluster: Cluster) -> None:  # noqa: F811
    def loader(rank: int, run: str | None) -> corpusmill.Loader:
        plan = corpusmill.Plan("posts", warehouse=cluster.home / "warehouse", run=run, **PACKED)  # type: ignore[arg-type]
        return corpusmill.Loader(plan, rank, 2, source=cluster.source, job="j")

    first = loader(0, "r")
    next(first)
    for other in (None, "another"):
        with pytest.raises(corpusmill.PlanError, match="job j: rank 1 has plan .* in run r"):
            next(loader(1, other))
    next(loader(1, "r"))


def test_a_takedown_without_a_run_is_told(cluster: Cluster) -> None:  # noqa: F811
    assert json.loads(program(cluster.home, "takedown", "posts", "--key", "5", "-o", "json")) == []
    assert json.loads(program(cluster.home, "runs", "-o", "json")) == []
    plan = corpusmill.Plan("posts", warehouse=cluster.home / "warehouse", run="r", **PACKED)  # type: ignore[arg-type]
    next(corpusmill.Loader(plan))
    missing = subprocess.run(
        [str(PROGRAM), "--home", str(cluster.home), "takedown", "posts", "--key", "999999"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 1 and "nothing was taken down" in missing.stderr, missing.stderr
    (run,) = json.loads(program(cluster.home, "runs", "-o", "json"))
    assert run["run"] == "r" and run["entered"][0]["entries"] == 0
