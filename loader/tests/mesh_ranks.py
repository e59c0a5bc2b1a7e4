"""Eight ranks in meshes; each writes what it got: ``python mesh_ranks.py WAREHOUSE CACHE OUT``."""

from __future__ import annotations

import os
import pathlib
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import corpusmill
import corpusmill.torch

WORLD = 8
STEPS = 5


def plan(warehouse: str, cache: str, seed: int = 3) -> corpusmill.Plan:
    places = {"warehouse": warehouse, "cache_dir": cache}
    return corpusmill.Plan("posts@0", **places, global_batch=8, pack=64, seed=seed, columns=["label", "embedding"])


def error_of(make: object) -> str:
    try:
        make()  # type: ignore[operator]
    except corpusmill.PlanError as error:
        return str(error)
    return "no error"


def run(rank: int, warehouse: str, cache: str, out: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{out}/store", WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    made = plan(warehouse, cache)
    cube = init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("dp", "cp", "tp"))
    pipeline = DeviceMesh("cpu", torch.arange(6).reshape(3, 2), mesh_dim_names=("pp", "replica"))
    got: dict[str, object] = {}
    for layout in ("contiguous", "zigzag"):
        loader = corpusmill.torch.Loader(made, mesh=cube, cp_layout=layout)
        batches = iter(loader)
        first = [next(batches) for _ in range(2)]
        state = loader.state_dict()
        again = corpusmill.torch.Loader(made, mesh=cube, cp_layout=layout)
        again.load_state_dict(state)
        rest = [batch for _, batch in zip(range(STEPS - 2), again, strict=False)]
        got[layout] = {"batches": first + rest, "state": state, "fetched": loader.stats().batches}
    if rank < 6:
        loader = corpusmill.torch.Loader(made, mesh=pipeline, mesh_dims={"replica": "dp"})
        got["pipeline"] = [batch for _, batch in zip(range(STEPS), loader, strict=False)]
    got["different plans"] = error_of(
        lambda: corpusmill.torch.Loader(plan(warehouse, cache, seed=3 + rank % 2), mesh=cube)
    )
    got["unknown dimension"] = error_of(lambda: corpusmill.torch.Loader(made, mesh=pipeline)) if rank < 6 else ""
    torch.save(got, f"{out}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    # Forked, so that torch is loaded once; nothing of the loader has run yet.
    mp.start_processes(run, tuple(sys.argv[1:4]), nprocs=WORLD, start_method="fork")
    assert all(pathlib.Path(sys.argv[3], f"{rank}.pt").exists() for rank in range(WORLD))
    os._exit(0)
