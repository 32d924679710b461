# SPDX-License-Identifier: GPL-2.0-or-later
"""What generations counted, by name, so that sums outlive a generation.

Each generation counts from 0 in maps of its own. When another has taken its place and none of its programs runs
any more, its totals, and those that it had carried itself, are pinned with the new one as the blob ``carried``:
one pin, so that they are counted exactly once whenever anybody looks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from xdpfw.errors import KernelError
from xdpfw.kernel import abi
from xdpfw.kernel.maps import Blob, Counter, KnockCounter, LimitCounter
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.program import Generation
from xdpfw.observe import metadata
from xdpfw.observe.inforce import in_force
from xdpfw.observe.metadata import Metadata

CARRIED: Final = "carried"
OTHER_INTERFACES: Final = "(other)"
"""Packets that came in on an interface that the policy does not name, as through a bond's member."""

REMOVED_KNOCKS: Final = "(removed knocks)"
"""What knocks met that the policy has no more. No knock can be called so."""

_NOTHING: Final = Counter(0, 0)

Counts = dict[str, Counter]
KnockCounts = dict[str, KnockCounter]
LimitCounts = dict[str, LimitCounter]


def add(a: Counter, b: Counter) -> Counter:
    return Counter(a.packets + b.packets, a.bytes + b.bytes)


def total(counters: Iterable[Counter]) -> Counter:
    found = list(counters)
    return Counter(sum(c.packets for c in found), sum(c.bytes for c in found))


def _merged(a: Counts, b: Counts) -> Counts:
    return {name: add(a.get(name, _NOTHING), b.get(name, _NOTHING)) for name in {**a, **b}}


@dataclass(frozen=True, slots=True)
class Totals:
    """Packets and bytes by what they met.

    ``rules``: rules that decided; ``counted``: rules that only count; ``removed``: rules that are no more;
    ``reasons``: packets that no rule decided, by reason; ``verdicts``: interface -> verdict -> counter. ``knocks``:
    what each knock met. ``exceeded``: what each rule's limit did not let through, which is in ``rules``, too.
    """

    rules: Counts = field(default_factory=dict)
    counted: Counts = field(default_factory=dict)
    removed: Counter = _NOTHING
    reasons: Counts = field(default_factory=dict)
    verdicts: dict[str, Counts] = field(default_factory=dict)
    knocks: KnockCounts = field(default_factory=dict)
    exceeded: LimitCounts = field(default_factory=dict)

    def plus(self, other: Totals) -> Totals:
        return Totals(
            _merged(self.rules, other.rules),
            _merged(self.counted, other.counted),
            add(self.removed, other.removed),
            _merged(self.reasons, other.reasons),
            {
                name: _merged(self.verdicts.get(name, {}), other.verdicts.get(name, {}))
                for name in {**self.verdicts, **other.verdicts}
            },
            {
                name: _sum_of_knocks([counts[name] for counts in (self.knocks, other.knocks) if name in counts])
                for name in {**self.knocks, **other.knocks}
            },
            {
                name: _sum_of_limits([counts[name] for counts in (self.exceeded, other.exceeded) if name in counts])
                for name in {**self.exceeded, **other.exceeded}
            },
        )

    def for_rules(self, meta: Metadata) -> Totals:
        """The same for another policy: what its rules and knocks do not continue goes to those that were removed."""
        deciding = {rule.name for rule in meta.rules if not rule.counts}
        counting = {rule.name for rule in meta.rules if rule.counts}
        gone = total(counter for name, counter in self.rules.items() if name not in deciding)
        return Totals(
            {name: counter for name, counter in self.rules.items() if name in deciding},
            {name: counter for name, counter in self.counted.items() if name in counting},
            add(self.removed, gone),
            self.reasons,
            self.verdicts,
            self._knocks_of(meta),
            {name: counter for name, counter in self.exceeded.items() if name in meta.limited},
        )

    def _knocks_of(self, meta: Metadata) -> KnockCounts:
        present = {knock.name for knock in meta.knocks}
        found = {name: counter for name, counter in self.knocks.items() if name in present}
        gone = _sum_of_knocks([counter for name, counter in self.knocks.items() if name not in present])
        return {**found, REMOVED_KNOCKS: gone} if any(gone) else found

    def to_bytes(self) -> bytes:
        columns = [self.rules, self.counted, self.removed, self.reasons, self.verdicts, self.knocks, self.exceeded]
        return json.dumps(columns).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Totals:
        # What an xdpfw without knocks has handed on ends with the verdicts; one without limits, with the knocks.
        rules, counted, removed, reasons, verdicts, *rest = json.loads(data)
        knocks, exceeded = (*rest, {}, {})[:2]
        return cls(
            _counts(rules),
            _counts(counted),
            Counter(*removed),
            _counts(reasons),
            {name: _counts(counts) for name, counts in verdicts.items()},
            {name: KnockCounter(*counter) for name, counter in knocks.items()},
            {name: LimitCounter(*counter) for name, counter in exceeded.items()},
        )


