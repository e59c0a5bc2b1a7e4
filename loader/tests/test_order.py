"""Delivery: exactly once, world-size independence, elastic resume, mixing, balance, passes."""

from __future__ import annotations

import collections
import json

import numpy as np
import pytest

import corpusmill

FIELDS = ["input_ids", "row_source", "row_slot"]


def slots(batch) -> list[tuple[int, int]]:
    return list(zip(batch["row_source"].tolist(), batch["row_slot"].tolist(), strict=True))


def steps(plan, count, rank=0, world=1, state=None):
    loader = corpusmill.Loader(plan, rank, world, fields=FIELDS)
    if state is not None:
        loader.load_state_dict(state)
    it = iter(loader)
    return [next(it) for _ in range(count)], loader.state_dict()


@pytest.mark.parametrize("shape", [{"pack": 128}, {}])
def test_each_row_once_an_epoch(warehouse, shape):
    plan = warehouse.plan(epochs=3, **shape)
    drawn = collections.Counter()
    tokens = 0
    for batch in corpusmill.Loader(plan, fields=FIELDS):
        drawn.update(slots(batch))
        tokens += int(batch["doc_length" if shape else "lengths"].sum())
    table = warehouse.tables["posts@0"]
    lengths = [len(r) for r in table["input_ids"].to_pylist()]
    assert tokens == 3 * sum(lengths)
    expected = sum(n > 0 for n in lengths) if shape else len(lengths)
    assert len(drawn) == expected, "empty documents are in no pack, all others are"
    assert set(drawn.values()) == {3}


def test_epochs_have_different_orders(warehouse):
    plan = warehouse.plan(epochs=2, global_batch=100)
    drawn = [s for batch in corpusmill.Loader(plan) for s in slots(batch)]
    first, second = drawn[:1000], drawn[1000:]
    assert sorted(first) == sorted(second)
    assert first != second
    assert first != sorted(first)


@pytest.mark.parametrize("shape", [{"pack": 96}, {"max_length": 20, "pad": "max"}])
def test_any_world_size_sees_the_same_global_batches(warehouse, shape):
    def whole(world):
        parts = [steps(warehouse.plan(**shape), 7, r, world)[0] for r in range(world)]
        return [np.concatenate([parts[r][i]["input_ids"] for r in range(world)]) for i in range(7)]

    reference = whole(1)
    for world in (2, 3, 4, 6, 12):
        for step, (a, b) in enumerate(zip(reference, whole(world), strict=True)):
            assert a.shape[0] == 12
            np.testing.assert_array_equal(a, b, err_msg=f"world {world}, step {step}")


def test_elastic_resume_over_world_sizes(warehouse):
    arguments = {"pack": 96, "weights_at": {5: {"posts": 0.2, "other": 0.8}}}
    corpora = {"posts@0": 0.7, "other@0": 0.3}
    reference, _ = steps(warehouse.plan(corpora, **arguments), 30)
    got, state = [], None
    for world, count in ((4, 7), (3, 12), (6, 11)):
        plan = warehouse.plan(corpora, **arguments)
        parts, states = zip(*(steps(plan, count, r, world, state) for r in range(world)), strict=True)
        assert all(s == states[0] for s in states), "the state is the same on all ranks"
        state = json.loads(json.dumps(states[0]))
        assert len(json.dumps(state)) < 300
        got += [np.concatenate([parts[r][i]["input_ids"] for r in range(world)]) for i in range(count)]
    for a, b in zip(reference, got, strict=True):
        np.testing.assert_array_equal(a["input_ids"], b)


def test_state_counts_what_was_delivered_not_what_was_made_ahead(warehouse):
    plan = warehouse.plan(pack=96)
    loader = corpusmill.Loader(plan, threads=3)
    it = iter(loader)
    for _ in range(4):
        next(it)
    state = loader.state_dict()
    assert state["step"] == 4 == loader.step
    expected = [next(it)["input_ids"].copy() for _ in range(5)]
    loader.load_state_dict(state)
    again = [next(iter(loader))["input_ids"] for _ in range(5)]
    fresh, _ = steps(warehouse.plan(pack=96), 5, state=state)
    for a, b, c in zip(expected, again, fresh, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c["input_ids"])


