"""Damage, caches, bounds, forks, and the errors that people see."""

from __future__ import annotations

import logging
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import corpusmill
from conftest import posts


def damage(path: pathlib.Path) -> None:
    """Flips a byte in the middle of the first block."""
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)


@pytest.fixture
def damaged(own_warehouse):
    own_warehouse.write("posts", posts(600), shards=2)
    damage(own_warehouse.shards("posts")[0])
    return own_warehouse


def test_damage_raises_and_names_the_file_and_block(damaged):
    name = damaged.shards("posts")[0].name
    with pytest.raises(corpusmill.CorruptBlockError) as e:
        list(corpusmill.Loader(damaged.plan(epochs=1)))
    assert name in str(e.value) and "block 0" in str(e.value) and 'on_corrupt="mask"' in str(e.value)


def test_damage_arrives_as_mask_and_moves_nothing(damaged, own_warehouse, caplog):
    arguments = {"epochs": 1, "pack": 64, "columns": ["label", "votes", "agreement"], "on_corrupt": "mask"}
    whole = corpusmill.Plan("posts", warehouse=own_warehouse.path, cache_dir="", global_batch=12, seed=3, **arguments)
    with caplog.at_level(logging.WARNING, "corpusmill"):
        loader = corpusmill.Loader(whole)
        batches = list(loader)
    masked = sum(int((~b["row_mask"]).sum()) for b in batches)
    assert masked >= 60, "one block of 64 rows, less its empty documents"
    assert loader.stats().masked == masked
    assert any("block 0" in r.message and "mask" in r.message for r in caplog.records)
    damage(own_warehouse.shards("posts")[0])  # a second flip repairs it
    repaired = list(corpusmill.Loader(damaged.plan(**arguments)))
    for a, b in zip(batches, repaired, strict=True):
        np.testing.assert_array_equal(a["row_slot"], b["row_slot"])
        np.testing.assert_array_equal(a["input_ids"][a["loss_mask"]], b["input_ids"][a["loss_mask"]])
        gone = ~a["row_mask"]
        assert [x for x, g in zip(a["label"], gone, strict=True) if g] == [None] * int(gone.sum())
        assert np.isnan(a["agreement"][gone]).all()


def test_a_missing_shard_is_damage_too(own_warehouse):
    own_warehouse.write("posts", posts(300))
    own_warehouse.shards("posts")[0].unlink()
    with pytest.raises(corpusmill.CorruptBlockError):
        list(corpusmill.Loader(own_warehouse.plan(epochs=1)))
    assert any((~b["row_mask"]).any() for b in corpusmill.Loader(own_warehouse.plan(epochs=1, on_corrupt="mask")))


def test_a_failed_step_can_be_tried_again(damaged):
    loader = corpusmill.Loader(damaged.plan(shuffle=False, epochs=1))
    with pytest.raises(corpusmill.CorruptBlockError):
        for _ in loader:
            pass
    step = loader.step
    damage(damaged.shards("posts")[0])
    rest = [b.step for b in iter(loader)]
    assert rest == list(range(step, 50))


def test_later_epochs_come_from_the_local_cache(own_warehouse):
    own_warehouse.write("posts", posts(600))
    first = corpusmill.Loader(own_warehouse.plan(epochs=1))
    expected = [b["input_ids"].copy() for b in first]
    assert first.stats().blocks_read > 5 and first.stats().cache_hits == 0
    shutil.rmtree(pathlib.Path(own_warehouse.path) / "posts" / "split=train")
    shutil.rmtree(pathlib.Path(own_warehouse.path) / "posts" / "split=valid")
    second = corpusmill.Loader(own_warehouse.plan(epochs=1))
    for a, b in zip(expected, second, strict=True):
        np.testing.assert_array_equal(a, b["input_ids"])
    stats = second.stats()
    assert stats.blocks_read == 0 and stats.cache_hits > 5 and stats.memory_hits > 0


