# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics: packets and bytes by rule, by reason, by interface and by set; and what knocks met.

Every packet that the program saw is in exactly one row of each view; rules that only count stand apart, and so does
the view of knocks, which counts steps and grants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from xdpfw.kernel.maps import Counter, KnockCounter, LimitCounter
from xdpfw.kernel.pins import Pins
from xdpfw.observe.metadata import Metadata
from xdpfw.observe.totals import REMOVED_KNOCKS, Counts, Totals, add, read_totals, total

RULE: Final = "rule"
REMOVED: Final = "(removed rules)"
NO_SET: Final = "(no set)"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a view. ``apart``: a rule that only counts, whose packets are in other rows too.

    ``exceeded``: packets of a rule's that were beyond its limit, which are among its packets; None: it has no limit.
    """

    name: str
    counter: Counter
    action: str | None = None
    comment: str | None = None
    apart: bool = False
    exceeded: int | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    meta: Metadata
    totals: Totals

    @classmethod
    def read(cls, pins: Pins) -> Statistics | None:
        """None where nothing is applied. Raises KernelError."""
        found = read_totals(pins)
        return None if found is None else cls(*found)

    @property
    def reasons(self) -> Counts:
        """By reason, ``rule`` first; reasons that no packet had are there with 0."""
        ruled = add(total(self.totals.rules.values()), self.totals.removed)
        return {RULE: ruled, **self.totals.reasons}

    @property
    def verdicts(self) -> Counts:
        found: Counts = {}
        for counts in self.totals.verdicts.values():
            for verdict, counter in counts.items():
                found[verdict] = add(found.get(verdict, Counter(0, 0)), counter)
        return found

    @property
    def limits(self) -> dict[str, LimitCounter]:
        """By rule, of those that have a limit."""
        return {name: self.totals.exceeded.get(name, LimitCounter()) for name in self.meta.limited}

    def by_rule(self) -> Iterator[Row]:
        limits = self.limits
        for rule in self.meta.rules:
            counts = self.totals.counted if rule.counts else self.totals.rules
            counter = counts.get(rule.name, Counter(0, 0))
            exceeded = limits[rule.name].exceeded if rule.name in limits else None
            yield Row(rule.name, counter, rule.action, rule.comment, apart=rule.counts, exceeded=exceeded)
        if self.totals.removed.packets:
            yield Row(REMOVED, self.totals.removed)
        for reason, counter in self.totals.reasons.items():
            if counter.packets or reason == "default":
                yield Row(f"({reason})", counter)

    def by_reason(self) -> Iterator[Row]:
        for reason, counter in self.reasons.items():
            if counter.packets:
                yield Row(reason, counter)

    def by_interface(self) -> Iterator[Row]:
        for name, counts in self.totals.verdicts.items():
            for verdict, counter in counts.items():
                yield Row(name, counter, verdict)

    def by_set(self) -> Iterator[Row]:
        """A rule that looks at several sets has a row for them together: its packets must not be in two."""
        found: Counts = {}
        for rule in self.meta.rules:
            if not rule.counts:
                key = " ".join(f"@{name}" for name in rule.sets) or NO_SET
                found[key] = add(found.get(key, Counter(0, 0)), self.totals.rules.get(rule.name, Counter(0, 0)))
        rest = add(total(self.totals.reasons.values()), self.totals.removed)
        found[NO_SET] = add(found.pop(NO_SET, Counter(0, 0)), rest)
        for name, counter in found.items():
            yield Row(name, counter)

    def by_knock(self) -> Iterator[tuple[str, KnockCounter]]:
        """In the policy's order; knocks that are no more come last, as one."""
        for knock in self.meta.knocks:
            yield knock.name, self.totals.knocks.get(knock.name, KnockCounter())
        if REMOVED_KNOCKS in self.totals.knocks:
            yield REMOVED_KNOCKS, self.totals.knocks[REMOVED_KNOCKS]

    def to_json(self) -> dict[str, Any]:
        """The shape that SPEC fixes, with bytes beside packets everywhere."""
        removed = self.totals.removed
        exceeded = {name: {"exceeded": _limit_json(counter)} for name, counter in self.limits.items()}
        return {
            "interfaces": {
                name: {**_json(total(counts.values())), "verdicts": {v: _json(c) for v, c in counts.items()}}
                for name, counts in self.totals.verdicts.items()
            },
            "rules": [
                {
                    "name": rule.name,
                    **_json((self.totals.counted if rule.counts else self.totals.rules).get(rule.name, Counter(0, 0))),
                    "action": rule.action,
                    "comment": rule.comment,
                    **exceeded.get(rule.name, {}),
                }
                for rule in self.meta.rules
            ],
            "removed_rules": _json(removed),
            "reasons": {reason: _json(counter) for reason, counter in self.reasons.items()},
            "verdicts": {verdict: _json(counter) for verdict, counter in self.verdicts.items()},
            "sets": [{"name": row.name, **_json(row.counter)} for row in self.by_set()],
            "knocks": [{"name": name, **counter._asdict()} for name, counter in self.by_knock()],
        }


def _json(counter: Counter) -> dict[str, int]:
    return {"packets": counter.packets, "bytes": counter.bytes}


def _limit_json(counter: LimitCounter) -> dict[str, int]:
    return {"packets": counter.exceeded, "bytes": counter.exceeded_bytes, "shared": counter.shared}
