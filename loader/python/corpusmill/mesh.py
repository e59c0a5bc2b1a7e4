"""Where a rank stands in a `DeviceMesh`, and what follows for its data.

A mesh has up to four kinds of dimensions, told by their names or by ``mesh_dims``:

==== ==================== ============================================================================
kind names                what its ranks get
==== ==================== ============================================================================
dp   dp…, fsdp, hsdp, ddp packs of their own: together they are the ranks of the plan
cp   cp                   the same packs, each a slice of the sequence
tp   tp                   the same tensors: the first of the group fetches them and hands them on
pp   pp                   the same packs; stages between the first and the last get no tokens
==== ==================== ============================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

from corpusmill.errors import PlanError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Kind", "Layout", "Place", "next_tokens", "same_plan"]

Kind = Literal["dp", "cp", "tp", "pp"]
Layout = Literal["contiguous", "zigzag"]

_KINDS: tuple[Kind, ...] = ("dp", "cp", "tp", "pp")
_DATA_PARALLEL = ("fsdp", "hsdp", "ddp", "replicate", "shard")
_IGNORED_LABEL = -100
_ALIGNMENT = 16

_ALONG_THE_SEQUENCE = {"input_ids", "position_ids", "doc_ids", "loss_mask", "labels"}
_WITHOUT_TOKENS = {
    True: ["position_ids", "doc_ids", "loss_mask", "cu_seqlens", "max_seqlen", "doc_pack", "doc_start", "doc_length"],
    False: ["attention_mask", "lengths"],
}


@dataclass(frozen=True)
class Place:
    """A rank's coordinates, one pair (index, size) for each kind of dimension."""

    dp: tuple[int, int] = (0, 1)
    cp: tuple[int, int] = (0, 1)
    tp: tuple[int, int] = (0, 1)
    pp: tuple[int, int] = (0, 1)
    peers: Any = None
    """Process group of the tensor-parallel peers; None without any."""

    @classmethod
    def of(cls, mesh: DeviceMesh, dims: Mapping[str, Kind] | None) -> Place:
        """Reads the coordinates of this process; several dimensions of a kind count as one, the first the slowest.

        Raises
        ------
        PlanError
            For a mesh without names, a dimension of no known kind, or several tensor-parallel ones.
        """
        names = mesh.mesh_dim_names
        if names is None:
            raise PlanError("the mesh has no names: make it with mesh_dim_names, such as ('dp', 'cp', 'tp')")
        coordinates = mesh.get_coordinate()
        if coordinates is None:
            raise PlanError(f"rank {dist.get_rank()} is not in the mesh")
        places: dict[Kind, tuple[int, int]] = dict.fromkeys(_KINDS, (0, 1))
        tensor_parallel = []
        for dim, name in enumerate(names):
            kind = _kind(name, dims)
            index, size = places[kind]
            places[kind] = (index * mesh.size(dim) + coordinates[dim], size * mesh.size(dim))
            if kind == "tp" and mesh.size(dim) > 1:
                tensor_parallel.append(name)
        if len(tensor_parallel) > 1:
            raise PlanError(f"a mesh has one tensor-parallel dimension, this one has {' and '.join(tensor_parallel)}")
        peers = mesh.get_group(tensor_parallel[0]) if tensor_parallel else None
        return cls(**places, peers=peers)

    @property
    def fetches(self) -> bool:
        """Whether this rank fetches batches; its tensor-parallel peers get them from it."""
        return self.tp[0] == 0

    @property
    def has_tokens(self) -> bool:
        """Whether this rank's pipeline stage is the first or the last."""
        index, size = self.pp
        return index in (0, size - 1)

    def job(self, job: str | None) -> str | None:
        """The name under which the data-parallel ranks of this slice and stage open their streams together."""
        if job is None or (self.cp[1] == 1 and self.pp[1] == 1):
            return job
        return f"{job}/cp{self.cp[0]}/pp{self.pp[0]}"

    def fields(self, wanted: list[str] | None, is_packed: bool) -> list[str] | None:
        """The fields of this rank's stage, of those asked for; None for all."""
        if self.has_tokens:
            return wanted
        without = _WITHOUT_TOKENS[is_packed]
        return without if wanted is None else [field for field in wanted if field in without]

    def check_length(self, length: int | None, layout: Layout) -> None:
        """Refuses sequences that cannot be cut for the context-parallel ranks."""
        size = self.cp[1]
        if size == 1:
            return
        if layout not in ("contiguous", "zigzag"):
            raise PlanError(f"cp_layout is 'contiguous' or 'zigzag', got {layout!r}")
        parts = self._parts(layout)
        if length is None:
            raise PlanError("context-parallel ranks need a packed plan: pack=T with a T that is the same for all")
        if length % parts:
            raise PlanError(f"pack={length} cannot be cut into {parts} equal parts for {size} context-parallel ranks")

    def _parts(self, layout: Layout) -> int:
        """Into how many parts a pack is cut."""
        return self.cp[1] if layout == "contiguous" else 2 * self.cp[1]

    def cut(self, batch: dict[str, Any], layout: Layout) -> dict[str, Any]:
        """This rank's part of the fields of shape [packs, length]; the others stay whole.

        ``contiguous``: part ``i`` of ``n``. ``zigzag``: parts ``i`` and ``2n - 1 - i`` of ``2n``, which gives each rank
        the same share of a causal mask (the form of Megatron and of torch's ``context_parallel``). Labels are made
        before the cut, because the next token of a slice's last one is in another slice.
        """
        index, size = self.cp
        if size == 1:
            return batch
        if "labels" not in batch and {"input_ids", "doc_ids", "loss_mask"} <= batch.keys():
            batch["labels"] = next_tokens(batch["input_ids"], batch["doc_ids"], batch["loss_mask"])
        parts = self._parts(layout)
        mine = (index,) if layout == "contiguous" else (index, parts - 1 - index)
        for field in batch.keys() & _ALONG_THE_SEQUENCE:
            chunks = batch[field].chunk(parts, dim=1)
            batch[field] = torch.cat([chunks[part] for part in mine], dim=1)
        return batch

    def share(self, batch: dict[str, Any] | BaseException | None) -> dict[str, Any] | None:
        """Hands what the first tensor-parallel rank got on to its peers: a batch, the end, or an error."""
        if self.peers is None:
            if isinstance(batch, BaseException):
                raise batch
            return batch
        source = dist.get_global_rank(self.peers, 0)
        tensors = _tensors(batch) if isinstance(batch, dict) else []
        device = _device_of(self.peers, tensors)
        header: list[Any] = [_header(batch, tensors) if isinstance(batch, dict) else batch]
        dist.broadcast_object_list(header, src=source, group=self.peers, device=device)
        if isinstance(header[0], BaseException):
            raise header[0]
        if header[0] is None:
            return None
        shapes, rest = header[0]
        places, size = _offsets(shapes)
        body = torch.empty(size, dtype=torch.uint8, device=device)
        if self.fetches:
            for (_, _, tensor), (start, end) in zip(tensors, places, strict=True):
                body[start:end] = tensor.contiguous().view(-1).view(torch.uint8)
        dist.broadcast(body, src=source, group=self.peers)
        if self.fetches:
            assert isinstance(batch, dict)
            return batch
        return _assembled(shapes, places, body, rest)


