"""``examples/train_fsdp.py``: real processes, and the same losses whatever the number of ranks."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pyarrow as pa
import pytest
from conftest import Warehouse, posts

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "train_fsdp.py"


def train(folder: pathlib.Path, checkpoint: str, ranks: int, steps: int) -> list[float]:
    """Runs the example and returns the loss of each step."""
    shape = ["--tokens", "512", "--pack", "64", "--global-batch", "8", "--corpus", "posts@0"]
    places = ["--home", str(folder), "--checkpoint", str(folder / checkpoint)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    ran = subprocess.run(
        [*launch, str(EXAMPLE), "--steps", str(steps), *shape, *places],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [float(loss) for loss in re.findall(r"^step +\d+  loss ([\d.]+)", ran.stdout, re.MULTILINE)]


def test_losses_do_not_depend_on_ranks(tmp_path):
    table = posts(64)
    ids = pa.array([[token % 500 for token in row] for row in table["input_ids"].to_pylist()], pa.list_(pa.int32()))
    at = table.schema.get_field_index("input_ids")
    Warehouse(tmp_path).write("posts", table.set_column(at, "input_ids", ids))
    stopped = train(tmp_path, "two-then-one", ranks=2, steps=3) + train(tmp_path, "two-then-one", ranks=1, steps=2)
    alone = train(tmp_path, "one", ranks=1, steps=5)
    assert len(stopped) == len(alone) == 5
    assert stopped == pytest.approx(alone, rel=2e-3)
    assert alone[-1] < alone[0]
