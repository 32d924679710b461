# SPDX-License-Identifier: GPL-2.0-or-later
"""The report: tables of numbers, as Markdown for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MARKDOWN: Final = "bench.md"
JSON: Final = "bench.json"

Cell = str | float | None
"""None: not measured."""


@dataclass(frozen=True, slots=True)
class Table:
    """``notes`` say how it was measured. A row has a cell a column; the first one names it."""

    title: str
    notes: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def markdown(self) -> Iterator[str]:
        yield f"## {self.title}"
        yield ""
        yield self.notes
        yield ""
        yield f"| {' | '.join(self.columns)} |"
        yield f"| --- |{' ---: |' * (len(self.columns) - 1)}"
        for row in self.rows:
            yield f"| {' | '.join(map(_written, row))} |"
        yield ""

    def json(self) -> dict[str, object]:
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "notes": self.notes, "rows": rows}


@dataclass(slots=True)
class Report:
    """``missing``: a line for each thing that could not be measured, with the reason."""

    machine: dict[str, str]
    tables: list[Table] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        lines = ["# What packets and policies cost", ""]
        lines += [f"- {name}: {value}" for name, value in self.machine.items()]
        lines += [f"- left out: {line}" for line in self.missing]
        lines.append("")
        for table in self.tables:
            lines += table.markdown()
        return "\n".join(lines)

    def write(self, directory: Path) -> None:
        """As far as it has come: written again after each table, so that what ends early leaves something."""
        directory.mkdir(exist_ok=True)
        (directory / MARKDOWN).write_text(self.markdown(), encoding="utf-8")
        found = {
            "machine": self.machine,
            "missing": self.missing,
            "tables": [table.json() for table in self.tables],
        }
        (directory / JSON).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _written(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell.replace("|", "\\|")
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
