"""The exceptions of the package. Each message names the place, what was expected, and the fix."""

from __future__ import annotations

__all__ = [
    "CorpusmillError",
    "PlanError",
    "NotFoundError",
    "StateError",
    "CorruptBlockError",
    "ForkError",
    "CoordinatorError",
    "ScriptError",
    "ExpectationError",
    "BusyError",
    "StoppedError",
    "SlowLoaderWarning",
]


class CorpusmillError(Exception):
    """Base of every exception of this package."""


class PlanError(CorpusmillError, ValueError):
    """An argument, filter or world size that cannot work as written."""


class NotFoundError(CorpusmillError, LookupError):
    """A warehouse, corpus or version that is not there; the message says which are."""


class StateError(CorpusmillError, ValueError):
    """A checkpoint that belongs to another plan (the message says what differs), or is damaged."""


class CorruptBlockError(CorpusmillError, OSError):
    """Stored bytes that fail their checksum, under ``on_corrupt="raise"``."""


class ForkError(CorpusmillError, RuntimeError):
    """A loader used in a forked process: threads do not survive a fork."""


class CoordinatorError(CorpusmillError, ConnectionError):
    """A coordinator that is not reached, refuses, or does not come back."""


class ScriptError(CorpusmillError, RuntimeError):
    """A statement that failed on the coordinator; the message begins with file, line and column where it has them."""


class ExpectationError(ScriptError):
    """An expectation failed the build: nothing was published."""


class BusyError(ScriptError):
    """Somebody else is writing there; the same call may succeed later."""


class StoppedError(ScriptError):
    """Somebody stopped the script, or the coordinator; the same call goes on from the last finished split."""


class SlowLoaderWarning(UserWarning):
    """The trainer waited for data for more than 1 % of its time."""
