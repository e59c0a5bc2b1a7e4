"""Streams versioned training corpora into numpy, Arrow and PyTorch.

>>> import corpusmill
>>> plan = corpusmill.Plan("mod_text@41", seed=42, global_batch=1024, pack=8192)
>>> for batch in corpusmill.Loader(plan, rank=0, world=1):
...     batch["input_ids"]  # numpy, int32, [packs of this rank, 8192]

A `Plan` fixes the order of samples as a pure function of its arguments and the step; a `Loader` is one rank's view of
it. No server takes part: the loader reads local files or object storage itself. ``corpusmill.torch.Loader`` gives
torch tensors.
"""

from __future__ import annotations

from corpusmill import errors
from corpusmill._native import __version__
from corpusmill.batch import Batch, Ragged
from corpusmill.errors import (
    CorpusmillError,
    CorruptBlockError,
    ForkError,
    NotFoundError,
    PlanError,
    SlowLoaderWarning,
    StateError,
)
from corpusmill.loader import Loader, Stats
from corpusmill.plan import Plan

__all__ = [
    "Batch",
    "CorpusmillError",
    "CorruptBlockError",
    "ForkError",
    "Loader",
    "NotFoundError",
    "Plan",
    "PlanError",
    "Ragged",
    "SlowLoaderWarning",
    "StateError",
    "Stats",
    "__version__",
    "errors",
]
