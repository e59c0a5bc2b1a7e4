"""Live plans, read locally: changes reach running jobs at one step on all ranks, and a replay says the same."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import conftest
import numpy as np
import pytest
from conftest import Warehouse, posts
from test_served import digest

import corpusmill

#: A group has 2,048 turns: some 16 steps of these packs, 32 of these rows.
PACKED = {"pack": 128, "global_batch": 32, "cache_dir": "", "columns": ["votes"], "fill": {"votes": -1}}
PADDED = PACKED | {"pack": None, "max_length": 40, "global_batch": 64}
STEPS_OF_GROUP = {128: 16, None: 32}
#: One step more than the consumer wants is made ahead.
AHEAD = {"prefetch_bytes": 1, "threads": 2}


@pytest.fixture()
def mill(own_warehouse: Warehouse) -> Warehouse:
    own_warehouse.write("posts", posts(3000))
    own_warehouse.write("other", posts(400, seed=11, start=100_000))
    return own_warehouse


def records(mill: Warehouse, plan: corpusmill.Plan) -> list[pathlib.Path]:
    return sorted((pathlib.Path(mill.path) / "_plans" / plan.hash / "runs" / str(plan.run)).glob("*.json"))


def entered(mill: Warehouse, plan: corpusmill.Plan) -> list[dict[str, int]]:
    """How far the run came under how many entries."""
    found: list[dict[str, int]] = json.loads(records(mill, plan)[-1].read_text())["entered"]
    return found


def rows_of(batch: corpusmill.Batch) -> list[tuple[int, int, bool]]:
    return list(zip(batch["row_source"].tolist(), batch["row_slot"].tolist(), batch["row_mask"].tolist(), strict=True))


def slots_of_keys(plan: corpusmill.Plan, keys: set[int]) -> set[int]:
    """The slots of some posts, by a pass over all rows of their corpus."""
    every = corpusmill.Plan("posts", warehouse=plan._arguments["warehouse"], tokens=None, columns=["post_id"],
                            shuffle=False, epochs=1, global_batch=500, cache_dir="")  # fmt: skip
    batches = [(b["post_id"].tolist(), b["row_slot"].tolist()) for b in corpusmill.Loader(every)]
    return {slot for found, slots in batches for key, slot in zip(found, slots, strict=True) if key in keys}


def check_masked(batch: corpusmill.Batch, row: int) -> None:
    """A masked row keeps its length and has nothing in it."""
    if "loss_mask" in batch:
        pack, start, length = (int(batch[f][row]) for f in ("doc_pack", "doc_start", "doc_length"))
        assert not batch["input_ids"][pack, start : start + length].any()
        assert not batch["loss_mask"][pack, start : start + length].any()
    else:
        assert not batch["input_ids"][row].any() and not batch["attention_mask"][row].any()
    assert batch["votes"][row] == -1


def test_a_plan_without_a_run_has_no_log(mill: Warehouse) -> None:
    plan = mill.plan(**PACKED)
    for _ in zip(range(40), corpusmill.Loader(plan, **AHEAD), strict=False):
        pass
    for change in (lambda: plan.takedown([1]), lambda: plan.reweigh({"posts": 1.0}), plan.log):
        with pytest.raises(corpusmill.PlanError, match='run="NAME"'):
            change()
    assert plan.run is None and not (pathlib.Path(mill.path) / "_plans").exists()


@pytest.mark.parametrize("shape", [PACKED, PADDED])
def test_a_run_without_changes_is_the_plan(mill: Warehouse, shape: dict[str, object]) -> None:
    plain, live = mill.plan(**shape), mill.plan(run="r", **shape)
    assert plain.hash == live.hash
    pairs = zip(range(50), corpusmill.Loader(plain, **AHEAD), corpusmill.Loader(live, **AHEAD), strict=False)
    for _, a, b in pairs:
        assert digest(a) == digest(b)
    assert live.log() == [] and live.log(3) == []
    with pytest.raises(corpusmill.PlanError, match="run: 'a/b' is not a name|run: \"a/b\" is not a name"):
        mill.plan(run="a/b", **shape)


@pytest.mark.parametrize("shape", [PACKED, PADDED])
def test_a_takedown_masks_from_the_next_group_on_and_moves_nothing(
    mill: Warehouse, shape: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    keys = set(range(0, 3000, 3))
    plan = mill.plan(run="r", **shape)
    gone = slots_of_keys(plan, keys)
    assert len(gone) == 1000
    loader = corpusmill.Loader(plan, **AHEAD)
    plain = iter(corpusmill.Loader(mill.plan(**shape), **AHEAD))
    for _ in range(5):
        assert digest(next(loader)) == digest(next(plain))
    told = plan.takedown([*keys, 999_999], note="order 17")
    assert told == {"entries": [0], "rows": 1000, "missing": [["999999"]]}
    masked_from = None
    for step in range(5, 100):
        batch, before = next(loader), next(plain)
        was, now = rows_of(before), rows_of(batch)
        assert [r[:2] for r in was] == [r[:2] for r in now], "every row keeps its place"
        masked = [row for row, (_, slot, delivered) in enumerate(now) if not delivered and slot in gone]
        assert len(masked) == sum(not r[2] for r in now), "nothing else is masked"
        if masked and masked_from is None:
            masked_from = step
        if masked_from is not None and step > masked_from:
            # The first step may begin in the group before.
            assert not [slot for _, slot, delivered in now if delivered and slot in gone]
            for row in masked:
                check_masked(batch, row)
        assert plan.provenance(step, keys=False) == [
            {"corpus": "posts@0", "slot": slot, "masked": not delivered}
            for slot, delivered in dict((slot, delivered) for _, slot, delivered in now).items()
        ]
        assert [entry["number"] for entry in plan.log(step)] == ([] if masked_from is None else [0])
    assert masked_from is not None and masked_from <= 7 + STEPS_OF_GROUP[shape["pack"]]  # type: ignore[index]
    assert plan.log()[0]["note"] == "order 17" and "mask" in plan.log()[0]["change"]
    first, second = entered(mill, plan)
    assert (first["entries"], second["entries"]) == (0, 1) and first["steps"] == masked_from
    said = [record.message for record in caplog.records if "of the plan's log" in record.message]
    assert said == [
        f"entry 0 of the plan's log holds from step {masked_from} on: 1000 rows of posts@0 were taken down, "
        "and arrive as mask"
    ]
    # Whoever makes the plan anew, at any world size, has the same; so has a run that begins now from its first step on.
    again = mill.plan(run="r", **shape)
    assert again.provenance(masked_from + 1) == plan.provenance(masked_from + 1)
    later = next(iter(corpusmill.Loader(mill.plan(run="later", **shape))))
    assert not [slot for _, slot, delivered in rows_of(later) if delivered and slot in gone]


def test_new_weights_hold_from_the_next_group_on(mill: Warehouse) -> None:
    corpora = {"posts": 0.9, "other": 0.1}
    plan = mill.plan(corpora, run="r", **PACKED)
    loader = corpusmill.Loader(plan, **AHEAD)
    plain = iter(corpusmill.Loader(mill.plan(corpora, **PACKED), **AHEAD))
    for _ in range(3):
        assert digest(next(loader)) == digest(next(plain))
    assert plan.reweigh({"other": 1.0}) == 0
    changed = [step for step in range(3, 60) if digest(next(loader)) != digest(next(plain))]
    assert changed == list(range(changed[0], 60)) and changed[0] <= 5 + STEPS_OF_GROUP[128] * 2
    for step in (changed[0] + 1, 59):
        assert {row["corpus"] for row in plan.provenance(step, keys=False)} == {"other@0"}
    # A rank that comes back needs the log, and goes on in the same order.
    state = loader.state_dict()
    assert state["log"] == 1
    resumed = corpusmill.Loader(mill.plan(corpora, run="r", **PACKED), **AHEAD)
    resumed.load_state_dict(state)
    for _ in range(5):
        assert digest(next(resumed)) == digest(next(loader))
    for other in ({}, {"run": "another"}):
        stranger = corpusmill.Loader(mill.plan(corpora, **PACKED, **other), **AHEAD)
        with pytest.raises(corpusmill.StateError, match="run that"):
            stranger.load_state_dict(state)
    with pytest.raises(corpusmill.PlanError, match="`othr`"):
        plan.reweigh({"othr": 1.0})
    with pytest.raises(corpusmill.PlanError, match="no weight is above 0"):
        plan.reweigh({"other": 0.0})
    assert len(plan.log()) == 1, "a refused change leaves nothing behind"


def test_a_bad_block_is_masked_for_all(mill: Warehouse) -> None:
    plan = mill.plan(run="r", **(PACKED | {"shuffle": False, "global_batch": 64}))
    loader = corpusmill.Loader(plan, **AHEAD)
    next(loader)
    folder, last = pathlib.Path(mill.path) / "posts", 2999
    file = json.loads((folder / "_corpusmill/manifests/b0.json").read_text())["shard_files"][-1]
    block, shard = file["blocks"][-1], folder / file["path"]
    with pytest.raises(corpusmill.PlanError, match="slots: 3000 is not in posts@0"):
        plan.mask_blocks("posts", [3000])
    told = plan.mask_blocks("posts", [last], note="disk 3")
    assert told == {"entries": [0], "rows": block["rows"], "missing": []}
    data = bytearray(shard.read_bytes())
    data[block["offset"] + block["length"] // 2] ^= 0xFF
    shard.write_bytes(data)
    seen = {}
    for _, batch in zip(range(40), loader, strict=False):
        seen.update({slot: delivered for _, slot, delivered in rows_of(batch)})
    assert last in seen and not seen[last]
    assert [e["change"]["mask"]["reason"] for e in plan.log()] == ["corrupt"]


def test_keys_that_cannot_be_are_told(mill: Warehouse) -> None:
    plan = mill.plan({"posts": 1, "other": 1}, run="r", **PACKED)
    with pytest.raises(corpusmill.PlanError, match="post_id.*Int64"):
        plan.takedown(["seventeen"])
    with pytest.raises(corpusmill.PlanError, match="has 1 columns: post_id"):
        plan.takedown([(1, 2)])
    with pytest.raises(corpusmill.PlanError, match="keys are texts"):
        plan.takedown([1.5])
    with pytest.raises(corpusmill.PlanError, match="none of the 2 keys is in posts@0, other@0"):
        plan.takedown([5000, 5001])
    with pytest.raises(corpusmill.PlanError, match="none of the 1 keys is in other"):
        plan.takedown([5], corpus="other")
    assert plan.log() == []
    told = plan.takedown([5, 100_005, np.int64(7)])
    assert told == {"entries": [0, 1], "rows": 3, "missing": []}
    sources = [entry["change"]["mask"]["source"] for entry in plan.log()]
    assert sources == ["posts@0", "other@0"]


def test_keys_of_several_columns_are_found(own_warehouse: Warehouse) -> None:
    table = posts(700)
    own_warehouse.write("posts", table, primary_key=["day", "post_id"], shards=3)
    plan = own_warehouse.plan(run="r", **PACKED)
    keys = list(zip(table["day"].to_pylist(), table["post_id"].to_pylist(), strict=True))[::7]
    assert plan.takedown(keys)["rows"] == len(keys)
    with pytest.raises(corpusmill.PlanError, match="none of the 1 keys"):
        plan.takedown([(keys[0][0], keys[1][1])])


RANK = """
import json, os, sys
import test_live as t, corpusmill
asked = json.loads(sys.argv[1])
plan = corpusmill.Plan(**asked["plan"])
loader = corpusmill.Loader(plan, asked["rank"], asked["world"], source=asked["source"], job="job", **t.AHEAD)
if asked["state"] is not None:
    loader.load_state_dict(asked["state"])
