"""An S3 server that fails (``tests/s3/server.py``), altered shards, and logs that another writer cleaned up."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import posts

import corpusmill

SERVER = pathlib.Path(__file__).parents[2] / "tests" / "s3" / "server.py"


class S3:
    """The server; its bucket is ``lake``."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)], cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None and self.process.stdin is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.endpoint: str = json.loads(self.output.readline())["s3"]
        self.python("s3.create_bucket(Bucket='lake')")

    def python(self, code: str) -> Any:
        """Runs Python in the server, and gives what it left in ``value``."""
        print(json.dumps(code), file=self.input, flush=True)
        reply = json.loads(self.output.readline())
        assert "error" not in reply, f"{reply['error']} in:\n{code}"
        return reply["value"]

    def upload(self, folder: str, prefix: str) -> None:
        """Puts every file of a folder below a prefix."""
        self.python(
            "import pathlib\n"
            f"root = pathlib.Path({folder!r})\n"
            "for file in root.rglob('*'):\n"
            "    if file.is_file():\n"
            f"        put('lake', {prefix!r} + '/' + file.relative_to(root).as_posix(), file.read_bytes())"
        )

    def faults(self, **every: int) -> None:
        """Every so many requests fail: ``status_503=4``, ``drop=3``; none without."""
        kinds = {kind.removeprefix("status_"): often for kind, often in every.items()}
        self.python(f"proxy.every = {kinds!r}; proxy.made.clear()")