def same_plan(mesh: DeviceMesh, plan_hash: str, what: str) -> None:
    """Refuses a job whose ranks are on different plans: each would train on another order.

    Raises
    ------
    PlanError
        On every rank, with the ranks of each plan.
    """
    mine = hashlib.sha256(f"{plan_hash} {what}".encode()).hexdigest()[:16]
    ranks = {mine: [dist.get_rank()]}
    # One dimension after the other: in the end every rank has heard of all.
    for dim in range(mesh.ndim):
        heard: list[Any] = [None] * mesh.size(dim)
        dist.all_gather_object(heard, ranks, group=mesh.get_group(dim))
        plans = sorted({plan for told in heard for plan in told})
        ranks = {plan: sorted({rank for told in heard for rank in told.get(plan, ())}) for plan in plans}
    if len(ranks) > 1:
        told = "; ".join(f"ranks {members} on {plan}" for plan, members in ranks.items())
        raise PlanError(f"the ranks of this job are on different plans: {told}. Give all of them the same arguments")


def next_tokens(input_ids: torch.Tensor, doc_ids: torch.Tensor, loss_mask: torch.Tensor) -> torch.Tensor:
    """The next token of the same document, int64 [packs, length]; -100 where there is none or it does not count."""
    labels = torch.full(input_ids.shape, _IGNORED_LABEL, dtype=torch.int64, device=input_ids.device)
    counts = (doc_ids[:, :-1] == doc_ids[:, 1:]) & loss_mask[:, 1:]
    labels[:, :-1] = torch.where(counts, input_ids[:, 1:].to(torch.int64), labels[:, :-1])
    return labels


def _kind(name: str, dims: Mapping[str, Kind] | None) -> Kind:
    if dims is not None and name in dims:
        kind = dims[name]
        if kind not in _KINDS:
            raise PlanError(f"mesh_dims[{name!r}] is one of {', '.join(_KINDS)}, got {kind!r}")
        return kind
    if name in ("cp", "tp", "pp"):
        return name  # type: ignore[return-value]
    if name.startswith("dp") or name in _DATA_PARALLEL:
        return "dp"
    raise PlanError(f"what is the dimension `{name}` of the mesh? Say it: mesh_dims={{{name!r}: 'dp'}} (or cp, tp, pp)")


def _tensors(batch: dict[str, Any]) -> list[tuple[str, int, torch.Tensor]]:
    """(field, position, tensor) of each tensor; position -1 for a field that is one."""
    found = []
    for field, value in batch.items():
        if isinstance(value, torch.Tensor):
            found.append((field, -1, value))
        elif isinstance(value, tuple):
            found.extend((field, i, part) for i, part in enumerate(value))
    return found


def _header(batch: dict[str, Any], tensors: list[tuple[str, int, torch.Tensor]]) -> Any:
    shapes = [(field, i, tuple(tensor.shape), tensor.dtype) for field, i, tensor in tensors]
    named = {field for field, *_ in shapes}
    # In the order of the batch, so that all peers iterate alike.
    return shapes, [(field, None if field in named else value) for field, value in batch.items()]


def _offsets(shapes: list[tuple[str, int, tuple[int, ...], torch.dtype]]) -> tuple[list[tuple[int, int]], int]:
    places, end = [], 0
    for _, _, shape, dtype in shapes:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = start + torch.Size(shape).numel() * dtype.itemsize
        places.append((start, end))
    return places, end


def _assembled(shapes: Any, places: list[tuple[int, int]], body: torch.Tensor, rest: Any) -> dict[str, Any]:
    batch: dict[str, Any] = dict(rest)
    for (field, position, shape, dtype), (start, end) in zip(shapes, places, strict=True):
        # A storage of its own: torch.save takes no two views of one storage with different dtypes.
        tensor = body[start:end].view(dtype).view(shape).clone()
        batch[field] = tensor if position < 0 else (*(batch[field] or ()), tensor)
    return batch


def _device_of(group: Any, tensors: list[tuple[str, int, torch.Tensor]]) -> torch.device:
    """Where the group's backend can broadcast from."""
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return tensors[0][2].device if tensors and tensors[0][2].device.type == "cpu" else torch.device("cpu")