for batch in loader:
    told = {"step": batch.step, "digest": t.digest(batch), "rows": t.rows_of(batch), "state": loader.state_dict()}
    print(json.dumps(told), flush=True)
    if not sys.stdin.readline():
        os._exit(0)
"""


class Rank:
    """A rank of a run, as a process."""

    def __init__(self, plan: dict[str, object], rank: int, world: int, source: str | None = None,
                 state: dict[str, object] | None = None) -> None:  # fmt: skip
        asked = {"plan": plan, "rank": rank, "world": world, "source": source, "state": state}
        self._process = subprocess.Popen(
            [sys.executable, "-c", RANK, json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=pathlib.Path(conftest.__file__).parent,
        )

    def read(self, steps: int) -> list[dict[str, object]]:
        """What it is handed in the next steps."""
        told = []
        assert self._process.stdin is not None and self._process.stdout is not None
        for _ in range(steps):
            told.append(json.loads(self._process.stdout.readline()))
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return told

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture()
def ranks() -> Iterator[list[Rank]]:
    started: list[Rank] = []
    yield started
    for rank in started:
        rank.kill()


def check_run(
    mill: Warehouse, arguments: dict[str, object], told: list[list[dict[str, object]]], gone: set[int]
) -> int:
    """Holds what the ranks were told against a replay in this process; the step from which on rows were masked."""
    plan, plain = corpusmill.Plan(**arguments), corpusmill.Plan(**(arguments | {"run": None}))  # type: ignore[arg-type]
    first = entered(mill, plan)[0]
    assert first["entries"] == 0
    replay = [corpusmill.Loader(plan, rank, len(told)) for rank in range(len(told))]
    before = [corpusmill.Loader(plain, rank, len(told)) for rank in range(len(told))]
    for step in range(len(told[0])):
        rows = []
        for rank, steps in enumerate(told):
            assert steps[step]["step"] == step
            assert steps[step]["digest"] == digest(next(replay[rank])), f"rank {rank}, step {step}"
            is_plain = steps[step]["digest"] == digest(next(before[rank]))
            assert is_plain or step >= first["steps"], f"rank {rank}, step {step}: what was handed out is fixed"
            rows += steps[step]["rows"]  # type: ignore[operator]
        if step > first["steps"]:
            assert not [slot for _, slot, delivered in rows if delivered and slot in gone], f"step {step}"
            assert [slot for _, slot, delivered in rows if not delivered], f"step {step}"
        seen = {slot: delivered for _, slot, delivered in rows}
        assert {row["slot"]: not row["masked"] for row in plan.provenance(step, keys=False)} == seen
    return first["steps"]


def test_a_takedown_reaches_ranks_in_processes_of_their_own(mill: Warehouse, ranks: list[Rank]) -> None:
    arguments = PACKED | {"corpus": "posts@0", "warehouse": mill.path, "run": "r", "seed": 3}
    ranks += [Rank(arguments, rank, 2) for rank in range(2)]
    told = [rank.read(9) for rank in ranks]
    plan = corpusmill.Plan(**arguments)  # type: ignore[arg-type]
    keys = set(range(0, 3000, 5))
    assert plan.takedown(keys)["rows"] == 600
    told[1] += ranks[1].read(3)
    # A rank that is killed comes back behind its checkpoint, and is handed the same again.
    ranks[0].kill()
    state = told[0][5]["state"]
    ranks.append(Rank(arguments, 0, 2, state=state))  # type: ignore[arg-type]
    again = ranks[-1].read(64)
    assert [t["digest"] for t in again[:3]] == [t["digest"] for t in told[0][6:]]
    told = [told[0][:6] + again, told[1] + ranks[1].read(58)]
    masked_from = check_run(mill, arguments, told, slots_of_keys(plan, keys))
    assert masked_from <= 14 + STEPS_OF_GROUP[128]


def test_ranks_that_enter_a_group_at_once_agree(mill: Warehouse, ranks: list[Rank]) -> None:
    arguments = PADDED | {"corpus": "posts@0", "warehouse": mill.path, "run": "r", "global_batch": 2048}
    ranks += [Rank(arguments, rank, 4) for rank in range(4)]
    plan = corpusmill.Plan(**arguments)  # type: ignore[arg-type]
    told: list[list[dict[str, object]]] = [[], [], [], []]
    keys: set[int] = set()
    for turn in range(8):
        # Each step is a group.
        more = set(range(turn, 3000, 40))
        plan.takedown(more)
        keys |= more
        for steps, rank in zip(told, ranks, strict=True):
            steps += rank.read(2)
    spans = entered(mill, plan)
    assert len(spans) > 4 and [s["entries"] for s in spans] == sorted({s["entries"] for s in spans})
    replay = [corpusmill.Loader(corpusmill.Plan(**arguments), rank, 4) for rank in range(4)]  # type: ignore[arg-type]
    for rank, steps in enumerate(told):
        assert [s["digest"] for s in steps] == [digest(next(replay[rank])) for _ in steps], f"rank {rank}"
