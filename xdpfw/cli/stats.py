# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw stats: what the firewall decided, in packets and bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from xdpfw.cli.app import App
from xdpfw.cli.inforce import NothingInForceError
from xdpfw.cli.options import examples, instance_options, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from xdpfw.cli.output import Column
    from xdpfw.kernel.maps import Counter
    from xdpfw.kernel.pins import Pins
    from xdpfw.observe.stats import Row, Statistics

REFRESH_S: Final = 1.0
KNOCK: Final = "knock"
VIEWS: Final = ("rule", "reason", "interface", "set", KNOCK)
HEADER_LINES: Final = 2  # of a table on a terminal


class Sample(NamedTuple):
    at: float  # s, of App.clock
    statistics: Statistics


@click.command(
    short_help="Tell what the firewall decided.",
    epilog=examples("xdpfw stats", "xdpfw stats --watch --by interface", "xdpfw stats --json"),
)
@click.option("--by", type=click.Choice(VIEWS), default="rule", show_default=True, help="What makes a row.")
@click.option("--watch", is_flag=True, help="Refresh each second, with rates, until Ctrl-C.")
@instance_options
@json_option
@click.pass_obj
def command(app: App, by: str, watch: bool, netns: str | None, instance: str | None, as_json: bool) -> None:
    """Tell how many packets and bytes each rule decided, and each reason where no rule did.

    Exact: each packet that the program saw is in one row of each view. Rules that only count stand apart, and so does
    --by knock: it tells of steps and grants, and of packets to the ports that a knock opens.

    Exit status 1 if nothing is in force.

    JSON, whatever --by: {"interfaces": {NAME: {"packets", "bytes", "verdicts"}}, "rules": [{"name", "packets",
    "bytes", "action", "comment"}], "removed_rules", "reasons": {NAME: {"packets", "bytes"}}, "verdicts": {...}, "sets":
    [{"name", "packets", "bytes"}], "knocks": [{"name", "steps", "resets", "grants", "refused", "closes", "passed",
    "dropped"}]}; with --watch one such object a line. A rule that has a limit has "exceeded": {"packets", "bytes",
    "shared"}, too.
    """
    pins = app.pins(instance, netns)
    if watch:
        _watch(app, pins, by, as_json)
        return
    sample = _sample(app, pins)
    if as_json:
        app.say_json(sample.statistics.to_json())
    else:
        print_view(app, by, sample)


def _sample(app: App, pins: Pins) -> Sample:
    from xdpfw.observe.stats import Statistics

    statistics = Statistics.read(pins)
    if statistics is None:
        raise NothingInForceError(pins)
    return Sample(app.clock(), statistics)


def print_view(app: App, by: str, sample: Sample, before: Sample | None = None) -> None:
    """``by``: one of VIEWS. With a sample from before there are rates."""
    from xdpfw.cli.output import print_table

    print_table(app, *_table(by, sample, before))


def _watch(app: App, pins: Pins, by: str, as_json: bool) -> None:
    samples = _samples(app, pins)
    try:
        if as_json:
            for _, sample in samples:
                app.say_json(sample.statistics.to_json(), one_line=True)
                app.stdout.flush()
        elif app.terminal:
            _live(app, by, samples)
        else:
            for before, sample in samples:
                print_view(app, by, sample, before)
                app.say()
                app.stdout.flush()
    except KeyboardInterrupt:
        return  # that is how one stops watching


def _samples(app: App, pins: Pins) -> Iterator[tuple[Sample | None, Sample]]:
    """Each sample with the one before it, for ever."""
    before = None
    while True:
        sample = _sample(app, pins)
        yield before, sample
        before = sample
        app.sleep(REFRESH_S)


def _live(app: App, by: str, samples: Iterator[tuple[Sample | None, Sample]]) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=app.stdout)
    with Live(console=console, auto_refresh=False) as live:
        for before, sample in samples:
            live.update(_screen(by, sample, before, console.height), refresh=True)


def _screen(by: str, sample: Sample, before: Sample | None, height: int) -> RenderableType:
    """The table, and where it has more rows than a terminal of ``height`` lines, how many are left out."""
    from rich.console import Group

    from xdpfw.cli.output import rich_table

    columns, rows = _table(by, sample, before)
    if len(rows) <= height - HEADER_LINES:
        return rich_table(columns, rows)
    shown = rows[: max(height - HEADER_LINES - 1, 0)]
    return Group(rich_table(columns, shown), f"... {len(rows) - len(shown)} more rows than this terminal has room for")


def _table(by: str, sample: Sample, before: Sample | None) -> tuple[list[Column], list[Sequence[str]]]:
    """Columns and rows. With a sample from before there are rates."""
    from xdpfw.cli.output import Column, bytes_text

    if by == KNOCK:
        return _knock_table(sample)
    what = {"rule": "action", "interface": "verdict"}.get(by)
    rows = list(_rows(sample.statistics, by))
    earlier = {} if before is None else {(row.name, row.action): row.counter for row in _rows(before.statistics, by)}
    has_limits = any(row.exceeded is not None for row in rows)
    has_comments = any(row.comment for row in rows)
    columns = [Column(by), *([Column(what)] if what else [])]
    columns += [Column(title, is_number=True) for title in ("packets", "bytes")]
    columns += [Column(title, is_number=True) for title in (("packets/s", "bytes/s") if before else ())]
    columns += [Column("exceeded", is_number=True)] if has_limits else []
    columns += [Column("comment", gives_way=True)] if has_comments else []
    cells = []
    for row in rows:
        counter = row.counter
        line = [row.name, *([row.action or ""] if what else []), str(counter.packets), bytes_text(counter.bytes)]
        if before is not None:
            packets, octets = _rate(counter, earlier.get((row.name, row.action)), sample.at - before.at)
            line += [f"{packets:.0f}", bytes_text(octets)]
        if has_limits:
            line.append("" if row.exceeded is None else str(row.exceeded))
        cells.append([*line, row.comment or ""] if has_comments else line)
    return columns, list(cells)


def _knock_table(sample: Sample) -> tuple[list[Column], list[Sequence[str]]]:
    from xdpfw.cli.output import Column
    from xdpfw.kernel.maps import KnockCounter

    columns = [Column(KNOCK), *(Column(name, is_number=True) for name in KnockCounter._fields)]
    return columns, [(name, *map(str, counter)) for name, counter in sample.statistics.by_knock()]


def _rows(statistics: Statistics, by: str) -> Iterator[Row]:
    views = {
        "rule": statistics.by_rule,
        "reason": statistics.by_reason,
        "interface": statistics.by_interface,
        "set": statistics.by_set,
    }
    return views[by]()


def _rate(now: Counter, before: Counter | None, elapsed_s: float) -> tuple[float, float]:
    """Packets and bytes a second. ``before`` is None where there was nothing yet."""
    if elapsed_s <= 0:
        return 0.0, 0.0
    packets, octets = before or (0, 0)
    return (now.packets - packets) / elapsed_s, (now.bytes - octets) / elapsed_s
