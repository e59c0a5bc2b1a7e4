"""The torch loader: alone, in DataLoader, in StatefulDataLoader, and against the numpy one."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import corpusmill  # noqa: E402
import corpusmill.torch  # noqa: E402


def test_tensors_are_the_numpy_arrays(warehouse):
    plan = warehouse.plan(pack=64, columns=["label", "embedding", "flagged"])
    reference = iter(corpusmill.Loader(plan))
    for step, got in zip(range(5), corpusmill.torch.Loader(plan), strict=False):
        expected = next(reference)
        assert got.keys() == {"step", *expected}
        assert got["step"] == step
        for field in expected:
            if isinstance(got[field], torch.Tensor):
                np.testing.assert_array_equal(got[field].numpy(), expected[field])
            else:
                assert got[field] == expected[field]
    assert got["input_ids"].dtype == torch.int32
    assert got["loss_mask"].dtype == torch.bool
    assert got["embedding"].shape[1] == 8


def test_no_copy_from_the_batch_to_the_tensor(warehouse):
    batch = next(iter(corpusmill.Loader(warehouse.plan(pack=64))))
    tensor = torch.from_numpy(batch["input_ids"])
    assert tensor.data_ptr() == batch["input_ids"].ctypes.data
    tensor[0, 0] = 123_456
    assert batch["input_ids"][0, 0] == 123_456


def test_only_the_fields_asked_for(warehouse):
    batch = next(iter(corpusmill.torch.Loader(warehouse.plan(pack=64), fields=["input_ids", "loss_mask"])))
    assert batch.keys() == {"input_ids", "loss_mask", "step"}


def test_nulls_in_integers_are_refused_with_the_fix(warehouse):
    plan = warehouse.plan(columns=["votes"], global_batch=100)
    with pytest.raises(corpusmill.PlanError, match="fill={'votes': -100}"):
        next(iter(corpusmill.torch.Loader(plan)))
    plan = warehouse.plan(columns=["votes"], global_batch=100, fill={"votes": -100})
    assert (next(iter(corpusmill.torch.Loader(plan)))["votes"] == -100).any()


def test_inside_a_data_loader(warehouse):
    plan = warehouse.plan(pack=64, epochs=1)
    expected = [b["input_ids"] for b in corpusmill.torch.Loader(plan)]
    wrapped = torch.utils.data.DataLoader(corpusmill.torch.Loader(plan), batch_size=None, num_workers=0)
    for _ in range(2):
        got = [b["input_ids"] for b in wrapped]
        assert len(got) == len(expected) == len(wrapped)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_worker_processes_are_refused(warehouse):
    wrapped = torch.utils.data.DataLoader(
        corpusmill.torch.Loader(warehouse.plan(pack=64)), batch_size=None, num_workers=1
    )
    with pytest.raises(Exception, match="num_workers=0"):
        next(iter(wrapped))


def test_inside_a_stateful_data_loader(warehouse):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    plan = warehouse.plan(pack=64, epochs=1)
    expected = [b["input_ids"] for b in corpusmill.torch.Loader(plan)]
    first = stateful(corpusmill.torch.Loader(plan), batch_size=None, num_workers=0)
    it = iter(first)
    for i in range(6):
        assert torch.equal(next(it)["input_ids"], expected[i])
    state = first.state_dict()
    second = stateful(corpusmill.torch.Loader(plan), batch_size=None, num_workers=0)
    second.load_state_dict(state)
    rest = [b["input_ids"] for b in second]
    assert len(rest) == len(expected) - 6
    assert all(torch.equal(a, b) for a, b in zip(rest, expected[6:], strict=True))


def test_training_stops_and_goes_on_at_another_world_size(warehouse):
    """A small classifier over embeddings: two ranks, then three, see each row of the epoch once."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 3)
    classes = {"none": 0, "spam": 1, "hate": 2}
    plan = warehouse.plan(
        tokens=None, columns=["embedding", "label"], filter="label IS NOT NULL", epochs=1, global_batch=24
    )
    seen: list[int] = []
    state = None
    for world, steps in ((2, 11), (3, None)):
        loaders = [corpusmill.torch.Loader(plan, r, world) for r in range(world)]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        for step, parts in enumerate(zip(*loaders, strict=True)):
            for part in parts:
                labels = torch.tensor([classes[x] for x in part["label"]], dtype=torch.long)
                if len(labels):
                    torch.nn.functional.cross_entropy(model(part["embedding"]), labels).backward()
                seen += part["row_slot"].tolist()
            if steps is not None and step + 1 == steps:
                break
        state = loaders[0].state_dict()
    assert len(seen) == len(set(seen)) == plan.rows["posts@0"]


def test_pinning_needs_a_device(warehouse):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(corpusmill.PlanError, match="CUDA"):
        corpusmill.torch.Loader(warehouse.plan(), pin_memory=True)
    batch = next(iter(corpusmill.torch.Loader(warehouse.plan(), device="cpu")))
    assert batch["input_ids"].device.type == "cpu"