def test_weights_are_followed_and_change_at_a_step(warehouse):
    plan = warehouse.plan(
        {"posts@0": 0.75, "other@0": 0.25},
        global_batch=100,
        weights_at={50: {"posts@0": 0.1, "other@0": 0.9}},
    )
    batches, _ = steps(plan, 100)
    share = [float((b["row_source"] == 1).mean()) for b in batches]
    assert np.mean(share[:50]) == pytest.approx(0.25, abs=0.01)
    assert np.mean(share[50:]) == pytest.approx(0.9, abs=0.01)
    drawn = collections.Counter(s for b in batches for s in slots(b))
    for source, rows in ((0, 1000), (1, 300)):
        counts = [n for (s, _), n in drawn.items() if s == source]
        assert len(counts) == rows
        assert max(counts) - min(counts) <= 1, "every row once before any row again"


def test_balanced_sampling_gives_classes_equal_shares(warehouse):
    plan = warehouse.plan(balance="label", columns=["label"], global_batch=60)
    labels = collections.Counter(x for b in steps(plan, 40)[0] for x in b["label"])
    assert set(labels) == {"none", "spam", "hate"}, "rows without a class are not drawn"
    assert max(labels.values()) - min(labels.values()) <= 4
    plan = warehouse.plan(balance={"label": {"hate": 3, "none": 1}}, columns=["label"], global_batch=60)
    labels = collections.Counter(x for b in steps(plan, 40)[0] for x in b["label"])
    assert labels["hate"] == pytest.approx(1800, abs=10)
    assert labels["none"] == pytest.approx(600, abs=10)


def test_evaluation_is_one_pass_in_order_with_a_length_and_a_rest(warehouse):
    plan = warehouse.plan(shuffle=False, epochs=1, global_batch=64)
    loader = corpusmill.Loader(plan)
    assert len(loader) == len(plan) == 16
    for _ in range(2):  # the next iteration begins again
        batches = list(loader)
        assert [b["input_ids"].shape[0] for b in batches] == [64] * 15 + [40]
        assert [s for b in batches for s in slots(b)] == [(0, i) for i in range(1000)]
    dropped = warehouse.plan(shuffle=False, epochs=1, global_batch=64, last_batch="drop")
    assert len(dropped) == 15 == len(list(corpusmill.Loader(dropped)))


def test_the_rest_is_shared_by_the_ranks(warehouse):
    plan = warehouse.plan(shuffle=False, epochs=1, global_batch=999)
    parts = [list(corpusmill.Loader(plan, r, 3)) for r in range(3)]
    assert [len(p) for p in parts] == [2, 2, 2]
    rest = [slots(p[1]) for p in parts]
    assert sorted(sum(rest, [])) == [(0, 999)]
    assert sorted(p[1]["input_ids"].shape[0] for p in parts) == [0, 0, 1]


def test_an_endless_plan_has_no_length(warehouse):
    with pytest.raises(TypeError, match="epochs=N"):
        len(warehouse.plan())


def test_provenance_names_the_rows_of_a_step(warehouse):
    plan = warehouse.plan(pack=96)
    batches, _ = steps(plan, 3)
    rows = plan.provenance(2)
    assert {r["slot"] for r in rows} == {s for _, s in slots(batches[2])}
    keys = {r["post_id"] for r in rows}
    in_tokens = {int(t) // 1000 for t in batches[2]["input_ids"].ravel()} - {0}
    assert keys - {0} == in_tokens - {0}
    assert rows[0].keys() == {"corpus", "slot", "masked", "post_id"}
    assert rows[0]["corpus"] == "posts@0"


def test_plans_of_the_same_arguments_are_the_same(warehouse):
    a, b = warehouse.plan(pack=96), warehouse.plan("posts@0", pack=96, columns=["label"])
    assert a.hash == b.hash, "columns do not decide the order"
    assert warehouse.plan(pack=97).hash != a.hash
    assert warehouse.plan(pack=96, seed=4).hash != a.hash
    assert json.loads(a.spec)["seed"] == 3
