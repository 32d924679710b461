# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the time goes: the same packets through programs that stop behind each stage of the pipeline."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Sequence
from typing import Final

from bench.report import Cell, Table
from bench.subjects import Subject
from bench.traces import spread
from bench.warm import above_null
from xdpfw.kernel.abi import Stage
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK

PACKETS: Final = 30

STAGES: Final = (
    ("start", Stage.START),
    ("parse", Stage.PARSE),
    ("state", Stage.STATE),
    ("classify: small fields", Stage.FIELDS),
    ("classify: addresses", Stage.ADDRESSES),
    ("classify: the rule", Stage.CLASSIFY),
    ("count and act", Stage.ALL),
)
"""In the order that a packet comes through them, by what each stage adds to those before it."""

Say = Callable[[str], None]


def measure(subjects: Sequence[Subject], rounds: int, repeat: int, say: Say) -> Table:
    names = {(each.name, stage): f"{each.name} {stage}" for each in subjects for stage, _ in STAGES}
    programs, frames = {}, {}
    with contextlib.ExitStack() as loaded:
        for each in subjects:
            packets = spread(each.frames, PACKETS)
            for stage, stop_after in STAGES:
                generation = loaded.enter_context(
                    Generation.load(each.image, interfaces=[LOOPBACK], targets=[], stop_after=stop_after)
                )
                name = names[each.name, stage]
                programs[name], frames[name] = generation.program, packets
        found, _ = above_null(programs, frames, rounds, repeat, say)
    columns = []
    for each in subjects:
        upto = [statistics.median(found[names[each.name, stage]]) for stage, _ in STAGES]
        columns.append([ns - before for ns, before in zip(upto, [0.0, *upto], strict=False)])
    rows: list[tuple[Cell, ...]] = [(stage, *(column[i] for column in columns)) for i, (stage, _) in enumerate(STAGES)]
    return Table(
        "Breakdown",
        "What each stage adds, warm: the pipeline is compiled to stop behind it, and what comes later is removed as "
        "dead code, so that the stages do not overlap as they do in a whole run. Median packet, ns.",
        ("stage", *(each.name for each in subjects)),
        [*rows, ("all", *(sum(column) for column in columns))],
    )
