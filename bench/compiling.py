# SPDX-License-Identifier: GPL-2.0-or-later
"""What the policy costs its user: seconds of `check` and `apply`, and memory of the compiler and in the kernel.

The commands are those that a user types, each a process of its own that reads the policy from a YAML file.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.commands import Cost, place, run
from bench.report import Cell, Table
from bench.subjects import INTERFACE, TEN_RULES, TEN_RULES_FILE, filter_set, subject
from bench.written import yaml
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK

CHECK_LIMIT_SECONDS: Final = 60
LONG_SECONDS: Final = 5
"""What takes longer is not done again."""

MIB: Final = 1 << 20

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians of a few turns."""

    check: Cost
    apply: Cost
    change: Cost


def measure(names: Sequence[str], turns: int, say: Say) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        costs = _measure(name, turns, say)
        each = subject(name)
        with Generation.load(each.image, interfaces=[LOOPBACK], targets=[]) as generation:
            kernel_bytes = generation.memory_bytes
        check = costs.check.seconds
        rows.append(
            (
                name,
                each.rules,
                f"over {CHECK_LIMIT_SECONDS}" if check is None else check,
                costs.apply.seconds,
                costs.change.seconds,
                costs.apply.peak_bytes / MIB,
                len(each.image.tables) / MIB,
                kernel_bytes / MIB,
            )
        )
    return Table(
        "Compiling",
        f"Wall time of the commands, start of Python included, from a YAML file; median of {turns} where a turn takes "
        f"less than {LONG_SECONDS} s. `check` is ended after {CHECK_LIMIT_SECONDS} s. `apply` puts the policy in force "
        "where none was; then with one rule's action changed. Peak: resident memory of `apply`. Maps: kernel memory of "
        "program and maps, counters of each CPU included.",
        ("policy", "rules", "check s", "apply s", "one rule changed s", "peak MiB", "tables MiB", "maps MiB"),
        rows,
    )


def _measure(name: str, turns: int, say: Say) -> Costs:
    with place() as (directory, options):
        before, after = directory / "before.yaml", directory / "after.yaml"
        for path, inverted in ((before, False), (after, True)):
            path.write_text(_policy(name, inverted), encoding="utf-8")
        say(f"{name}: check")
        check = _turns(turns, lambda: run(("check", str(before)), CHECK_LIMIT_SECONDS, lints=True))
        applied, changed = [], []
        for turn in range(turns):
            say(f"{name}: apply, turn {turn + 1}")
            try:
                applied.append(run(("apply", str(before), *options)))
                changed.append(run(("apply", str(after), *options)))
            finally:
                run(("detach", *options))
            if _is_long(applied[-1]):
                break
        return Costs(check, _median(applied), _median(changed))


def _policy(name: str, inverted: bool) -> str:
    """Its text, or that with another action of one rule in the middle."""
    if name != TEN_RULES:
        filters = filter_set(name)
        return yaml(filters, INTERFACE, inverted=len(filters.filters) // 2 if inverted else None)
    text = re.sub(r"\beth0\b", INTERFACE, TEN_RULES_FILE.read_text(encoding="utf-8"))
    return text.replace("dport: 443}, action: pass", "dport: 443}, action: drop") if inverted else text


def _turns(turns: int, command: Callable[[], Cost]) -> Cost:
    found: list[Cost] = []
    while len(found) < turns and not (found and _is_long(found[-1])):
        found.append(command())
    return _median(found)


def _is_long(cost: Cost) -> bool:
    return cost.seconds is None or cost.seconds > LONG_SECONDS


def _median(costs: Sequence[Cost]) -> Cost:
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    return Cost(statistics.median(seconds) if seconds else None, max(cost.peak_bytes for cost in costs))
