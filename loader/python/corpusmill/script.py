"""SQL on a coordinator, as `corpusmill submit` runs it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from corpusmill import _native
from corpusmill.errors import CorpusmillError

__all__ = ["Build", "Event", "Result", "Rows", "print_event", "submit"]

_COORDINATOR = "http://127.0.0.1:50050"

Kind = Literal["queued", "statement", "build", "step", "progress", "step_ends", "warning"]


@dataclass(frozen=True)
class Event:
    """Something that happened while a script ran."""

    kind: Kind
    """What it is: ``progress`` comes a few times a second at most, the others once each."""
    fields: Mapping[str, Any]
    """What belongs to it, by name: ``step``, ``rows_read``, ``elapsed_ms``, …; numbers, texts and booleans."""

    def __str__(self) -> str:
        """One line for a person."""
        f = self.fields
        match self.kind:
            case "queued":
                return f"waiting: {f['ahead']} script(s) run first"
            case "statement":
                return f"[{f['number']}/{f['of']}] line {f['line']}: {f['summary']}"
            case "build":
                how = "goes on from an earlier run" if f["resumed"] else "begins"
                return f"{f['object']}: build {f['build']} {how}, {f['steps']} step(s)"
            case "step":
                done = f", {f['splits_done']} finished by an earlier run" if f["splits_done"] else ""
                return f"  step {f['number']}/{f['of']} {f['step']}: {f['splits']} split(s){done}"
            case "progress":
                of = "" if f["rows_expected"] is None else f" of {f['rows_expected']:,}"
                return f"  {f['step']}: {f['rows_read']:,}{of} rows read, {f['rows_written']:,} written"
            case "step_ends" if f["reused"]:
                return f"  {f['step']}: done by an earlier run, {f['rows_out']:,} rows"
            case "step_ends":
                seconds = f["elapsed_ms"] / 1000
                return f"  {f['step']}: {f['rows_in']:,} rows in, {f['rows_out']:,} out, {seconds:.1f} s"
            case "warning":
                return f"warning: {f['message']}"


@dataclass(frozen=True)
class Build:
    """What a statement that builds a corpus did."""

    corpus: str
    """Name of the corpus."""
    version: int
    """The version that it made, or that is unchanged."""
    digest: str
    """Digest of its rows: equal digests, equal rows."""
    rows: int
    """Rows of that version."""
    bytes: int
    """Bytes of its shards."""
    build: str
    """Id of the build."""
    state: str
    """``committed``, or ``unchanged`` where the rows were there already."""
    report: Mapping[str, Any] = field(repr=False)
    """Everything else, as ``corpusmill submit --output json`` prints it: expectations, drops, steps, …"""

    @classmethod
    def _of(cls, text: str) -> Build:
        report = json.loads(text)
        names = ("corpus", "version", "digest", "rows", "bytes", "build", "state")
        return cls(**{name: report[name] for name in names}, report=report)


@dataclass(frozen=True)
class Rows:
    """What a query gave."""

    _schema: bytes = field(repr=False)
    _batches: list[bytes] = field(repr=False)

    def arrow(self) -> Any:
        """The rows as a `pyarrow.Table`; pyarrow must be installed: ``pip install corpusmill[arrow]``."""
        import pyarrow  # type: ignore[import-untyped,unused-ignore]

        tables = [pyarrow.ipc.open_stream(part).read_all() for part in (self._schema, *self._batches)]
        return pyarrow.concat_tables(tables)

    def to_pylist(self) -> list[dict[str, Any]]:
        """The rows as dictionaries; needs pyarrow too."""
        rows: list[dict[str, Any]] = self.arrow().to_pylist()
        return rows


@dataclass(frozen=True)
class Result:
    """What the statements of a script gave, in order."""

    outcomes: tuple[Build | Rows | str, ...]
    """A build, the rows of a query, or a line that says what was done."""

    @property
    def builds(self) -> tuple[Build, ...]:
        """The builds among them."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Build))

    @property
    def build(self) -> Build:
        """The last build; `LookupError` where no statement built a corpus."""
        if not self.builds:
            raise LookupError("no statement of the script built a corpus: CREATE CORPUS and REFRESH CORPUS do")
        return self.builds[-1]

    @property
    def rows(self) -> Rows:
        """The rows of the last query; `LookupError` where there was none."""
        for outcome in reversed(self.outcomes):
            if isinstance(outcome, Rows):
                return outcome
        raise LookupError("no statement of the script gave rows: SELECT, SHOW and DESCRIBE do")


