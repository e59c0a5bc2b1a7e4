"""`corpusmill.torch.Loader` in a `DeviceMesh`: real processes, against the batches of a single one."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import corpusmill  # noqa: E402
import corpusmill.torch  # noqa: E402
from corpusmill.mesh import Place  # noqa: E402
from mesh_ranks import STEPS, WORLD, plan  # noqa: E402


@pytest.fixture(scope="module")
def ranks(warehouse, tmp_path_factory):
    """What each of the eight ranks wrote."""
    out = tmp_path_factory.mktemp("ranks")
    script = pathlib.Path(__file__).with_name("mesh_ranks.py")
    ran = subprocess.run(
        [sys.executable, str(script), warehouse.path, warehouse.cache, str(out)],
        capture_output=True, text=True, timeout=180, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def alone(warehouse, rank, world):
    loader = corpusmill.torch.Loader(plan(warehouse.path, warehouse.cache), rank, world)
    return [batch for _, batch in zip(range(STEPS), loader, strict=False)]


@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
def test_slices_of_context_parallel_ranks_make_the_packs(warehouse, ranks, layout):
    for dp in range(2):
        expected = alone(warehouse, dp, 2)
        for step in range(STEPS):
            # Ranks count as dp, cp, tp: the last the fastest.
            parts = [ranks[dp * 4 + cp * 2][layout]["batches"][step] for cp in range(2)]
            for field in ("input_ids", "position_ids", "doc_ids", "loss_mask"):
                quarters = [part[field].chunk(1 if layout == "contiguous" else 2, dim=1) for part in parts]
                order = (
                    [quarters[0][0], quarters[1][0]]
                    if layout == "contiguous"
                    else [quarters[0][0], quarters[1][0], quarters[1][1], quarters[0][1]]
                )
                assert torch.equal(torch.cat(order, dim=1), expected[step][field]), field
            assert all(torch.equal(part["cu_seqlens"], expected[step]["cu_seqlens"]) for part in parts)
            assert all(part["label"] == expected[step]["label"] for part in parts)


def test_labels_are_the_next_tokens_across_slices(warehouse, ranks):
    for dp in range(2):
        for step, whole in enumerate(alone(warehouse, dp, 2)):
            got = torch.cat([ranks[dp * 4 + cp * 2]["contiguous"]["batches"][step]["labels"] for cp in range(2)], dim=1)
            ids, docs, counts = (whole[field] for field in ("input_ids", "doc_ids", "loss_mask"))
            for row in range(ids.shape[0]):
                for i in range(ids.shape[1]):
                    inside = i + 1 < ids.shape[1] and docs[row, i] == docs[row, i + 1] and counts[row, i + 1]
                    assert got[row, i] == (ids[row, i + 1] if inside else -100)


def test_tensor_parallel_peers_share_one_fetch(ranks):
    for first in range(0, WORLD, 2):
        leader, peer = ranks[first]["zigzag"], ranks[first + 1]["zigzag"]
        assert (leader["fetched"], peer["fetched"]) == (2, 0)
        assert leader["state"] == peer["state"] == ranks[0]["zigzag"]["state"]
        for a, b in zip(leader["batches"], peer["batches"], strict=True):
            assert list(a) == list(b)
            for field, value in a.items():
                same = torch.equal(value, b[field]) if isinstance(value, torch.Tensor) else value == b[field]
                assert same, field


def test_middle_stages_get_no_tokens(warehouse, ranks):
    for dp in range(2):
        expected = alone(warehouse, dp, 2)
        for stage in range(3):
            for whole, got in zip(expected, ranks[stage * 2 + dp]["pipeline"], strict=True):
                assert ("input_ids" in got) == ("embedding" in got) == (stage != 1)
                for field in ("position_ids", "cu_seqlens", "loss_mask"):
                    assert torch.equal(got[field], whole[field])


def test_what_does_not_fit_is_refused_on_every_rank(ranks):
    for rank, got in enumerate(ranks):
        assert "ranks [0, 2, 4, 6] on" in got["different plans"], rank
        assert rank >= 6 or "mesh_dims={'replica': 'dp'}" in got["unknown dimension"]


def test_sequences_that_cannot_be_cut_are_refused():
    with pytest.raises(corpusmill.PlanError, match="pack=66 cannot be cut into 4 equal parts"):
        Place(cp=(0, 2)).check_length(66, "zigzag")
    with pytest.raises(corpusmill.PlanError, match="packed plan"):
        Place(cp=(0, 2)).check_length(None, "contiguous")
    with pytest.raises(corpusmill.PlanError, match="'contiguous' or 'zigzag'"):
        Place(cp=(0, 2)).check_length(64, "rings")
