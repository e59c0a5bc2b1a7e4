"""Streams over networks that delay, lose, flip and cut: the batches are those of local reading, to the byte."""

from __future__ import annotations

import pathlib
import random
import socket
import time
from collections.abc import Iterator

import pytest
from conftest import posts
from fault_proxy import Faults, Proxy
from test_served import PROGRAM, Cluster, digest, digests, plan_of, until

import corpusmill
from corpusmill import _native

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"not run here: bad networks, there is no program {PROGRAM}: cargo build"
)


class BadNetwork:
    """A coordinator, and two workers that trainers reach through proxies."""

    def __init__(self, home: pathlib.Path) -> None:
        self.seed = random.randrange(2**32)
        print("seed", self.seed)
        self.cluster = Cluster(home)
        self.cluster.coordinator = self.cluster.start_coordinator()
        self.proxies: list[Proxy] = []
        for number in range(2):
            port = free_port()
            proxy = Proxy(port, Faults(), self.seed + number)
            self.proxies.append(proxy)
            reached = f"127.0.0.1:{proxy.port}"
            worker = self.cluster.start_worker("--stream-port", str(port), "--stream-address", reached)
            self.cluster.workers.append(worker)
        until("the workers serve", lambda: self.cluster.logs().count("a worker serves worker=") >= 2)

    def set(self, **faults: object) -> None:
        for proxy in self.proxies:
            for name, value in faults.items():
                setattr(proxy.faults, name, value)

    def loader(self, plan: corpusmill.Plan) -> corpusmill.Loader:
        return corpusmill.Loader(plan, source=self.cluster.source, transport="tcp")

    def close(self) -> None:
        for proxy in self.proxies:
            proxy.close()
        self.cluster.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture()
def network(tmp_path: pathlib.Path) -> Iterator[BadNetwork]:
    home = tmp_path / "home"
    (home / "warehouse").mkdir(parents=True)
    _native._testing.write_corpus(
        str(home / "warehouse"), "posts", posts(3000), primary_key=["post_id"], shards=3, block_rows=64
    )
    made = BadNetwork(home)
    try:
        yield made
    finally:
        made.close()


def test_delay_and_loss_cost_time_and_nothing_else(network: BadNetwork) -> None:
    plan = plan_of(network.cluster)
    network.set(delay_s=0.01, loss=0.03)
    loader = network.loader(plan)
    assert digests(loader) == digests(corpusmill.Loader(plan))
    assert sum(proxy.losses for proxy in network.proxies) > 0
    assert loader.stats().failovers == 0, network.cluster.logs()


def test_connections_that_are_cut_are_made_again(network: BadNetwork) -> None:
    plan = plan_of(network.cluster)
    network.set(cut_after=200_000)
    loader = network.loader(plan)
    assert digests(loader) == digests(corpusmill.Loader(plan))
    assert sum(proxy.cuts for proxy in network.proxies) >= 2 and loader.stats().failovers >= 2


def test_bytes_that_were_flipped_never_arrive(network: BadNetwork) -> None:
    plan = plan_of(network.cluster)
    network.set(flip=0.05, flip_from=20_000)
    loader = network.loader(plan)
    assert digests(loader) == digests(corpusmill.Loader(plan))
    assert sum(proxy.flips for proxy in network.proxies) > 0


def test_a_network_that_stands_still_is_left_for_another_worker(network: BadNetwork) -> None:
    plan = plan_of(network.cluster)
    expected = digests(corpusmill.Loader(plan))
    loader = network.loader(plan)
    got = [digest(next(loader)) for _ in range(5)]
    assert loader.served_by is not None
    # The proxy of the worker that serves.
    serving = [w.pid for w in network.cluster.workers].index(int(loader.served_by[1].removeprefix("worker-")))
    network.proxies[serving].faults.frozen = True
    began = time.monotonic()
    got += digests(loader)
    assert got == expected
    assert loader.stats().failovers >= 1 and time.monotonic() - began < 60
