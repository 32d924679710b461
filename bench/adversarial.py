# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies made to blow up one part of the structure each, and packets at the corners of their rules.

Those of the tests (tests/large_policies.py), which hold them to the reference: nested and crossing prefixes, hundreds
of port ranges, sets, MAC addresses. What is looked for is the worst packet.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from bench.cold import Shots, pass_of
from bench.report import Table
from bench.subjects import INTERFACE, Subject
from bench.traces import spread
from bench.warm import above_null
from tests.large_policies import LARGE, frames_at
from xdpfw.compiler import ir
from xdpfw.kernel.features import null_program
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK

TRACE: Final = 5_000
PACKETS: Final = 50

Say = Callable[[str], None]


def measure(rounds: int, repeat: int, say: Say) -> Table:
    subjects = []
    for name, make in LARGE.items():
        say(f"compiling {name}")
        policy = replace(make(), interfaces=(ir.Interface(INTERFACE),))
        subjects.append(Subject(name, policy, frames_at(policy, TRACE)))
    cold: dict[str, list[float]] = {each.name: [] for each in subjects}
    with contextlib.ExitStack() as loaded:
        null = loaded.enter_context(null_program())
        programs = {}
        for each in subjects:
            generation = loaded.enter_context(Generation.load(each.image, interfaces=[LOOPBACK], targets=[]))
            programs[each.name] = generation.program
        shots = {each.name: Shots(each.frames) for each in subjects}
        frames = {each.name: spread(each.frames, PACKETS) for each in subjects}
        warm, _ = above_null(programs, frames, rounds, repeat, say)
        for number in range(rounds):
            say(f"cold, round {number + 1} of {rounds}")
            for name, program in programs.items():
                base, ours = pass_of(shots[name], null, program)
                cold[name].append(float(ours.mean() - base.mean()))
    rows = [
        (
            each.name,
            each.rules,
            statistics.median(warm[each.name]),
            max(warm[each.name]),
            statistics.median(cold[each.name]),
            len(each.image.tables) / (1 << 20),
        )
        for each in subjects
    ]
    return Table(
        "Adversarial",
        f"Policies that stretch one part of the structure each (tests/large_policies.py), packets at the corners of "
        f"their rules. Warm as above, {PACKETS} packets; cold as above, {TRACE:,} packets, each another source and "
        "another rule. ns above null.",
        ("policy", "rules", "warm median ns", "warm worst ns", "cold mean ns", "tables MiB"),
        rows,
    )
