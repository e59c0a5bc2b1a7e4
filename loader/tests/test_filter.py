"""Filters against DuckDB, their text form, and what they cost."""

from __future__ import annotations

import duckdb
import pytest

import corpusmill
from corpusmill._native import _testing

FILTERS = [
    "split = 'train'",
    "split != 'train'",
    "agreement >= 0.8",
    "0.2 > agreement",
    "agreement < .5 AND NOT (label = 'spam')",
    "label IS NULL",
    "label IS NOT NULL AND split = 'valid'",
    "NOT label = 'none'",
    "label IN ('spam', 'hate') OR votes = 3",
    "label NOT IN ('spam')",
    "votes > 2.5",
    "votes <> 3 or flagged",
    "flagged = true and not flagged = false",
    "NOT flagged",
    "day >= '2022-01-09' AND day < '2022-01-10'",
    "post_id BETWEEN 100 AND 199",
    "post_id NOT BETWEEN 10 AND 990",
    "label LIKE 's%' OR label LIKE '_ate'",
    '"post_id" IN (1, 2, 3, -4)',
    "(split = 'train' OR votes IS NULL) AND (NOT (votes = 1 OR label = 'hate') OR agreement > 0.9)",
    "NOT (split = 'train' AND votes = 1)",
    "post_id <= 1e2",
]


def selected(warehouse, text, **arguments):
    plan = warehouse.plan(filter=text, tokens=None, columns=["post_id"], shuffle=False, epochs=1, global_batch=9999, **arguments)
    (batch,) = corpusmill.Loader(plan)
    return batch["post_id"].tolist(), plan


@pytest.mark.parametrize("text", FILTERS)
def test_selects_what_duckdb_selects(warehouse, text):
    posts = warehouse.tables["posts@0"]  # noqa: F841 - DuckDB reads it by name
    expected = [r[0] for r in duckdb.sql(f"SELECT post_id FROM posts WHERE {text}").fetchall()]
    assert 0 < len(expected) < 1000, "a filter that tells nothing"
    got, plan = selected(warehouse, text)
    assert sorted(got) == sorted(expected)
    assert plan.rows == {"posts@0": len(expected)}


@pytest.mark.parametrize("text", FILTERS)
def test_the_canonical_text_parses_to_itself(text):
    canonical = _testing.canonical_filter(text)
    assert _testing.canonical_filter(canonical) == canonical


def test_white_space_and_case_do_not_make_another_plan(warehouse):
    a = warehouse.plan(filter="split = 'train'  and\n(agreement>=0.8)")
    b = warehouse.plan(filter="split='train' AND agreement >= 0.8")
    assert a.hash == b.hash


def test_shuffled_and_packed_plans_draw_the_selected_rows_once(warehouse):
    expected, _ = selected(warehouse, "label = 'spam' AND split = 'train'")
    plan = warehouse.plan(filter="label = 'spam' AND split = 'train'", columns=["post_id"], epochs=1, global_batch=10)
    got = [i for batch in corpusmill.Loader(plan) for i in batch["post_id"].tolist()]
    assert sorted(got) == sorted(expected) and got != expected
    plan = warehouse.plan(filter="label = 'spam' AND split = 'train'", columns=["post_id"], epochs=1, pack=64)
    packed = [i for batch in corpusmill.Loader(plan) for i in batch["post_id"].tolist()]
    assert set(packed) <= set(expected)


def test_partition_columns_leave_out_shards_unread(own_warehouse):
    from conftest import posts

    own_warehouse.write("posts", posts(500))
    for path in own_warehouse.shards("posts"):
        if "split=train" in str(path):
            path.write_bytes(b"nothing of this is read")
    got, _ = selected(own_warehouse, "split = 'valid'")
    assert sorted(got) == [i for i in range(500) if i % 10 == 0]
    got, _ = selected(own_warehouse, "split IN ('valid', 'test') AND post_id < 50")
    assert sorted(got) == [0, 10, 20, 30, 40]


def test_a_filter_for_each_corpus(warehouse):
    plan = warehouse.plan(
        {"posts@0": 1, "other@0": 1}, filter={"posts": "split = 'valid'"}, epochs=1, global_batch=100
    )
    assert plan.rows == {"posts@0": 100, "other@0": 300}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("splitt = 'train'", "did you mean `split`"),
        ("split = train", "single quotes: 'train'"),
        ('split = "train"', "single quotes: 'train'"),
        ("split = 'train", "character 9: this quote is not closed"),
        ("split = NULL", "IS NULL"),
        ("split", "not boolean"),
        ("votes = 'three'", "numbers are written without quotes"),
        ("label = 3", "number is compared with a numeric column"),
        ("day = 'yesterday'", "`day` is Date32"),
        ("agreement > 0.5 AND", "expected a column, found the end"),
        ("(agreement > 0.5", "expected `)`"),
        ("agreement > 0.5)", "expected AND, OR or the end, found `)`"),
        ("agreement ! 3", "write != or NOT"),
        ("votes IN ()", "expected a value, found `)`"),
        ("votes = 1 2", "found `2`"),
        ("split; drop", "`;` is not part of a filter"),
        ("votes = 1e999", "is not a number"),
        ("(" * 200 + "flagged" + ")" * 200, "nested deeper"),
        ("input_ids = 3", "cannot be compared"),
        ("", "found the end"),
        ("étoile = 1 ümlaut", "character 12"),
    ],
)
def test_errors_name_the_place_and_the_fix(warehouse, text, message):
    with pytest.raises(corpusmill.PlanError) as e:
        warehouse.plan(filter=text)
    assert message in str(e.value)


def test_a_filter_that_nothing_fulfils_is_an_error(warehouse):
    with pytest.raises(corpusmill.PlanError, match="no row of 'posts' fulfils"):
        warehouse.plan(filter="votes = 99")
