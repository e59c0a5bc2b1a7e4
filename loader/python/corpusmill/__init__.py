"""Streams versioned training corpora into numpy, Arrow and PyTorch.

>>> import corpusmill
>>> plan = corpusmill.Plan("mod_text@41", seed=42, global_batch=1024, pack=8192)
>>> for batch in corpusmill.Loader(plan, rank=0, world=1):
...     batch["input_ids"]  # numpy, int32, [packs of this rank, 8192]

A `Plan` fixes the order of samples as a pure function of its arguments and the step; a `Loader` is one rank's view of
it. No server takes part: the loader reads local files or object storage itself. ``corpusmill.torch.Loader`` gives
torch tensors.

`submit` runs SQL on a coordinator, which makes such corpora:

>>> corpusmill.submit(pathlib.Path("moderation.sql")).build.version
41
"""

from __future__ import annotations

from corpusmill import errors
from corpusmill._native import __version__
from corpusmill.batch import Batch, Ragged
from corpusmill.errors import (
    BusyError,
    CoordinatorError,
    CorpusmillError,
    CorruptBlockError,
    ExpectationError,
    ForkError,
    NotFoundError,
    PlanError,
    ScriptError,
    SlowLoaderWarning,
    StateError,
    StoppedError,
)
from corpusmill.loader import Loader, Stats
from corpusmill.plan import Plan
from corpusmill.script import Build, Event, Result, Rows, print_event, submit

__all__ = [
    "Batch",
    "Build",
    "BusyError",
    "CoordinatorError",
    "CorpusmillError",
    "CorruptBlockError",
    "Event",
    "ExpectationError",
    "ForkError",
    "Loader",
    "NotFoundError",
    "Plan",
    "PlanError",
    "Ragged",
    "Result",
    "Rows",
    "ScriptError",
    "SlowLoaderWarning",
    "StateError",
    "Stats",
    "StoppedError",
    "__version__",
    "errors",
    "print_event",
    "submit",
]
