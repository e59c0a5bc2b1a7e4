"""What is in a batch: packing and padding against plain Python, columns, masks, Arrow."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

import corpusmill
from conftest import Warehouse, posts


def by_slot(warehouse, name="posts@0"):
    """The table's rows in slot order, found out from a sequential pass over the key column."""
    plan = warehouse.plan(name, shuffle=False, epochs=1, tokens=None, columns=["post_id"], global_batch=5000)
    (batch,) = corpusmill.Loader(plan)
    ids = batch["post_id"]
    rows = {r["post_id"]: r for r in warehouse.tables[name].to_pylist()}
    assert sorted(ids.tolist()) == sorted(rows)
    return [rows[i] for i in ids.tolist()]


def oracle_pack(batch, rows, sequence, pad_id):
    """Lays out the documents of a packed batch token by token."""
    packs = batch["input_ids"].shape[0]
    out = {
        "input_ids": [[pad_id] * sequence for _ in range(packs)],
        "position_ids": [[0] * sequence for _ in range(packs)],
        "doc_ids": [[-1] * sequence for _ in range(packs)],
        "loss_mask": [[False] * sequence for _ in range(packs)],
    }
    documents = pa.record_batch(batch.documents()).to_pylist()
    filled = [0] * packs
    number = [0] * packs
    bounds = [0]
    for at, doc in enumerate(documents):
        pack, tokens = doc["doc_pack"], rows[doc["row_slot"]]["input_ids"]
        tokens = tokens[doc["doc_offset"] : doc["doc_offset"] + doc["doc_length"]]
        assert len(tokens) == doc["doc_length"] > 0
        assert doc["doc_start"] == filled[pack], "documents follow each other without gaps"
        for i, token in enumerate(tokens):
            place = filled[pack] + i
            out["input_ids"][pack][place] = token
            out["position_ids"][pack][place] = i
            out["doc_ids"][pack][place] = number[pack]
            out["loss_mask"][pack][place] = True
        filled[pack] += len(tokens)
        number[pack] += 1
        bounds.append(pack * sequence + filled[pack])
        last_of_pack = at + 1 == len(documents) or documents[at + 1]["doc_pack"] != pack
        if last_of_pack and filled[pack] < sequence:
            bounds.append((pack + 1) * sequence)
    out["cu_seqlens"] = bounds
    return out, documents


@pytest.mark.parametrize(
    ("sequence", "long", "ids"), [(64, "split", "int32"), (40, "split", "int64"), (25, "truncate", "int32"), (25, "drop", "int32")]
)
def test_packing_equals_plain_python(warehouse, sequence, long, ids):
    rows = by_slot(warehouse)
    plan = warehouse.plan(pack=sequence, long=long, ids=ids, pad_id=-7, epochs=1, columns=["label"])
    seen: dict[int, int] = {}
    for batch in corpusmill.Loader(plan):
        expected, documents = oracle_pack(batch, rows, sequence, -7)
        for field, value in expected.items():
            np.testing.assert_array_equal(batch[field], value, err_msg=field)
        assert batch["input_ids"].dtype == np.dtype(ids) == batch["position_ids"].dtype
        assert batch["cu_seqlens"].dtype == np.int32
        assert batch["loss_mask"].dtype == np.bool_
        assert batch["max_seqlen"] == np.diff(batch["cu_seqlens"]).max()
        assert batch["label"] == [rows[d["row_slot"]]["label"] for d in documents]
        for d in documents:
            assert d["doc_offset"] == seen.get(d["row_slot"], 0) or long == "split"
            seen[d["row_slot"]] = seen.get(d["row_slot"], 0) + d["doc_length"]
    lengths = [len(r["input_ids"]) for r in rows]
    expected = {
        "split": {i: n for i, n in enumerate(lengths) if n},
        "truncate": {i: min(n, sequence) for i, n in enumerate(lengths) if n},
        "drop": {i: n for i, n in enumerate(lengths) if 0 < n <= sequence},
    }[long]
    assert seen == expected
    counts = plan.counts()
    too_long = sum(n > sequence for n in lengths)
    assert counts["empty"] == sum(n == 0 for n in lengths)
    assert counts["documents"] == len(expected)
    assert counts["tokens"] == sum(expected.values())
    assert {k: counts[k] for k in ("split", "truncated", "left_out")} == {
        "split": too_long if long == "split" else 0,
        "truncated": too_long if long == "truncate" else 0,
        "left_out": too_long if long == "drop" else 0,
    }