def test_a_damaged_cache_file_is_read_again(own_warehouse):
    own_warehouse.write("posts", posts(600))
    expected = [b["input_ids"].copy() for b in corpusmill.Loader(own_warehouse.plan(epochs=1))]
    files = sorted(pathlib.Path(own_warehouse.cache).glob("*.arrow"))
    for number, file in enumerate(files):
        data = bytearray(file.read_bytes())
        if number % 3 == 0:
            data = data[: len(data) // 2]
        elif number % 3 == 1:
            data[len(data) // 2] ^= 1
        else:
            data = bytearray()
        file.unlink()
        file.write_bytes(data)
    loader = corpusmill.Loader(own_warehouse.plan(epochs=1))
    for a, b in zip(expected, loader, strict=True):
        np.testing.assert_array_equal(a, b["input_ids"])
    assert loader.stats().blocks_read == len(files)


def test_the_cache_keeps_its_bound(own_warehouse):
    own_warehouse.write("posts", posts(2000))
    bound = 200_000
    plan = own_warehouse.plan(epochs=1, cache_bytes=bound, memory_bytes=50_000)
    assert sum(len(b["row_slot"]) for b in corpusmill.Loader(plan)) == 2000
    files = list(pathlib.Path(own_warehouse.cache).iterdir())
    assert files and sum(f.stat().st_size for f in files) <= bound
    assert all(f.suffix == ".arrow" for f in files)


def test_a_cache_folder_that_cannot_be_made_is_an_error(own_warehouse, tmp_path):
    own_warehouse.write("posts", posts(10))
    (tmp_path / "file").write_text("")
    with pytest.raises(corpusmill.PlanError, match="cache_dir"):
        own_warehouse.plan(cache_dir=tmp_path / "file" / "cache")


def test_prefetch_keeps_its_bound(warehouse):
    plan = warehouse.plan(pack=1024, global_batch=8)
    bytes_of_a_batch = None
    for bound in (1, 400_000):
        loader = corpusmill.Loader(plan, prefetch_bytes=bound, threads=3)
        it = iter(loader)
        first = next(it)
        bytes_of_a_batch = bytes_of_a_batch or loader.stats().bytes
        deadline = time.monotonic() + 5
        while loader.stats().prefetch_bytes_peak < bytes_of_a_batch and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(10):
            next(it)
        peak = loader.stats().prefetch_bytes_peak
        assert 0 < peak <= max(bound, bytes_of_a_batch * 1.2)
        assert first.step == 0


def test_stats_count_what_was_delivered(warehouse):
    loader = corpusmill.Loader(warehouse.plan(epochs=1, max_length=50))
    rows = [b for b in loader]
    stats = loader.stats()
    assert stats.batches == len(rows)
    assert stats.samples == 1000
    assert stats.tokens == sum(int(b["lengths"].sum()) for b in rows)
    assert stats.bytes > stats.tokens * 4
    assert 0 <= stats.wait_share <= 1
    assert stats.elapsed_s >= stats.wait_s >= 0 and stats.first_batch_s > 0


def test_a_slow_loader_warns_once(warehouse, monkeypatch):
    import corpusmill.loader as module

    monkeypatch.setattr(module, "_SLOW_AFTER_S", 0.0)
    loader = corpusmill.Loader(warehouse.plan(pack=64), prefetch_bytes=1, threads=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _, _batch in zip(range(200), loader, strict=False):
            pass
    slow = [w for w in caught if issubclass(w.category, corpusmill.SlowLoaderWarning)]
    assert len(slow) == 1 and "prefetch_bytes" in str(slow[0].message)


def test_a_fork_is_found_out(warehouse):
    loader = corpusmill.Loader(warehouse.plan(pack=64))
    next(iter(loader))
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            try:
                next(iter(loader))
                said = "nothing"
            except corpusmill.ForkError as e:
                said = str(e)
            del loader
            os.write(write, said.encode())
        finally:
            os._exit(0)
    os.close(write)
    said = os.read(read, 4096).decode()
    os.waitpid(pid, 0)
    assert "after a fork" in said and "num_workers=0" in said
    assert next(iter(loader)).step == 1, "the parent goes on"


def test_a_plan_and_a_loader_can_be_pickled(warehouse):
    plan = warehouse.plan("posts", pack=64)
    loader = corpusmill.Loader(plan)
    it = iter(loader)
    next(it)
    other = pickle.loads(pickle.dumps(loader))
    assert other.plan.hash == plan.hash and other.step == 1
    np.testing.assert_array_equal(next(iter(other))["input_ids"], next(it)["input_ids"])


def test_ending_the_interpreter_with_batches_in_the_making(warehouse):
    code = (
        "import corpusmill;"
        f"p = corpusmill.Plan('posts', warehouse={warehouse.path!r}, cache_dir='', global_batch=12, pack=64);"
        "l = corpusmill.Loader(p); b = next(iter(l)); print(b['input_ids'].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "(12, 64)" and done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"corpus": "post"}, "NotFoundError", "did you mean `posts`"),
        ({"corpus": "posts@9"}, "NotFoundError", "has versions 0 to 0"),
        ({"corpus": "posts@x"}, "CorpusmillError", "it has no tags"),
        ({"warehouse": "/nowhere/at/all"}, "NotFoundError", "there is no folder /nowhere/at/all"),
        ({"columns": ["lable"]}, "PlanError", "did you mean `label`"),
        ({"columns": "label"}, "PlanError", r"columns=\['label'\]"),
        ({"columns": ["label", "label"]}, "PlanError", "twice"),
        ({"tokens": "tokens"}, "PlanError", "no column `tokens`"),
        ({"tokens": "label"}, "PlanError", "not a list of integers"),
        ({"tokens": None}, "PlanError", "nothing to deliver"),
        ({"tokens": None, "columns": ["label"], "pack": 8}, "PlanError", "packs are made of tokens"),
        ({"pack": 0}, "PlanError", "pack is an integer from 1"),
        ({"pack": 64, "max_length": 3}, "PlanError", "leave max_length out"),
        ({"pad": "max"}, "PlanError", "max_length, which is missing"),
        ({"long": "cut"}, "PlanError", '"split", "truncate", "drop"'),
        ({"seed": -1}, "PlanError", "seed is an integer from 0"),
        ({"global_batch": 1.5}, "PlanError", "global_batch is an integer"),
        ({"global_batch": True}, "PlanError", "global_batch is an integer"),
        ({"balance": "agreement"}, "PlanError", "classes are"),
        ({"balance": "lable"}, "PlanError", "did you mean `label`"),
        ({"balance": {"label": {"spamm": 1}}}, "PlanError", "did you mean `spam`"),
        ({"corpus": {"posts": 1, "posts@0": 1}}, "PlanError", "named twice"),
        ({"corpus": {"posts": -1}}, "PlanError", "posts@0"),
        ({"weights_at": {5: {"nobody": 1}}}, "PlanError", "none of the plan's corpora"),
        ({"fill": {"votes": 1}}, "PlanError", "not among the columns"),
        ({"fill": {"flagged": 0.5}, "columns": ["votes", "flagged"]}, None, None),
        ({"fill": {"votes": 0.5}, "columns": ["votes"]}, "PlanError", "0.5 is not a value of column `votes`"),
        ({"fill": {"label": 0}, "columns": ["label"]}, "PlanError", "0 is not a value of column `label`"),
        ({"epochs": 0}, "PlanError", "epochs"),
        ({"on_corrupt": "skip"}, "PlanError", '"raise", "mask"'),
    ],
)
def test_errors_name_the_argument_and_the_fix(warehouse, arguments, error, message):
    arguments = dict(arguments)
    corpus = arguments.pop("corpus", "posts@0")
    if error is None:
        warehouse.plan(corpus, **arguments)
        return
    with pytest.raises(getattr(corpusmill, error), match=message):
        warehouse.plan(corpus, **arguments)


@pytest.mark.parametrize(
    ("rank", "world", "message"), [(0, 5, "nearest world sizes: 4 or 6"), (4, 4, "ranks are 0 to 3"), (-1, 4, "rank: -1")]
)
def test_world_sizes_that_cannot_work(warehouse, rank, world, message):
    with pytest.raises(corpusmill.PlanError, match=message):
        corpusmill.Loader(warehouse.plan(), rank, world)


def test_a_state_of_another_plan_says_what_differs(warehouse):
    state = corpusmill.Loader(warehouse.plan(pack=64)).state_dict()
    loader = corpusmill.Loader(warehouse.plan(pack=64, seed=9))
    with pytest.raises(corpusmill.StateError, match="differ in: seed"):
        loader.load_state_dict(state)
    for broken in ({}, {"step": 1}, state | {"format": 99}, state | {"step": "x"}, [1]):
        with pytest.raises(corpusmill.StateError):
            loader.load_state_dict(broken)


def test_unknown_fields_name_the_nearest(warehouse):
    with pytest.raises(corpusmill.PlanError, match="did you mean `input_ids`"):
        corpusmill.Loader(warehouse.plan(), fields=["input_id"])
    batch = next(iter(corpusmill.Loader(warehouse.plan())))
    with pytest.raises(KeyError, match="did you mean `row_slot`"):
        batch["row_slots"]
    with pytest.raises(corpusmill.PlanError, match=r"corpusmill\.Plan"):
        corpusmill.Loader("posts@0")


def test_a_filter_over_a_damaged_block(damaged, caplog):
    with pytest.raises(corpusmill.CorruptBlockError, match="block 0"):
        damaged.plan(filter="agreement > 0.5")
    with caplog.at_level(logging.WARNING, "corpusmill"):
        plan = damaged.plan(filter="agreement > -1", on_corrupt="mask")
    assert plan.rows == {"posts@0": 600 - 64}
    assert any("64 rows are left out" in r.message for r in caplog.records)
    drawn = [s for b in corpusmill.Loader(damaged.plan(filter="agreement > -1", on_corrupt="mask", epochs=1)) for s in b["row_slot"]]
    assert len(drawn) == len(set(drawn)) == 600 - 64


def test_provenance_of_damaged_rows_is_masked(damaged):
    with pytest.raises(corpusmill.CorruptBlockError):
        damaged.plan(shuffle=False, epochs=1, global_batch=70).provenance(0)
    rows = damaged.plan(shuffle=False, epochs=1, global_batch=70, on_corrupt="mask").provenance(0)
    assert [r["masked"] for r in rows] == [True] * 64 + [False] * 6
    assert all(("post_id" in r) != r["masked"] for r in rows)


def test_what_a_filter_found_is_kept(own_warehouse):
    own_warehouse.write("posts", posts(500))
    arguments = {"filter": "agreement > 0.5 AND label = 'none'", "balance": "votes"}
    first = own_warehouse.plan(**arguments)
    for shard in own_warehouse.shards("posts"):
        shard.write_bytes(b"a second plan does not read this")
    assert own_warehouse.plan(**arguments).hash == first.hash
    (kept,) = (pathlib.Path(own_warehouse.cache) / "kept").glob("*.rows")
    for broken in (b"", kept.read_bytes()[:-9], kept.read_bytes()[:20] + b"\x01" + kept.read_bytes()[21:]):
        kept.write_bytes(broken)
        with pytest.raises(corpusmill.CorruptBlockError):
            own_warehouse.plan(**arguments)
    with pytest.raises(corpusmill.CorruptBlockError):
        own_warehouse.plan(filter="agreement > 0.4")


def test_steps_of_a_packed_plan_are_kept(own_warehouse):
    own_warehouse.write("posts", posts(3000))
    plan = own_warehouse.plan(pack=64, epochs=2)
    steps = len(plan)
    assert steps == len(list(corpusmill.Loader(plan)))
    assert list((pathlib.Path(own_warehouse.cache) / "kept").glob("*.groups"))
    again = own_warehouse.plan(pack=64, epochs=2)
    assert len(again) == steps
    assert again.provenance(steps - 1) == plan.provenance(steps - 1)


def test_row_lengths_that_are_damaged_are_found(own_warehouse):
    own_warehouse.write("posts", posts(300))
    (lengths,) = (pathlib.Path(own_warehouse.path) / "posts" / "_corpusmill" / "lengths").glob("*.bin")
    data = bytearray(lengths.read_bytes())
    data[100] ^= 1
    lengths.write_bytes(data)
    loader = corpusmill.Loader(own_warehouse.plan(pack=64))
    with pytest.raises(corpusmill.CorruptBlockError, match="row lengths"):
        next(iter(loader))
    data[100] ^= 1
    lengths.write_bytes(data)
    assert next(iter(loader)).step == 0
