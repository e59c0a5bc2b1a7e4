"""Arrow Flight from a worker: corpora and streams, read by pyarrow's client."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pytest
from conftest import posts
from test_served import PROGRAM, Cluster, cluster, plan_of, until  # noqa: F401

import corpusmill

flight = pytest.importorskip("pyarrow.flight")

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"not run here: Arrow Flight, there is no program {PROGRAM}: cargo build"
)


@pytest.fixture()
def client(cluster: Cluster):  # noqa: F811
    """A client of a third worker, which serves Flight at a port of the system's choice."""
    cluster.workers.append(cluster.start_worker("--flight", "127.0.0.1:0"))
    until("the worker serves", lambda: cluster.logs().count("a worker serves worker=") >= 3)
    (port,) = re.findall(r"serves Arrow Flight address=127\.0\.0\.1:(\d+)", cluster.logs())
    with flight.connect(f"grpc://127.0.0.1:{port}") as connected:
        yield connected


def read(client, endpoint) -> pa.Table:
    return client.do_get(endpoint.ticket).read_all()


def of_stream(client, plan: dict[str, object], **more: object):
    command = flight.FlightDescriptor.for_command(json.dumps({"stream": {"plan": plan} | more}))
    (endpoint,) = client.get_flight_info(command).endpoints
    return client.do_get(endpoint.ticket)


def test_a_corpus_is_read_shard_by_shard_without_its_masked_rows(client):
    (listed,) = client.list_flights()
    info = client.get_flight_info(flight.FlightDescriptor.for_path("posts"))
    assert listed.total_records == info.total_records == 3000 - 4
    assert len(info.endpoints) == 3
    table = pa.concat_tables([read(client, endpoint) for endpoint in info.endpoints])
    assert table.schema.equals(info.schema) and table.num_rows == 2996
    expected = posts(3000)
    got = table.sort_by("post_id")
    kept = pa.compute.is_in(expected["post_id"], value_set=got["post_id"])
    for name in ("post_id", "input_ids", "label", "agreement", "votes"):
        assert got[name].to_pylist() == expected.filter(kept)[name].to_pylist(), name


def test_columns_and_shards_are_chosen(client):
    wanted = {"corpus": {"name": "posts@0", "columns": ["label", "post_id"], "shard": 1}}
    info = client.get_flight_info(flight.FlightDescriptor.for_command(json.dumps(wanted)))
    (endpoint,) = info.endpoints
    table = read(client, endpoint)
    assert table.column_names == ["label", "post_id"] and 0 < table.num_rows < 3000


@pytest.mark.parametrize("shape", [{"pack": 128}, {"columns": ["votes", "label"], "max_length": 40}])
def test_a_stream_has_the_batches_of_the_loader(client, cluster, shape):  # noqa: F811
    arguments = {"global_batch": 8, "seed": 3, "epochs": 1} | shape
    local = plan_of(cluster, **({"pack": None, "columns": [], "fill": None} | arguments))
    for rank in range(2):
        reader = of_stream(client, {"corpora": ["posts"]} | arguments, rank=rank, world=2)
        batches = corpusmill.Loader(local, rank, 2)
        count = 0
        for chunk, batch in zip(reader, batches, strict=True):
            expected = pa.record_batch(batch.arrow())
            for name in expected.schema.names:
                assert chunk.data[name].to_pylist() == expected[name].to_pylist(), (name, batch.step)
            count += 1
        assert count == len(local)


def test_a_stream_begins_and_ends_where_it_is_told(client, cluster):  # noqa: F811
    plan = {"corpora": ["posts@0"], "global_batch": 8, "seed": 3, "pack": 128, "tokens": "input_ids"}
    table = of_stream(client, plan, step=7, steps=3).read_all()
    local = iter(corpusmill.Loader(plan_of(cluster, epochs=None, columns=[], fill=None)))
    expected = [batch["input_ids"] for step, batch in zip(range(10), local, strict=False) if step >= 7]
    np.testing.assert_array_equal(np.array(table["input_ids"].to_pylist()), np.concatenate(expected))


@pytest.mark.parametrize(
    ("descriptor", "error", "told"),
    [
        (flight.FlightDescriptor.for_path("post"), KeyError, "did you mean `posts`"),
        (flight.FlightDescriptor.for_path("posts@7"), KeyError, "posts"),
        (flight.FlightDescriptor.for_path("a", "b"), pa.ArrowInvalid, "a path of one part"),
        (flight.FlightDescriptor.for_command(b"SELECT 1"), pa.ArrowInvalid, "expected JSON such as"),
        (flight.FlightDescriptor.for_command(b'{"corpus": {"name": "posts", "columns": ["x"]}}'), KeyError, "`x`"),
        (
            flight.FlightDescriptor.for_command(b'{"stream": {"plan": {"corpora": ["posts"]}, "rank": 3, "world": 2}}'),
            pa.ArrowInvalid,
            "rank",
        ),
    ],
)
def test_what_is_wrong_is_said(client, descriptor, error, told):
    with pytest.raises(error, match=re.escape(told)):
        client.get_flight_info(descriptor)
