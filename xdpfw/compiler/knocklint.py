# SPDX-License-Identifier: GPL-2.0-or-later
"""Knocks that a scan opens, that give away each other, or whose steps are also something else.

- ``knock-short``: fewer than three steps.
- ``knock-guessable``: a rotation that takes its steps from fewer than 256 ports.
- ``knock-monotone``: a scan goes through the steps in their order. Scanners go through ports upwards or downwards, one
  protocol behind the other or all protocols of a port at a time; many send a ping first. Other ports in between reset
  a sequence, unless rules pass them, so it takes a scan of just the right ports: a list of "knocking ports" does.
- ``knock-prefix``: two sequences begin alike, so who learns one knows the beginning of the other.
- ``knock-step-passed``: a rule or an allowance passes packets of a step. Those of a rule are taken for the step and
  dropped; those of an allowance are never a step.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from xdpfw.compiler import ir
from xdpfw.compiler.ir import IcmpMessage, Match, Range, Ranges
from xdpfw.compiler.knocks import BARE_SYN, WHOLE
from xdpfw.compiler.lint import ALLOWANCES
from xdpfw.compiler.ranges import intersect
from xdpfw.compiler.regions import Region, Regions, are_apart, is_within
from xdpfw.knock import steps
from xdpfw.policy.names import ICMP, ICMPV6, TCP, UDP

FEWEST_STEPS: Final = 3
FEWEST_PORTS: Final = 256
"""With three steps from so many, one try in 17 million is right. The three windows that count make it three."""

_NOT_PASSING: Final = frozenset((ir.ActionKind.DROP, ir.ActionKind.COUNT))
_NEW: Final = (Range(ir.State.NEW, ir.State.NEW),)
"""Of the packets of flows that are established, none is a step where that is asked at all."""


@dataclass(frozen=True, slots=True)
class KnockLint:
    """``others``: what else it is about, as ``rule "web"``, ``knock "b"`` or ``allow.ndp``."""

    kind: str
    knock: ir.Knock
    message: str
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f'knock "{self.knock.name}": {self.message}'


def knock_lints(policy: ir.Policy) -> list[KnockLint]:
    """In order of the knocks."""
    found = [lint for knock in policy.knocks for lint in _of_one(knock)]
    found += _of_pairs(policy.knocks)
    found += _Steps(policy).lints()
    order = {knock.name: number for number, knock in enumerate(policy.knocks)}
    return sorted(found, key=lambda lint: order[lint.knock.name])


def _of_one(knock: ir.Knock) -> Iterator[KnockLint]:
    if isinstance(knock.way, ir.Spa):
        return
    length = knock.way.length if isinstance(knock.way, ir.Rotation) else len(knock.way.steps)
    if length < FEWEST_STEPS:
        count = "1 step" if length == 1 else f"{length} steps"
        message = f"{count} can be met by chance: a scan opens it (take {FEWEST_STEPS} or more)"
        yield KnockLint("knock-short", knock, message)
    if isinstance(knock.way, ir.Rotation):
        low, high = knock.way.ports
        if (ports := high - low + 1) < FEWEST_PORTS:
            count = "1 port" if ports == 1 else f"{ports} ports"
            message = f"its steps are from {count} only: tries at random open it (take {FEWEST_PORTS} or more)"
            yield KnockLint("knock-guessable", knock, message)
    if isinstance(knock.way, ir.Sequence) and length > 1 and (direction := _direction(knock.way.steps)):
        message = f"its steps go {direction}: a scan of these ports in order opens it (mix the order)"
        yield KnockLint("knock-monotone", knock, message)


def _direction(sequence: Sequence[ir.Step]) -> str | None:
    """``up`` or ``down`` where some scan goes through the steps in their order."""
    ports = [step.protocol in (TCP, UDP) for step in sequence]
    if sum(ports) < 2:
        return None
    first, last = ports.index(True), len(ports) - ports[::-1].index(True)
    if not all(ports[first:last]):  # no scan has a ping in its middle
        return None
    scanned = sequence[first:last]
    blocks = [tuple(block) for _, block in itertools.groupby(scanned, key=lambda step: step.protocol)]
    orders = [[tuple(scanned)], blocks][: 1 if len(blocks) > 2 else 2]
    for order in orders:
        pairs = [pair for block in order for pair in itertools.pairwise(step.number for step in block)]
        if all(earlier <= later for earlier, later in pairs):
            return "up"
        if all(earlier >= later for earlier, later in pairs):
            return "down"
    return None


def _of_pairs(knocks: Sequence[ir.Knock]) -> Iterator[KnockLint]:
    for number, knock in enumerate(knocks):
        for other in knocks[:number]:
            if _meet(knock, other) and (message := _common_beginning(knock, other)):
                yield KnockLint("knock-prefix", knock, message, (f'knock "{other.name}"',))
        for other in knocks:
            if knock.close is None or not isinstance(other.way, ir.Sequence) or not _meet(knock, other):
                continue
            if _shared(knock.close.steps, other.way.steps) == len(knock.close.steps):
                whose = "its own sequence" if other is knock else f'the sequence of knock "{other.name}"'
                message = f"its close is how {whose} begins: who opens the one closes the other on the way"
                yield KnockLint("knock-prefix", knock, message, (f'knock "{other.name}"',))


def _common_beginning(knock: ir.Knock, other: ir.Knock) -> str | None:
    if not isinstance(knock.way, ir.Sequence) or not isinstance(other.way, ir.Sequence):
        return None
    mine, theirs = knock.way.steps, other.way.steps
    shared = _shared(mine, theirs)
    if not shared:
        return None
    if len(mine) == len(theirs) == shared:
        return f'its sequence is that of knock "{other.name}": whoever opens the one opens both'
    if shared == min(len(mine), len(theirs)):
        longer, shorter = (knock, other) if len(mine) > shared else (other, knock)
        whose = {id(knock): "this knock", id(other): f'knock "{other.name}"'}
        return f"all of {whose[id(shorter)]} is how {whose[id(longer)]} begins: who opens that opens both"
    beginning = "its first step begins" if shared == 1 else f"its first {shared} steps begin"
    return f'{beginning} knock "{other.name}", too: who learns one knows a part of the other'


def _shared(one: Sequence[ir.Step], other: Sequence[ir.Step]) -> int:
    """How many steps they begin with alike."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _meet(one: ir.Knock, other: ir.Knock) -> bool:
    """True if they listen on an address in common."""
    if one.to is None or other.to is None:
        return True
    return bool(intersect(one.to.v4, other.to.v4) or intersect(one.to.v6, other.to.v6))


