"""A corpus in an S3 bucket: the same batches as from local files, blocks fetched once, errors that say what to do."""

from __future__ import annotations

import pathlib
import time

import numpy as np
import pytest

import corpusmill

moto_server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")

BUCKET = "lake"


@pytest.fixture
def lake(warehouse, monkeypatch):
    """The warehouse of the tests in a bucket, and a client of the server."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=BUCKET)
    folder = pathlib.Path(warehouse.path)
    for file in folder.rglob("*"):
        if file.is_file():
            client.upload_file(str(file), BUCKET, f"corpora/{file.relative_to(folder)}")
    yield client
    server.stop()


def test_a_bucket_gives_the_same_batches_and_is_read_once(warehouse, lake, tmp_path):
    arguments = {"pack": 64, "columns": ["label", "split"], "filter": "split = 'train'", "epochs": 1}
    cache = {"cache_dir": tmp_path, "global_batch": 12, "seed": 3}
    local = list(corpusmill.Loader(warehouse.plan(**arguments)))
    plan = corpusmill.Plan(f"s3://{BUCKET}/corpora/posts@0", **cache, **arguments)
    assert plan.hash == warehouse.plan(**arguments).hash
    for a, b in zip(local, corpusmill.Loader(plan), strict=True):
        for name in ("input_ids", "doc_ids", "loss_mask"):
            np.testing.assert_array_equal(a[name], b[name])
    # The shards go; what was fetched stays in the cache.
    for page in lake.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="corpora/posts/split="):
        for found in page["Contents"]:
            lake.delete_object(Bucket=BUCKET, Key=found["Key"])
    again = corpusmill.Plan("posts@latest", warehouse=f"s3://{BUCKET}/corpora", **cache, **arguments)
    assert sum(1 for _ in corpusmill.Loader(again)) == len(local)


def test_mixtures_name_their_bucket_once(warehouse, lake):
    name = f"s3://{BUCKET}/corpora/posts@0"
    plan = corpusmill.Plan({name: 1.0}, filter={name: "split = 'train'"}, cache_dir="", global_batch=4)
    assert plan.rows.keys() == {"posts@0"}
    with pytest.raises(corpusmill.PlanError, match="one warehouse"):
        corpusmill.Plan({name: 0.5, "posts@0": 0.5})
    with pytest.raises(corpusmill.PlanError, match="one warehouse"):
        corpusmill.Plan(name, warehouse="elsewhere")


def test_what_is_wrong_with_a_bucket_is_said_at_once(lake, monkeypatch):
    began = time.monotonic()
    with pytest.raises(corpusmill.CorpusmillError, match="there is no bucket `pond`"):
        corpusmill.Plan("s3://pond/corpora/posts@0")
    with pytest.raises(corpusmill.NotFoundError, match="did you mean `posts`"):
        corpusmill.Plan(f"s3://{BUCKET}/corpora/post@0")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(corpusmill.CorpusmillError, match="no answer from http://127.0.0.1:1"):
        corpusmill.Plan(f"s3://{BUCKET}/corpora/posts@0")
    assert time.monotonic() - began < 20
