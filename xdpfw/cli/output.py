# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables for people: coloured on a terminal, aligned plain text in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

    from xdpfw.cli.app import App
    from xdpfw.reference.interpreter import Decision

NS_PER_S: Final = 1_000_000_000

VERDICT_COLOURS: Final = {"pass": "green", "drop": "red", "tx": "cyan", "redirect": "cyan"}
_STYLES: Final = {
    **VERDICT_COLOURS,
    "ok": "green",
    "added": "green",
    "FAILED": "bold red",
    "missing": "bold red",
    "removed": "red",
    "changed": "yellow",
    "moved": "yellow",
    "degraded": "yellow",
}
_GAP: Final = "  "
_SPANS: Final = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


class Column(NamedTuple):
    """``gives_way``: cut, before others are touched, where a terminal is too narrow for the table."""

    title: str
    is_number: bool = False
    gives_way: bool = False


def print_table(app: App, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """One row a line, as wide as it takes. Nothing where there are no rows."""
    rows = list(rows)
    if not rows:
        return
    if app.terminal:
        from rich.console import Console

        Console(file=app.stdout).print(rich_table(columns, rows))
        return
    table = [[column.title for column in columns], *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    for row in table:
        cells = (
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        )
        app.say(_GAP.join(cells).rstrip())


def rich_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    one_gives_way = any(column.gives_way for column in columns)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.is_number else "left"
        table.add_column(column.title, justify=justify, no_wrap=one_gives_way and not column.gives_way)
    for row in rows:
        table.add_row(
            *(
                Text(cell, _STYLES.get(cell, ""), no_wrap=column.gives_way or None, overflow="ellipsis")
                for column, cell in zip(columns, row, strict=True)
            )
        )
    return table


@contextmanager
def working(app: App, text: str) -> Iterator[Callable[[str], None]]:
    """Shows what goes on while the context lasts, and what is told through its value, if somebody looks."""
    if not (app.terminal and app.stderr.isatty()):
        yield lambda _: None
        return
    from rich.console import Console

    with Console(file=app.stderr).status(text) as status:
        yield status.update


def count_text(count: int, what: str) -> str:
    """``1 packet``, ``2 packets``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def time_text(wall_ns: int) -> str:
    """``2026-11-21 15:26:26``: the second that has begun, in local time, as the others are who read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_ns // NS_PER_S))


def span_text(ns: int) -> str:
    """What is left of a time, in its two largest units, cut: ``7 h 59 min``, ``9 min 59 s``, ``23 s``."""
    seconds = ns // NS_PER_S
    for unit, name, smaller, smaller_name in _SPANS:
        if seconds >= unit:
            return f"{seconds // unit} {name} {seconds % unit // smaller} {smaller_name}"
    return f"{seconds} s"


def bytes_text(number: float) -> str:
    """``1.5 MiB``; whole bytes below 1 KiB."""
    power = min((int(number).bit_length() - 1) // 10, len(_UNITS) - 1) if number >= 1024 else 0
    return f"{number / 1024**power:.{1 if power else 0}f} {_UNITS[power]}"


def decision_text(decision: Decision) -> str:
    """``drop by rule "ssh"``, ``pass by allow.arp``, ``redirect to eth1 by rule "out"``."""
    by = f'rule "{decision.rule}"' if decision.rule is not None else decision.reason
    target = f" to {decision.target}" if decision.target is not None else ""
    return f"{decision.verdict}{target} by {by}"
