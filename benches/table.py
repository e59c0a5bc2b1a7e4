"""The one table that `make bench` prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A figure of ours, against a peer's or an aim."""

    bench: str
    what: str
    ours: float | None
    unit: str
    peer: str | None
    theirs: float | None
    aim: float | None
    """What ours may be at most, in the unit."""
    note: str | None = None
    """Why a figure is missing, or what limits it."""

    def cells(self) -> list[str]:
        """The row as text; the ratio is theirs to ours, so above 1 means that ours is cheaper."""
        ratio = f"{self.theirs / self.ours:.1f}×" if self.theirs is not None and self.ours else ""
        aim = ""
        if self.aim is not None and self.ours is not None:
            aim = f"≤ {self.aim:g}: {'met' if self.ours <= self.aim else 'missed'}"
        peer = self.peer or ""
        if self.peer and self.theirs is not None:
            peer = f"{self.peer}: {_number(self.theirs)}"
        elif self.peer:
            peer = f"{self.peer}: not measured ({self.note or 'did not run'})"
        elif self.note:
            peer = self.note
        return [f"{self.bench}: {self.what}", f"{_number(self.ours)} {self.unit}", peer, ratio, aim]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def text(rows: list[Row]) -> str:
    """All rows, aligned, as a Markdown table."""
    cells = [["what", "ours", "peer", "ratio", "aim"], *(row.cells() for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