@pytest.mark.parametrize(("pad", "max_length"), [("longest", None), ("longest", 30), ("max", 30), ("max", 100)])
def test_padding_equals_plain_python(warehouse, pad, max_length):
    rows = by_slot(warehouse)
    plan = warehouse.plan(pad=pad, max_length=max_length, pad_id=9, epochs=1)
    for batch in corpusmill.Loader(plan):
        tokens = [rows[s]["input_ids"][:max_length] for s in batch["row_slot"].tolist()]
        width = max_length if pad == "max" else max(map(len, tokens))
        np.testing.assert_array_equal(batch["input_ids"], [t + [9] * (width - len(t)) for t in tokens])
        np.testing.assert_array_equal(batch["attention_mask"], [[1] * len(t) + [0] * (width - len(t)) for t in tokens])
        assert batch["lengths"].tolist() == [len(t) for t in tokens]
        assert batch["row_mask"].all()


def test_columns_arrive_as_they_are_stored(warehouse):
    rows = by_slot(warehouse)
    columns = ["post_id", "label", "agreement", "votes", "flagged", "embedding", "media", "day", "split"]
    plan = warehouse.plan(tokens=None, columns=columns, epochs=1, global_batch=100)
    for batch in corpusmill.Loader(plan):
        expected = [rows[s] for s in batch["row_slot"].tolist()]
        assert batch["post_id"].dtype == np.int64
        assert batch["post_id"].tolist() == [r["post_id"] for r in expected]
        assert batch["agreement"].tolist() == [r["agreement"] for r in expected]
        assert batch["flagged"].dtype == np.bool_
        assert batch["flagged"].tolist() == [r["flagged"] for r in expected]
        assert batch["label"] == [r["label"] for r in expected]
        assert batch["media"] == [r["media"] for r in expected]
        assert batch["split"] == [r["split"] for r in expected]
        assert batch["embedding"].shape == (len(expected), 8)
        assert batch["embedding"].dtype == np.float32
        assert batch["embedding"].tolist() == [r["embedding"] for r in expected]
        votes = batch["votes"]
        assert isinstance(votes, np.ma.MaskedArray)
        assert votes.tolist() == [r["votes"] for r in expected]
        epoch = datetime.date(1970, 1, 1)
        assert batch["day"].tolist() == [(r["day"] - epoch).days for r in expected]


def test_fill_takes_the_place_of_nulls(warehouse):
    rows = by_slot(warehouse)
    plan = warehouse.plan(columns=["votes"], fill={"votes": -100}, epochs=1)
    for batch in corpusmill.Loader(plan):
        expected = [-100 if rows[s]["votes"] is None else rows[s]["votes"] for s in batch["row_slot"].tolist()]
        assert batch["votes"].dtype == np.int32
        assert batch["votes"].tolist() == expected


def test_lists_arrive_ragged(own_warehouse):
    spans = [[1, 2, 3], [], [4], None] * 20
    table = posts(80).append_column("spans", pa.array(spans, pa.list_(pa.int16())))
    own_warehouse.write("posts", table)
    rows = by_slot(own_warehouse)
    plan = own_warehouse.plan(columns=["spans"], epochs=1)
    for batch in corpusmill.Loader(plan):
        values, offsets = batch["spans"]
        assert values.dtype == np.int16 and offsets.dtype == np.int64
        got = [values[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)]
        assert got == [rows[s]["spans"] or [] for s in batch["row_slot"].tolist()]


