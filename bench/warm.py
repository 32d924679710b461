# SPDX-License-Identifier: GPL-2.0-or-later
"""Warm: each of many packets hit again and again, so that all it touches is in the nearest cache.

What the instructions cost, and nothing else. The worst packet is told beside the median one: a structure whose median
is good may still have packets that an attacker would choose.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Sequence
from typing import Final

from bench.report import Table
from bench.subjects import Subject
from bench.timing import Timer, timer
from bench.traces import spread
from xdpfw.kernel.features import null_program
from xdpfw.kernel.loader import Program
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK

PACKETS: Final = 100

Say = Callable[[str], None]


def measure(subjects: Sequence[Subject], rounds: int, repeat: int, say: Say) -> Table:
    frames = {each.name: spread(each.frames, PACKETS) for each in subjects}
    with contextlib.ExitStack() as loaded:
        programs = {}
        for each in subjects:
            say(f"loading {each.name}")
            generation = loaded.enter_context(Generation.load(each.image, interfaces=[LOOPBACK], targets=[]))
            programs[each.name] = generation.program
        found, null_ns = above_null(programs, frames, rounds, repeat, say)
    rows = []
    for each in subjects:
        ns = found[each.name]
        median = statistics.median(ns)
        rows.append((each.name, each.rules, median, max(ns), 1 + median / null_ns))
    return Table(
        "Warm",
        f"BPF_PROG_TEST_RUN of up to {PACKETS} distinct packets of each policy, {repeat:,} runs each, in ns above "
        f"the null program ({null_ns:g} ns) that ran right before. Of a packet, the median of {rounds} rounds, in "
        "which the policies take turns; of the packets, median and worst. Ratio: median to null.",
        ("policy", "rules", "median ns", "worst ns", "ratio"),
        rows,
    )


def above_null(
    programs: dict[str, Program], frames: dict[str, list[bytes]], rounds: int, repeat: int, say: Say
) -> tuple[dict[str, list[float]], float]:
    """ns above null of each packet, by program; and the null program's median."""
    timers: dict[str, list[Timer]] = {
        name: [timer(program, frame, repeat) for frame in frames[name]] for name, program in programs.items()
    }
    found: dict[str, list[list[int]]] = {name: [[] for _ in timers[name]] for name in programs}
    nulls: list[int] = []
    with null_program() as null:
        null_ns = timer(null, b"", repeat)
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for name, each in timers.items():
                base = null_ns()
                nulls.append(base)
                for times, duration_ns in zip(found[name], each, strict=True):
                    times.append(duration_ns() - base)
    medians = {name: [float(statistics.median(times)) for times in packets] for name, packets in found.items()}
    return medians, statistics.median(nulls)
