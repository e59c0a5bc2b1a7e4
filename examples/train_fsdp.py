"""Trains a small language model on packed sequences with FSDP2, one process a rank.

    torchrun --nproc-per-node 2 train_fsdp.py --steps 20
    torchrun --nproc-per-node 4 train_fsdp.py --steps 20        # goes on where two ranks stopped, on four

Each rank reads its own share of the same global batches; nothing is sent between them but gradients. The checkpoint
holds the model's and optimizer's shards (torch.distributed.checkpoint, which redistributes them) and the loader's
state, which is the same on all ranks. Runs on GPUs where there are any, else on the CPU.

Documents of a pack do not see each other: the mask is built from `doc_ids`. A kernel with variable lengths takes
`cu_seqlens` and `max_seqlen` instead.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

import corpusmill
import corpusmill.torch


class Block(nn.Module):
    """Attention inside of documents, and a feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        return x + self.feed(self.norm_2(x))


class LanguageModel(nn.Module):
    """A decoder of a few layers."""

    def __init__(self, tokens: int, positions: int, width: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(tokens, width), nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(Block(width, heads=4) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        docs, positions = batch["doc_ids"], batch["position_ids"]
        same = docs[:, :, None] == docs[:, None, :]
        earlier = torch.ones(same.shape[-2:], dtype=torch.bool, device=same.device).tril()
        x = self.token(batch["input_ids"]) + self.position(positions)
        for block in self.blocks:
            x = block(x, (same & earlier)[:, None])
        return self.head(self.norm(x))


def next_token_loss(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the losses, and how many tokens they are of: those with a token before them in the same document."""
    docs, mask = batch["doc_ids"], batch["loss_mask"]
    counted = mask[:, 1:] & (docs[:, 1:] == docs[:, :-1])
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten(), reduction="none")
    return (losses * counted.flatten()).sum(), counted.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("corpusmill-data"), help="the --home that corpusmill ran with")
    parser.add_argument("--corpus", default="mod_text@latest")
    parser.add_argument("--tokens", type=int, default=8000, help="size of the tokenizer's vocabulary")
    parser.add_argument("--pack", type=int, default=256)
    parser.add_argument("--global-batch", type=int, default=16, help="packs a step, over all ranks")
    parser.add_argument("--steps", type=int, default=20, help="steps of this run")
    parser.add_argument("--checkpoint", type=Path, default=Path("fsdp-checkpoint"))
    arguments = parser.parse_args()

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (int(os.environ["WORLD_SIZE"]),))
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device(kind, rank % torch.cuda.device_count()) if kind == "cuda" else torch.device("cpu")
    torch.manual_seed(0)
    torch.set_num_threads(1)

    plan = corpusmill.Plan(
        arguments.corpus,
        warehouse=arguments.home / "warehouse",
        filter="split = 'train'",
        seed=42,
        pack=arguments.pack,
        global_batch=arguments.global_batch,
        ids="int64",
    )
    fields = ["input_ids", "position_ids", "doc_ids", "loss_mask", "row_slot"]
    loader = corpusmill.torch.Loader(plan, rank=rank, world=world, fields=fields, device=device)

    model = LanguageModel(arguments.tokens, arguments.pack).to(device)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    # A checkpoint whose last file is there is a whole one.
    finished = sorted(arguments.checkpoint.glob("step-*/loader.json"), key=lambda file: int(file.parent.name[5:]))
    if finished:
        shards, moments = get_state_dict(model, optimizer)
        dcp.load({"model": shards, "optimizer": moments}, checkpoint_id=finished[-1].parent)
        set_state_dict(model, optimizer, model_state_dict=shards, optim_state_dict=moments)
        loader.load_state_dict(json.loads(finished[-1].read_text()))

    last = loader.step + arguments.steps
    while loader.step < last:
        batch = next(loader)
        loss, tokens = next_token_loss(model(batch), batch)
        # FSDP averages gradients over ranks: weighting by the tokens of all makes the step that of the global batch.
        total = torch.stack([loss.detach(), tokens.to(loss.dtype)])
        dist.all_reduce(total)
        optimizer.zero_grad()
        (loss * world / total[1]).backward()
        optimizer.step()
        if rank == 0:
            print(f"step {batch['step']:4d}  loss {total[0] / total[1]:.4f}  {int(total[1]):,} tokens", flush=True)

    folder = arguments.checkpoint / f"step-{loader.step}"
    shards, moments = get_state_dict(model, optimizer)
    dcp.save({"model": shards, "optimizer": moments}, checkpoint_id=folder)
    if rank == 0:
        (folder / "loader.json").write_text(json.dumps(loader.state_dict()))
        print(f"{folder}: {world} ranks waited {loader.stats().wait_s:.3f} s for data")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