class _Target(NamedTuple):
    """Packets that are steps of a knock: of TCP and UDP to ``ports``, of ICMP the message in ``region``."""

    knock: ir.Knock
    shown: str
    protocol: int
    ports: Range
    region: Region


class _Steps:
    def __init__(self, policy: ir.Policy) -> None:
        self.policy = policy
        self.regions = Regions(policy)
        self.targets = [target for knock in policy.knocks for target in self._targets(knock)]
        self.asked: dict[int, Region] = {}

    def _targets(self, knock: ir.Knock) -> Iterator[_Target]:
        if isinstance(knock.way, ir.Rotation):
            for protocol in (TCP, UDP)[: knock.way.length]:
                yield self._target(knock, "steps", protocol, knock.way.ports)
        opening = knock.way.steps if isinstance(knock.way, ir.Sequence) else ()
        for step in dict.fromkeys((*opening, *(knock.close.steps if knock.close else ()))):
            shown = f"step {steps.Step(*step)}"
            if step.protocol in (TCP, UDP):
                yield self._target(knock, shown, step.protocol, Range(step.number, step.number))
                continue
            yield self._message(knock, shown, step.protocol, step.number, step.code)
            if step.protocol == ICMP and step.number in steps.ICMP_TO_ICMPV6:
                yield self._message(knock, shown, ICMPV6, steps.ICMP_TO_ICMPV6[step.number], step.code)

    def _target(self, knock: ir.Knock, shown: str, protocol: int, ports: Range) -> _Target:
        flags = (BARE_SYN,) if protocol == TCP else None
        match = Match(
            proto=(Range(protocol, protocol),),
            dport=(ports,),
            tcp_flags=flags,
            fragment=WHOLE,
            dst=knock.to,
            state=_NEW,
        )
        return _Target(knock, shown, protocol, ports, self._implied(match))

    def _message(self, knock: ir.Knock, shown: str, protocol: int, kind: int, code: int | None) -> _Target:
        codes = Range(0, 255) if code is None else Range(code, code)
        message = IcmpMessage(protocol, Range(kind, kind), codes)
        match = Match(icmp=(message,), fragment=WHOLE, dst=knock.to, state=_NEW)
        return _Target(knock, shown, protocol, Range(kind, kind), self._implied(match))

    def _implied(self, match: Match) -> Region:
        return self.regions.implied(self.regions.asked(match))

    def lints(self) -> Iterator[KnockLint]:
        seen: set[tuple[str, str]] = set()  # ICMP steps that are met in both families are two targets
        for number, rule in sorted(self._passing().items()):
            target = self.targets[number]
            if (target.knock.name, target.shown) in seen:
                continue
            seen.add((target.knock.name, target.shown))
            name = f'rule "{rule.name}"'
            message = (
                f"{name} passes ports that its steps can be: packets to them are lost now and then (narrow its ports)"
                if isinstance(target.knock.way, ir.Rotation) and target.shown == "steps"
                else f"{name} passes packets of {target.shown}: they are taken for the step and dropped"
            )
            yield KnockLint("knock-step-passed", target.knock, message, (name,))
        for name, matches in ALLOWANCES.items():
            if not getattr(self.policy.allow, name) or name == "dhcp":  # whose source port no step asks for
                continue
            for target, match in itertools.product(self.targets, matches):
                if _overlap(target.region, self._implied(match)):
                    message = f"allow.{name} passes packets of {target.shown}: they are never taken for the step"
                    yield KnockLint("knock-step-passed", target.knock, message, (f"allow.{name}",))

    def _passing(self) -> dict[int, ir.Rule]:
        """Target -> the first rule that passes packets of it and names ports or messages, or passes all of it."""
        found: dict[int, ir.Rule] = {}
        if not self.targets:
            return found
        by_end = sorted(range(len(self.targets)), key=lambda number: self.targets[number].ports.high)
        ends = [self.targets[number].ports.high for number in by_end]
        decided: set[int] = set()
        for rule in self.policy.rules:
            if rule.action.kind is ir.ActionKind.COUNT or len(decided) == len(self.targets):
                continue
            asked: Region | None = None
            for number in self._near(rule.match, by_end, ends):
                if number in decided:
                    continue
                asked = self.regions.asked(rule.match) if asked is None else asked
                region = self.targets[number].region
                if rule.unless is not None and _is_all_in(region, self.regions.asked(rule.unless)):
                    continue
                takes_all = _is_all_in(region, asked)
                if _passes(rule) and (
                    takes_all
                    or ((rule.match.dport or rule.match.icmp) and _overlap(region, self.regions.implied(asked)))
                ):
                    found[number] = rule
                    decided.add(number)
                elif takes_all and rule.unless is None:
                    decided.add(number)
        return found

    def _near(self, match: Match, by_end: Sequence[int], ends: Sequence[int]) -> Iterator[int]:
        """The targets whose ports, if the match asks for ports, are among those; a rule of ports costs little."""
        if match.dport is None:
            yield from range(len(self.targets))
            return
        for low, high in match.dport:
            for at in range(bisect.bisect_left(ends, low), len(ends)):
                target = self.targets[by_end[at]]
                if target.protocol in (TCP, UDP) and target.ports.low <= high:
                    yield by_end[at]


def _passes(rule: ir.Rule) -> bool:
    """Whether a rule passes some of its packets."""
    beyond = rule.limit is not None and rule.limit.exceed is ir.Verdict.PASS
    return beyond or rule.action.kind not in _NOT_PASSING


def _is_all_in(region: Region, asked: Region) -> bool:
    """Whether all packets of a region meet what is asked."""
    return all(field in region and is_within(region[field], values) for field, values in asked.items())


def _overlap(one: Region, other: Region) -> bool:
    return all(_meet_in(field, one[field], other[field]) for field in one.keys() & other.keys())


def _meet_in(field: str, a: Ranges, b: Ranges) -> bool:
    """Of whole sets, too, only what is sure."""
    return bool(intersect(a, b)) if field in ("src", "dst") else not are_apart(field, a, b)
