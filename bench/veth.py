# SPDX-License-Identifier: GPL-2.0-or-later
"""Over a wire: whole traces replayed in a loop over a veth pair, the policy attached in native mode.

Unlike a test run, the packet comes from a driver, between two packets the kernel does a thousand other things, and what
passes goes up the stack. The kernel itself says how long the program ran (run_time_ns / run_cnt).
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.machine import bpf_stats
from bench.replay import Wire, run_time, wire
from bench.report import Cell, Table
from bench.subjects import Subject
from xdpfw.kernel.features import null_program
from xdpfw.kernel.loader import Program
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK

LEAST_PACKETS: Final = 50_000
"""Of one measurement: as many whole traces as it takes."""

Say = Callable[[str], None]


def measure(subjects: Sequence[Subject], rounds: int, say: Say) -> Table:
    with contextlib.ExitStack() as loaded:
        between = loaded.enter_context(wire())
        programs, captures = {}, {}
        for each in subjects:
            say(f"loading {each.name}")
            generation = loaded.enter_context(Generation.load(each.image, interfaces=[LOOPBACK], targets=[]))
            programs[each.name] = generation.program
            captures[each.name] = between.capture(each.name, each.frames), len(each.frames)
        found, null_ns = above_null(between, programs, captures, rounds, say)
    first = found[subjects[0].name]
    rows: list[tuple[Cell, ...]] = [
        (each.name, each.rules, len(each.frames), found[each.name], (null_ns + found[each.name]) / (null_ns + first))
        for each in subjects
    ]
    return Table(
        "Over a veth pair",
        f"The whole trace replayed by tcpreplay, preloaded, at least {LEAST_PACKETS:,} packets a round after one pass "
        "to warm up; run_time_ns / run_cnt of the program, with bpf_stats_enabled 1, minus that of the null program "
        f"({null_ns:.0f} ns, most of it the reading of the clock) over the same wire. Median of {rounds} rounds, in "
        "which the policies take turns. Ratio: of run_time_ns / run_cnt, null not taken off, to that of the first row.",
        ("policy", "rules", "packets", "ns", "ratio"),
        rows,
    )


def above_null(
    between: Wire, programs: Mapping[str, Program], captures: Mapping[str, tuple[Path, int]], rounds: int, say: Say
) -> tuple[dict[str, float], float]:
    """ns above the null program by name, which ran before each round over the first of the captures; and its own."""
    found: dict[str, list[float]] = {name: [] for name in programs}
    nulls: list[float] = []
    with null_program() as null, bpf_stats(True):
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            nulls.append(_cost(between, null, *next(iter(captures.values()))))
            for name, program in programs.items():
                found[name].append(_cost(between, program, *captures[name]) - nulls[-1])
    return {name: statistics.median(each) for name, each in found.items()}, statistics.median(nulls)


def _cost(between: Wire, program: Program, capture: Path, packets: int) -> float:
    with between.running(program):
        between.send(capture, 1)
        before = run_time(program)
        between.send(capture, -(-LEAST_PACKETS // packets))
        return run_time(program).since(before)
