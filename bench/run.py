# SPDX-License-Identifier: GPL-2.0-or-later
"""What packets and policies cost. One report of all: build/bench.md and build/bench.json.

Each way to measure is a module of its own, which says on top what it measures. Everything that they make, namespaces,
programs and switches of the kernel, is gone when this ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import click
from rich.console import Console

from bench import (
    adversarial,
    breakdown,
    cold,
    compiling,
    cookies,
    dynamicsets,
    flows,
    knocks,
    limits,
    packets,
    peers,
    routes,
    setfiles,
    subjects,
    veth,
    warm,
)
from bench.machine import bpf_stats, description, short_grace_periods
from bench.report import Report, Table
from bench.subjects import Subject
from xdpfw.errors import XdpfwError

OUTPUT: Final = Path(__file__).parents[1] / "build"

QUICK_SETS: Final = ("ten_rules", "acl1_1k", "acl1_10k", "fw1_10k", "v6_acl1_10k")
QUICK_REPEAT: Final = 10_000
QUICK_ROUNDS: Final = 3
TURNS: Final = 3
QUICK_SHARE: Final = 10
TAKEN_APART: Final = ("ten_rules", "acl1_10k")
COMPILED: Final = ("ten_rules", "acl1_1k", "acl1_10k", "fw1_10k", "v6_acl1_10k", "acl1_100k", "fw1_100k")
ON_THE_WIRE: Final = tuple(name for name in subjects.EVERY if not name.endswith("_1k"))

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    names: tuple[str, ...]  # of subjects.EVERY, those whose data is there
    named: bool  # by the user: then every way takes all of them
    rounds: int
    repeat: int
    quick: bool
    missing: list[str]  # of the report

    def among(self, few: Sequence[str]) -> list[str]:
        """The names, but where the user gave none only those of ``few``."""
        return [name for name in self.names if self.named or name in few]

    def subjects(self, few: Sequence[str] = subjects.EVERY) -> list[Subject]:
        return [subjects.subject(name) for name in self.among(few)]


def _warm(plan: Plan, say: Say) -> Iterator[Table]:
    yield packets.measure(plan.rounds, plan.repeat, say)
    yield warm.measure(plan.subjects(), plan.rounds, plan.repeat, say)


def _breakdown(plan: Plan, say: Say) -> Iterator[Table]:
    yield breakdown.measure(plan.subjects(TAKEN_APART), plan.rounds, plan.repeat, say)


def _cold(plan: Plan, say: Say) -> Iterator[Table]:
    yield cold.measure(plan.subjects(), plan.rounds, say)


def _veth(plan: Plan, say: Say) -> Iterator[Table]:
    yield veth.measure(plan.subjects(ON_THE_WIRE), plan.rounds, say)


def _peers(plan: Plan, say: Say) -> Iterator[Table]:
    if not subjects.is_there(peers.FILTERS):
        plan.missing.append(f"peers: {subjects.CLASSBENCH / peers.FILTERS} is missing")
        return
    linear = peers.QUICK_LINEAR if plan.quick else peers.LINEAR
    yield from peers.measure(plan.rounds, plan.repeat, say, plan.missing, linear)


def _compile(plan: Plan, say: Say) -> Iterator[Table]:
    yield compiling.measure(plan.among(COMPILED), 1 if plan.quick else TURNS, say)


def _sets(plan: Plan, say: Say) -> Iterator[Table]:
    yield setfiles.measure(plan.rounds, plan.repeat, say, QUICK_SHARE if plan.quick else 1)


def _dynamic(plan: Plan, say: Say) -> Iterator[Table]:
    yield from dynamicsets.measure(plan.rounds, plan.repeat, say)


def _knocks(plan: Plan, say: Say) -> Iterator[Table]:
    yield from knocks.measure(plan.rounds, plan.repeat, say)


def _flows(plan: Plan, say: Say) -> Iterator[Table]:
    yield from flows.measure(plan.rounds, plan.repeat, say)


def _limits(plan: Plan, say: Say) -> Iterator[Table]:
    yield from limits.measure(plan.rounds, plan.repeat, say)


def _routes(plan: Plan, say: Say) -> Iterator[Table]:
    yield from routes.measure(plan.rounds, plan.repeat, say)


def _cookies(plan: Plan, say: Say) -> Iterator[Table]:
    yield cookies.measure(plan.rounds, say)


def _adversarial(plan: Plan, say: Say) -> Iterator[Table]:
    yield adversarial.measure(plan.rounds, plan.repeat, say)


WAYS: Final[dict[str, Callable[[Plan, Say], Iterator[Table]]]] = {
    "warm": _warm,
    "breakdown": _breakdown,
    "cold": _cold,
    "veth": _veth,
    "peers": _peers,
    "compile": _compile,
    "sets": _sets,
    "dynamic": _dynamic,
    "knocks": _knocks,
    "cookies": _cookies,
    "flows": _flows,
    "limits": _limits,
    "routes": _routes,
    "adversarial": _adversarial,
}


def _chosen(known: Sequence[str]) -> Callable[[click.Context, click.Parameter, str | None], tuple[str, ...] | None]:
    def parse(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        asked = value.split(",")
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise click.BadParameter(f"{', '.join(unknown)} is not known; there are: {', '.join(known)}")
        return tuple(name for name in known if name in asked)

    return parse


@click.command()
@click.option("--only", callback=_chosen(tuple(WAYS)), metavar="WAY,...", help=f"Among {', '.join(WAYS)}.")
@click.option("--sets", "names", callback=_chosen(subjects.EVERY), metavar="SET,...", help="Policies to measure.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Rounds, of which the median counts."
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=50_000,
    show_default=True,
    help="Runs of a program in a row, where it is warm.",
)
@click.option("--quick", is_flag=True, help="Fewer sets and fewer runs: a look, not a measurement.")
def main(only: tuple[str, ...] | None, names: tuple[str, ...] | None, rounds: int, repeat: int, quick: bool) -> None:
    """Measure, write build/bench.md and build/bench.json, and print the first of them."""
    if os.geteuid() != 0:
        raise click.ClickException("this takes root: programs are loaded, and namespaces are made")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    if quick:
        rounds, repeat = min(rounds, QUICK_ROUNDS), min(repeat, QUICK_REPEAT)
    asked = names or (QUICK_SETS if quick else subjects.EVERY)
    there = tuple(name for name in asked if subjects.is_there(name))
    if not there:
        raise click.ClickException(f"none of {', '.join(asked)} is in {subjects.CLASSBENCH}")
    report = Report(description() | {"rounds": f"{rounds}; programs take turns in each"})
    report.missing += [f"{name}: {subjects.CLASSBENCH / name} is missing" for name in asked if name not in there]
    plan = Plan(there, names is not None, rounds, repeat, quick, report.missing)
    started = time.monotonic()
    with _progress() as say, short_grace_periods():
        done = [_measure(report, way, plan, say) for way in only or WAYS]
    report.machine |= {"taken": f"{time.monotonic() - started:.0f} s"}
    report.write(OUTPUT)
    click.echo(report.markdown())
    if not all(done):
        raise click.ClickException("not all of it could be measured: see what is left out, on top of the report")


def _measure(report: Report, way: str, plan: Plan, say: Say) -> bool:
    """One way; what the kernel or the compiler refuses leaves this one out and is in the report: False then."""
    say(way)
    try:
        with bpf_stats(False):
            for table in WAYS[way](plan, lambda step: say(f"{way}: {step}")):
                report.tables.append(table)
                report.write(OUTPUT)
    except (XdpfwError, AssertionError, OSError, subprocess.SubprocessError) as error:
        report.missing.append(f"{way}: {error}")
        report.write(OUTPUT)
        say(f"{way} is left out: {error}")
        return False
    return True


def _end(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


@contextlib.contextmanager
def _progress() -> Iterator[Say]:
    """Says each step on standard error: in one line on a terminal, else line by line."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda step: console.print(time.strftime("%H:%M:%S"), step, markup=False, soft_wrap=True)
        return
    with console.status("") as status:
        yield lambda step: status.update(step)


if __name__ == "__main__":
    main()
