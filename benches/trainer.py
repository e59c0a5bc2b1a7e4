"""A trainer that only takes batches, for the stream bench: ``python trainer.py JSON``.

It imports, says ``ready``, waits for a line, reads the plan, and prints what it measured as a line of JSON. The JSON it is
given: ``warehouse``, ``cache_dir``; ``source`` and ``transport`` for a stream, ``flight`` (an address) for Arrow Flight;
``rank`` and ``world``; ``pause_s`` for each batch; ``kill_after`` batches, after which it kills the worker that serves it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import corpusmill

import samples

FIELDS = ["input_ids", "cu_seqlens"]


PLAN = {"global_batch": samples.PACKS, "pack": samples.PACK, "seed": samples.SEED, "epochs": 1}


def _cpu_us() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e6


class _Reader:
    """Batches of a loader, as the bytes of their arrays."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        plan = corpusmill.Plan("bench@0", warehouse=wanted["warehouse"], cache_dir=wanted["cache_dir"], **PLAN)
        source = wanted.get("source")
        served = {"source": source, "transport": wanted.get("transport", "auto")} if source else {}
        self.loader = corpusmill.Loader(plan, wanted["rank"], wanted["world"], fields=FIELDS, **served)

    def __iter__(self) -> Iterator[int]:
        for batch in self.loader:
            yield sum(batch[field].nbytes for field in FIELDS)

    def kill(self) -> None:
        assert self.loader.served_by is not None
        os.kill(int(self.loader.served_by[1].removeprefix("worker-")), signal.SIGKILL)

    def counts(self) -> dict[str, Any]:
        stats = self.loader.stats()
        return {"samples": stats.samples, "wait_share": stats.wait_share, "failovers": stats.failovers}


class _FlightReader:
    """The same batches by Arrow Flight, with pyarrow's client."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        from pyarrow import flight

        stream = {"plan": {"corpora": ["bench@0"], **PLAN}, "rank": wanted["rank"], "world": wanted["world"]}
        client = flight.connect(f"grpc://{wanted['flight']}")
        command = flight.FlightDescriptor.for_command(json.dumps({"stream": stream}))
        (endpoint,) = client.get_flight_info(command).endpoints
        self.stream = client.do_get(endpoint.ticket)

    def __iter__(self) -> Iterator[int]:
        for chunk in self.stream:
            yield chunk.data.nbytes

    def counts(self) -> dict[str, Any]:
        return {}


def main() -> None:
    wanted = json.loads(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    cpu, began = _cpu_us(), time.perf_counter()
    reader = _FlightReader(wanted) if wanted.get("flight") else _Reader(wanted)
    last, first_s, longest_s, got, batches = began, 0.0, 0.0, 0, 0
    for size in reader:
        now = time.perf_counter()
        if batches == 0:
            first_s = now - began
        longest_s = max(longest_s, now - last) if batches else 0.0
        got, batches = got + size, batches + 1
        if batches == wanted.get("kill_after"):
            assert isinstance(reader, _Reader)
            reader.kill()
        if wanted.get("pause_s"):
            time.sleep(wanted["pause_s"])
        last = time.perf_counter()
    measured = {"cpu_us": _cpu_us() - cpu, "wall_s": time.perf_counter() - began, "first_s": first_s}
    print(json.dumps({**measured, "longest_s": longest_s, "bytes": got, "batches": batches, **reader.counts()}))


if __name__ == "__main__":
    main()
