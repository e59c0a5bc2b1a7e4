"""The types that the package declares: mypy finds no fault, and they are those of the compiled part."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import corpusmill

PACKAGE = pathlib.Path(corpusmill.__file__).parent

#: What the compiled part has beyond its stub, and the reverse: `_testing` is in builds for tests only, `__all__` is
#: made by pyo3, and a type with a buffer shows `__buffer__` from Python 3.12 on.
ALLOWED = """
corpusmill._native.__all__
corpusmill._native._testing
corpusmill._native.Tensor.__buffer__
"""

#: A training loop as a person with a type checker writes it.
USE = """
import corpusmill
import corpusmill.torch

plan = corpusmill.Plan("posts@1", seed=7, global_batch=8, pack=128)
loader = corpusmill.torch.Loader(plan, rank=0, world=2)
for batch in loader:
    ids = batch["input_ids"]
    state = loader.state_dict()
loader.load_state_dict(state)
batches: int = plan.global_batch
wrong: str = plan.global_batch
"""


def mypy(*arguments: str, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MYPYPATH": str(PACKAGE.parent), "MYPY_CACHE_DIR": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_package_is_strictly_typed(tmp_path: pathlib.Path) -> None:
    seen = mypy("mypy", "--strict", "--follow-imports=silent", str(PACKAGE), folder=tmp_path)
    assert seen.returncode == 0, seen.stdout + seen.stderr


def test_who_uses_it_sees_types(tmp_path: pathlib.Path) -> None:
    (tmp_path / "use.py").write_text(USE)
    seen = mypy("mypy", "--strict", "--follow-imports=silent", "use.py", folder=tmp_path)
    lines = seen.stdout.strip().splitlines()
    assert len(lines) == 2 and "use.py:12:" in lines[0] and '"int"' in lines[0], seen.stdout + seen.stderr


def test_the_stub_is_what_was_compiled(tmp_path: pathlib.Path) -> None:
    (tmp_path / "allowed").write_text(ALLOWED)
    seen = mypy(
        "mypy.stubtest", "corpusmill._native", "--allowlist", "allowed", "--ignore-unused-allowlist", folder=tmp_path
    )
    assert seen.returncode == 0, seen.stdout + seen.stderr
