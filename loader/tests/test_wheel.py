"""The wheel installs into a clean environment and works there: with numpy, without torch and pyarrow.

It is put together from the library that the tests have already compiled and the metadata that maturin writes;
`make wheel` compiles the crate once more, optimised.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pathlib
import subprocess
import sys
import venv
import zipfile

import numpy as np
import pytest

import corpusmill

LOADER = pathlib.Path(__file__).parent.parent

#: What a person does first, in an environment that has numpy and nothing else.
USE = """
import importlib.util, sys
for absent in ("torch", "pyarrow"):
    assert importlib.util.find_spec(absent) is None, absent
import corpusmill
assert "site-packages" in corpusmill.__file__, corpusmill.__file__
plan = corpusmill.Plan(sys.argv[2], warehouse=sys.argv[1], seed=1, global_batch=4, pack=64, epochs=1)
loader = corpusmill.Loader(plan, rank=0, world=1)
batches = list(loader)
assert len(batches) > 1 and batches[0]["input_ids"].size > 0
print("ran", len(batches))
"""


def run(*command: str, **more: object) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return str(ended.stdout)


def record(path: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(content)}"


def wheel(folder: pathlib.Path) -> pathlib.Path:
    """Packs the package that is under test as maturin would (Binary Distribution Format, PEP 427)."""
    maturin = pathlib.Path(sys.executable).parent / "maturin"
    if not maturin.exists():
        pytest.skip("maturin is not installed beside this Python")
    metadata = folder / "metadata"
    metadata.mkdir()
    arguments = ["--metadata-directory", str(metadata), "--interpreter", sys.executable]
    run(str(maturin), "pep517", "write-dist-info", *arguments, cwd=LOADER)
    (info,) = metadata.iterdir()
    (tag,) = [line[5:] for line in (info / "WHEEL").read_text().splitlines() if line.startswith("Tag: ")]
    package = pathlib.Path(corpusmill.__file__).parent
    files = {f"corpusmill/{p.relative_to(package)}": p for p in package.rglob("*") if p.is_file()}
    files |= {f"{info.name}/{p.name}": p for p in info.iterdir()}
    files = {name: path for name, path in files.items() if "__pycache__" not in name}
    for wanted in ("__init__.py", "_native.abi3.so", "_native.pyi", "py.typed", "torch.py"):
        assert f"corpusmill/{wanted}" in files, f"{wanted} is not in the package"
    target = folder / f"{info.name.removesuffix('.dist-info')}-{tag}.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        lines = []
        for name, path in files.items():
            content = path.read_bytes()
            archive.writestr(name, content)
            lines.append(record(name, content))
        lines.append(f"{info.name}/RECORD,,")
        archive.writestr(f"{info.name}/RECORD", "\n".join(lines) + "\n")
    return target


def test_the_wheel_works_in_a_clean_environment(tmp_path: pathlib.Path, own_warehouse: object) -> None:
    from conftest import posts

    name = own_warehouse.write("posts", posts(200))  # type: ignore[attr-defined]
    clean = tmp_path / "clean"
    venv.create(clean, with_pip=True)
    python = str(clean / "bin/python")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    run(*pip, str(wheel(tmp_path)), env=environment)
    # numpy as this environment has it, and nothing else of it: no network is needed.
    only = tmp_path / "only-numpy"
    only.mkdir()
    site = pathlib.Path(np.__file__).parent.parent
    for part in ("numpy", "numpy.libs"):
        if (site / part).exists():
            (only / part).symlink_to(site / part)
    environment["PYTHONPATH"] = str(only)
    out = run(python, "-c", USE, own_warehouse.path, name, env=environment, cwd=tmp_path)  # type: ignore[attr-defined]
    assert out.startswith("ran ")
    # What it declares is what it needs.
    shown = run(python, "-m", "pip", "show", "corpusmill", env=environment)
    assert "Requires: numpy" in shown and "Version: " in shown