def _counts(raw: dict[str, list[int]]) -> Counts:
    return {name: Counter(*pair) for name, pair in raw.items()}


def _sum_of_knocks(counters: Sequence[KnockCounter]) -> KnockCounter:
    return KnockCounter(*map(sum, zip(*counters, strict=True)))


def _sum_of_limits(counters: Sequence[LimitCounter]) -> LimitCounter:
    return LimitCounter(*map(sum, zip(*counters, strict=True)))


def counted_by(generation: Generation, meta: Metadata) -> Totals:
    """What one generation counted so far."""
    reasons, rules = generation.counters()
    rows = generation.interface_verdicts()
    knock_counters = generation.knock_counters() if meta.knocks else []
    names = [interface.name for interface in meta.interfaces]
    verdicts = {
        name: {verdict.name.lower(): rows[index][verdict] for verdict in abi.Verdict}
        for name, index in [*zip(names, range(len(names)), strict=True), (OTHER_INTERFACES, abi.Absent.NO_INTERFACE)]
    }
    if not any(counter.packets for counter in verdicts[OTHER_INTERFACES].values()):
        del verdicts[OTHER_INTERFACES]
    return Totals(
        rules={rule.name: counter for rule, counter in zip(meta.rules, rules, strict=True) if not rule.counts},
        counted={rule.name: counter for rule, counter in zip(meta.rules, rules, strict=True) if rule.counts},
        reasons={abi.reason_name(reason): reasons[reason] for reason in abi.Reason if reason != abi.Reason.RULE},
        verdicts=verdicts,
        knocks={knock.name: counter for knock, counter in zip(meta.knocks, knock_counters, strict=True)},
        exceeded=dict(zip(meta.limited, generation.limit_counters(), strict=True)) if meta.limited else {},
    )


def has_carried(directory: Path) -> bool:
    """True once the totals of all generations before are pinned with the one in ``directory``."""
    return (directory / CARRIED).exists()


def _carried(directory: Path) -> Totals | None:
    if not has_carried(directory):
        return None
    with Blob.open(str(directory / CARRIED)) as blob:
        return Totals.from_bytes(blob.read())


def pin_carried(directory: Path, totals: Totals) -> None:
    with Blob.create(CARRIED, totals.to_bytes()) as blob:
        blob.pin(str(directory / CARRIED))


def totals_up_to(pins: Pins, number: int, meta: Metadata | None = None) -> Totals:
    """The totals of a generation and of all before it. ``meta`` saves reading its own again. Raises KernelError."""
    directory = pins.generation(number)
    with Generation.open(directory) as generation:
        own = counted_by(generation, meta or metadata.read(directory))
    # In this order: carried is pinned before the generations that it sums up are removed.
    earlier = [n for n in pins.generations() if n < number]
    carried = _carried(directory)
    if carried is None:
        # A switch is going on: the generation before counts its last packets.
        carried = totals_up_to(pins, earlier[-1]) if earlier else Totals()
    return carried.plus(own)


def read_totals(pins: Pins, tries: int = 5) -> tuple[Metadata, Totals] | None:
    """The metadata of the generation in force, and all that was counted since the firewall was first applied.

    None where nothing is applied. Raises KernelError.
    """
    while True:
        numbers = pins.generations()
        try:
            number = in_force(pins)
            if number is None:
                return None
            meta = metadata.read(pins.generation(number))
            return meta, totals_up_to(pins, number, meta).for_rules(meta)
        except KernelError:
            # A switch that ended between two of these reads has removed the generation before.
            tries -= 1
            if not tries or pins.generations() == numbers:
                raise