@pytest.mark.parametrize("ids", ["int32", "int64"])
@pytest.mark.parametrize("largest", [65_535, 65_536, -1])
def test_ids_of_any_size_arrive_as_they_are(own_warehouse, largest, ids):
    """Blocks keep ids in two bytes where all fit: on either side of that, from Parquet and from the cache."""
    table = posts(80).drop_columns("input_ids").append_column(
        "input_ids", pa.array([[0, largest, r] for r in range(80)], pa.list_(pa.int32()))
    )
    own_warehouse.write("posts", table)
    rows = by_slot(own_warehouse)
    for _ in ("first epoch", "cached"):
        plan = own_warehouse.plan(epochs=1, ids=ids)
        for batch in corpusmill.Loader(plan):
            assert batch["input_ids"].tolist() == [rows[s]["input_ids"] for s in batch["row_slot"].tolist()]


def test_arrow_by_capsules(warehouse):
    rows = by_slot(warehouse)
    batch = next(iter(corpusmill.Loader(warehouse.plan(pack=64, columns=["label", "media", "embedding"]))))
    packs = pa.record_batch(batch.arrow())
    packs.validate(full=True)
    assert packs.schema.field("input_ids").type == pa.list_(pa.field("item", pa.int32(), nullable=False), 64)
    np.testing.assert_array_equal(np.array(packs["input_ids"].to_pylist()), batch["input_ids"])
    docs = pa.record_batch(batch.documents())
    docs.validate(full=True)
    for d in docs.to_pylist():
        assert d["media"] == rows[d["row_slot"]]["media"]
        assert d["embedding"] == rows[d["row_slot"]]["embedding"]
    batch = next(iter(corpusmill.Loader(warehouse.plan(max_length=16, columns=["label"]))))
    samples = pa.record_batch(batch.arrow())
    samples.validate(full=True)
    assert samples.schema.names == ["input_ids", "attention_mask", "lengths", "row_mask", "row_source", "row_slot", "label"]
    assert samples.num_rows == 12


def test_arrays_share_memory_and_outlive_the_loader(warehouse):
    loader = corpusmill.Loader(warehouse.plan(pack=64), threads=2)
    it = iter(loader)
    kept = [next(it)["input_ids"] for _ in range(30)]
    copies = [k.copy() for k in kept]
    assert all(not k.flags.owndata and k.flags.writeable for k in kept)
    kept[0][:] = -1
    for _ in range(30):
        next(it)
    del loader, it
    assert (kept[0] == -1).all()
    for a, b in zip(kept[1:], copies[1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_masked_slots_of_a_version_keep_their_places(tmp_path):
    plain, masked = Warehouse(tmp_path / "plain"), Warehouse(tmp_path / "masked")
    plain.write("posts", posts(200))
    masked.write("posts", posts(200), masked=[(10, 20), (150, 151)])
    gone = set(range(10, 20)) | {150}
    arguments = {"pack": 64, "epochs": 1, "columns": ["label", "votes"]}
    before = list(corpusmill.Loader(plain.plan(**arguments)))
    after = list(corpusmill.Loader(masked.plan(**arguments)))
    hidden = 0
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a["row_slot"], b["row_slot"])
        is_gone = np.isin(b["row_slot"], list(gone))
        np.testing.assert_array_equal(b["row_mask"], ~is_gone)
        keep = b["loss_mask"]
        np.testing.assert_array_equal(a["input_ids"][keep], b["input_ids"][keep])
        hidden += int((a["loss_mask"] & ~keep).sum())
        assert not b["input_ids"][~keep].any()
        assert [x for x, m in zip(b["label"], is_gone, strict=True) if m] == [None] * int(is_gone.sum())
    assert hidden == sum(len(r["input_ids"]) for s, r in enumerate(by_slot(plain)) if s in gone)
    assert masked.plan().rows == {"posts@0": 200}
