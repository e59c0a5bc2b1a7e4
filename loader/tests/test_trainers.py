"""``examples/train_lightning.py`` and ``examples/train_transformers.py``: stopped, gone on, and nothing lost or repeated."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pyarrow as pa
import pytest
from conftest import Warehouse, posts

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home whose tokens are small, and with numbers for labels."""
    folder = tmp_path_factory.mktemp("home")
    table = posts(300)
    ids = pa.array([[token % 500 for token in row] for row in table["input_ids"].to_pylist()], pa.list_(pa.int32()))
    table = table.set_column(table.schema.get_field_index("input_ids"), "input_ids", ids)
    table = table.append_column("label_id", pa.array([row % 3 for row in range(300)], pa.int32()))
    Warehouse(folder).write("posts", table)
    return folder


def train(home, example, folder, steps, *more):
    """Runs the example in ``folder`` and returns [step, rows] of each batch that it trained on."""
    seen = folder / "seen.jsonl"
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / example), "--home", str(home), "--corpus", "posts@0", "--tokens", "512",
         "--steps", str(steps), "--seen", str(seen), *more],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert f"stopped before step {steps}" in ran.stdout
    return [json.loads(line) for line in seen.read_text().splitlines()]


@pytest.mark.parametrize(
    ("example", "package", "more"),
    [
        ("train_lightning.py", "lightning", ["--pack", "64", "--global-batch", "8"]),
        ("train_transformers.py", "accelerate", ["--labels", "3", "--global-batch", "8"]),
    ],
)
def test_a_stopped_run_goes_on_at_the_next_batch(home, tmp_path, example, package, more):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"no {package}")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = train(home, example, whole, 6, *more)
    assert [step for step, _ in expected] == list(range(6))
    train(home, example, parts, 3, *more)
    assert train(home, example, parts, 6, *more) == expected