@pytest.fixture(scope="module")
def server(warehouse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One server for all tests here, with the shared warehouse at ``s3://lake/corpora``."""
    missing = [m for m in ("moto", "flask", "boto3") if importlib.util.find_spec(m) is None]
    if missing:
        pytest.skip(f"not run here: {__name__}, no Python package {', '.join(missing)} (moto[server])")
    server = S3(tmp_path_factory.mktemp("s3"))
    server.upload(warehouse.path, "corpora")
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def lake(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server without faults, and the variables that users set."""
    for name, value in {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.faults()


def plan_of(corpus: object, cache: pathlib.Path, **arguments: object) -> corpusmill.Plan:
    options: dict[str, Any] = {"cache_dir": str(cache), "global_batch": 12, "seed": 3, "epochs": 1} | arguments
    return corpusmill.Plan(corpus, **options)


def batches(plan: corpusmill.Plan) -> list[dict[str, np.ndarray]]:
    return [{name: np.array(batch[name]) for name in ("row_slot", "input_ids")} for batch in corpusmill.Loader(plan)]


def same(left: list[dict[str, np.ndarray]], right: list[dict[str, np.ndarray]]) -> None:
    assert len(left) == len(right) and left
    for a, b in zip(left, right, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_an_unsteady_server_costs_time_and_no_row(lake: S3, warehouse, tmp_path):
    wanted = batches(warehouse.plan("posts@0", epochs=1))
    lake.faults(status_503=5, status_500=7, drop=3)
    same(batches(plan_of("s3://lake/corpora/posts@0", tmp_path / "cache")), wanted)
    made = lake.python("value = dict(proxy.made)")
    assert set(made) == {"503", "500", "drop"}, f"the proxy made no such faults: {made}"


def test_a_server_that_is_away_for_a_while_during_a_pass(lake: S3, warehouse, tmp_path):
    wanted = batches(warehouse.plan("posts@0", epochs=1))
    plan = plan_of("s3://lake/corpora/posts@0", tmp_path / "cache", memory_bytes=0)
    lake.faults(status_503=1)
    lake.python(
        "import threading\n"
        "timer = threading.Timer(1.0, proxy.every.clear)\n"
        "timer.start()"
    )
    same(batches(plan), wanted)
    assert lake.python("value = proxy.made['503']") > 0


def test_the_log_of_a_live_plan_is_kept_there(lake: S3, tmp_path):
    # A group is 2,048 rows: eight steps. Every second answer to a PUT is lost, so its repetition finds its own object.
    def plan() -> corpusmill.Plan:
        name, cache = "s3://lake/corpora/posts@0", tmp_path / "cache"
        return plan_of(name, cache, run="r", epochs=None, global_batch=256)

    def rows(batch: corpusmill.Batch) -> list[tuple[int, bool]]:
        return list(zip(batch["row_slot"].tolist(), batch["row_mask"].tolist(), strict=True))

    loader = corpusmill.Loader(plan(), prefetch_bytes=1)
    lake.faults(status_503=6, lost=2, drop=5)
    seen = [rows(next(loader)) for _ in range(3)]
    assert plan().takedown(range(0, 1000, 2)) == {"entries": [0], "rows": 500, "missing": []}
    seen += [rows(next(loader)) for _ in range(27)]
    masked = [step for step, found in enumerate(seen) if not all(delivered for _, delivered in found)]
    assert masked == list(range(8, 30))
    assert lake.python("value = proxy.made['lost']") > 1
    lake.faults()
    replay = corpusmill.Loader(plan())
    assert [rows(next(replay)) for _ in seen] == seen


def test_refused_keys_are_told_at_once(lake: S3, tmp_path):
    lake.faults(status_403=1)
    with pytest.raises(corpusmill.CorpusmillError, match=r"InvalidAccessKeyId.*AWS_ACCESS_KEY_ID"):
        plan_of("s3://lake/corpora/posts@0", tmp_path / "cache")


def test_a_block_that_was_changed_on_the_server_is_found(lake: S3, own_warehouse, tmp_path):
    own_warehouse.write("posts", posts(200), shards=1, partition_by=[])
    lake.upload(own_warehouse.path, "damaged")
    lake.python(
        "[key] = [k for k in keys('lake', 'damaged/posts/') if k.endswith('.parquet')]\n"
        "content = bytearray(s3.get_object(Bucket='lake', Key=key)['Body'].read())\n"
        "content[200] ^= 1\n"
        "put('lake', key, bytes(content))"
    )
    with pytest.raises(corpusmill.CorruptBlockError, match="damaged/posts"):
        batches(plan_of("s3://lake/damaged/posts@0", tmp_path / "cache"))


CHECKPOINT = """
import json, os, pathlib, sys
import deltalake, pyarrow
log = pathlib.Path(sys.argv[1]) / "_delta_log"
# The fixtures write no metadata, which other readers need; a build does.
first = log / f"{0:020}.json"
schema = deltalake.Schema.from_arrow(pyarrow.schema([("post_id", pyarrow.int64()), ("split", pyarrow.string())]))
metadata = {"id": "fixture", "format": {"provider": "parquet", "options": {}}, "schemaString": schema.to_json(),
            "partitionColumns": ["split"], "configuration": {}, "createdTime": 0}
first.write_text(first.read_text() + json.dumps({"metaData": metadata}) + "\\n")
deltalake.DeltaTable(sys.argv[1]).create_checkpoint()
assert (log / "_last_checkpoint").exists() and list(log.glob("*.checkpoint.parquet"))
print("made", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("kept", [1, 2, 3], ids=lambda kept: f"from-{kept}")
def test_a_log_that_another_writer_checkpointed_and_cleaned(lake: S3, own_warehouse, tmp_path, kept):
    """Commits before the checkpoint may be gone; the versions that they made are still read."""
    if importlib.util.find_spec("deltalake") is None:
        pytest.skip("not run here: test_a_log_that_another_writer_checkpointed_and_cleaned, no Python package deltalake")
    for version in range(4):
        own_warehouse.write("posts", posts(100 + 10 * version, seed=version))
    folder = pathlib.Path(own_warehouse.path) / "posts"
    wanted = [batches(own_warehouse.plan(f"posts@{version}", epochs=1)) for version in range(4)]
    made = subprocess.run([sys.executable, "-c", CHECKPOINT, str(folder)], capture_output=True, text=True, check=False)
    assert made.stdout == "made\n", made.stderr
    for version in range(kept):
        (folder / "_delta_log" / f"{version:020}.json").unlink()
    prefix = f"cleaned-{kept}"
    lake.upload(own_warehouse.path, prefix)
    for place in (own_warehouse.path, f"s3://lake/{prefix}"):
        for version in range(4):
            same(batches(plan_of(f"{place}/posts@{version}", tmp_path / f"{version}")), wanted[version])
        assert plan_of(f"{place}/posts", tmp_path / "3").sources == ["posts@3"]
        with pytest.raises(corpusmill.NotFoundError, match="0.*3"):
            plan_of(f"{place}/posts@4", tmp_path / "4")