def print_event(event: Event) -> None:
    """Prints an event on standard error, as the command does where that is no terminal; progress is left out."""
    if event.kind != "progress":
        print(event, file=sys.stderr, flush=True)


def submit(
    sql: str | os.PathLike[str],
    *,
    coordinator: str | None = None,
    certs: str | os.PathLike[str] | None = None,
    as_of: datetime.datetime | None = None,
    base_dir: str | os.PathLike[str] | None = None,
    on_event: Callable[[Event], None] | None = print_event,
) -> Result:
    """Runs SQL on a coordinator, and waits for its end.

    >>> done = corpusmill.submit(pathlib.Path("moderation.sql"), coordinator="http://127.0.0.1:50050")
    >>> done.build.corpus, done.build.version, done.build.rows, done.build.digest
    ('mod_text', 3, 18211, '5d1c…')
    >>> corpusmill.submit("SELECT count(*) AS n FROM mod_text").rows.to_pylist()
    [{'n': 18211}]

    A coordinator that is gone is waited for, five minutes at most, and the script goes on where it was. Ctrl-C stops the
    script cleanly and raises `KeyboardInterrupt` once it has stopped; a second one does not wait. The same call goes on
    from the last finished split.

    Args:
        sql: Statements as text, or the path of a file with them, which errors then name.
        coordinator: Its address; ``$CORPUSMILL_COORDINATOR`` or ``http://127.0.0.1:50050`` when None.
        certs: Folder with certificates and token, as ``corpusmill certs init`` makes them; ``$CORPUSMILL_CERTS`` when
            None, and no TLS where that is not set either.
        as_of: Logical time of builds, what ``run_start()`` gives, with a time zone; now when None.
        base_dir: The folder that relative paths in the SQL start from, which coordinator and workers must see too; the
            current one when None.
        on_event: Called with what happens meanwhile; prints it when not given, says nothing when None. What it raises
            stops the script as Ctrl-C does.

    Raises:
        CoordinatorError: It is not reached, refuses, or does not come back.
        ScriptError: A statement failed; `ExpectationError`, `BusyError` and `StoppedError` say why, where that matters.
    """
    if isinstance(sql, str):
        text, origin = sql, "<submit>"
    else:
        path = pathlib.Path(sql)
        text, origin = path.read_text(encoding="utf-8-sig"), os.fspath(sql)
    if as_of is not None and as_of.tzinfo is None:
        raise ValueError(f"as_of: {as_of!r} has no time zone; write datetime.datetime(…, tzinfo=datetime.UTC)")
    script = _native.Script(
        coordinator or os.environ.get("CORPUSMILL_COORDINATOR") or _COORDINATOR,
        text,
        origin,
        str(pathlib.Path(base_dir or ".").absolute()),
        None if as_of is None else int(as_of.timestamp() * 1000),
        None if certs is None else os.fspath(certs),
    )
    outcomes: list[Build | Rows | str] = []
    try:
        while (heard := script.next()) is not None:
            _take(heard, outcomes, on_event)
    except BaseException as stopping:
        # Ctrl-C, or the caller's own error; after an error of the script this does nothing.
        script.cancel()
        if on_event is not None and isinstance(stopping, KeyboardInterrupt):
            print("\nstopping cleanly; once more to stop at once", file=sys.stderr, flush=True)
        with contextlib.suppress(CorpusmillError):
            while script.next() is not None:
                pass
        raise
    return Result(tuple(outcomes))


def _take(
    heard: tuple[str, str | bytes], outcomes: list[Build | Rows | str], on_event: Callable[[Event], None] | None
) -> None:
    match heard:
        case ("said", str(text)):
            outcomes.append(text)
        case ("built", str(report)):
            outcomes.append(Build._of(report))
        case ("rows_begin", bytes(schema)):
            outcomes.append(Rows(schema, []))
        case ("rows", bytes(batch)):
            rows = outcomes[-1]
            assert isinstance(rows, Rows), "rows come after their schema"
            rows._batches.append(batch)
        case ("event", str(event)) if on_event is not None:
            fields = json.loads(event)
            on_event(Event(fields.pop("kind"), fields))
