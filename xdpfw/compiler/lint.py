# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules that no packet reaches, because earlier ones take all of theirs.

Found: a rule that one earlier rule, allowance or knock covers, or that several earlier ones cover which differ from it
in one and the same field (``dport: 0-1023`` and ``dport: 1024-65535`` before any ``dport``). Implications count:
``src`` in IPv4 makes ``family: ipv4``. Knocks cover what goes to the ports that they open, and to those of their SPA
messages. Not found: cover that takes several fields at a time, by steps of knocks, parts of MAC masks that are no
prefixes, and, among several that cover together, those with ``except``. What is reported is always right.

Rules are bits of a long integer. Of each condition, the rules that hold wherever it holds are such an integer, so the
rules that cover another are an AND over its fields, whatever their number.
"""

from __future__ import annotations

import bisect
import heapq
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Final, NamedTuple

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family, Fragment, IcmpMessage, Match, Range, Ranges
from xdpfw.compiler.ranges import intersect
from xdpfw.compiler.regions import Region, Regions, are_apart, is_within
from xdpfw.policy.names import ICMP, ICMPV6, PROTOCOLS

_SHOWN_NAMES: Final = 4
_ALLOWANCE: Final = "allow."
_KNOCK: Final = "knock "

_ANY_CODE: Final = Range(0, 255)
_ETHERTYPE_ARP: Final = 0x0806
_UDP: Final = PROTOCOLS["udp"]

ALLOWANCES: Final = {
    "arp": (Match(ethertype=(Range(_ETHERTYPE_ARP, _ETHERTYPE_ARP),)),),
    "ndp": (
        Match(
            icmp=(IcmpMessage(ICMPV6, Range(133, 137), _ANY_CODE),),
            ttl=(Range(255, 255),),
            fragment=(Range(Fragment.NONE, Fragment.NONE),),
        ),
    ),
    "dhcp": tuple(
        Match(
            family=(Range(family, family),),
            proto=(Range(_UDP, _UDP),),
            sport=(Range(sport, sport),),
            dport=(Range(dport, dport),),
        )
        for family, sport, dport in ((Family.IPV4, 67, 68), (Family.IPV6, 547, 546))
    ),
    "icmp_errors": (
        Match(icmp=tuple(IcmpMessage(ICMP, Range(kind, kind), _ANY_CODE) for kind in (3, 11, 12))),
        Match(icmp=(IcmpMessage(ICMPV6, Range(1, 4), _ANY_CODE),)),
    ),
}
"""What each allowance passes, as matches of which any one holds."""


@dataclass(frozen=True, slots=True)
class Unreached:
    """``covered_by``: names of rules, allowances (``allow.arp``) and knocks (``knock ssh``), in their order."""

    rule: ir.Rule
    covered_by: tuple[str, ...]

    @property
    def is_harmless(self) -> bool:
        passes = self.rule.action.kind is ir.ActionKind.PASS
        return passes and all(name.startswith(_ALLOWANCE) for name in self.covered_by)

    def __str__(self) -> str:
        names = [*map(_quoted, self.covered_by)]
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        verb = "decides" if len(names) == 1 else "decide"
        shown = ", ".join(names[:_SHOWN_NAMES])
        return f'rule "{self.rule.name}" is never reached: {shown}{more} {verb} all of its packets'


def _quoted(name: str) -> str:
    """``"web"``, ``allow.arp``, ``knock "ssh"``. A rule's name has no blank, and so is never taken for a knock's."""
    if name.startswith(_ALLOWANCE):
        return name
    return f'{_KNOCK}"{name.removeprefix(_KNOCK)}"' if name.startswith(_KNOCK) else f'"{name}"'


def never_reached(policy: ir.Policy) -> list[Unreached]:
    """In order of the rules. One that passes what allowances alone pass before it is no mistake, and left out."""
    lint = _Lint(policy)
    found = lint.covered_by_one()
    found.update(list(lint.covered_by_several(found)))
    unreached = (Unreached(rule, found[index]) for index, rule in enumerate(policy.rules) if index in found)
    return [each for each in unreached if not each.is_harmless]


class _Taker(NamedTuple):
    """Something that decides: a rule, a part of an allowance, or a knock on a port that it opens or has messages at."""

    name: str
    asked: Region
    unless: Region | None


def _to_port(protocol: int, port: int, to: ir.AddressRanges | None) -> Match:
    return Match(proto=(Range(protocol, protocol),), dport=(Range(port, port),), dst=to)


class _Lint:
    """Takers are known by their numbers, in order of precedence; masks are sets of them."""

    def __init__(self, policy: ir.Policy) -> None:
        regions = Regions(policy)
        self.takers = [
            _Taker(_ALLOWANCE + name, regions.asked(match), None)
            for name, matches in ALLOWANCES.items()
            if getattr(policy.allow, name)
            for match in matches
        ]
        for knock in policy.knocks:  # what goes to the port of messages is one, be it right or wrong, and is dropped
            if isinstance(knock.way, ir.Spa):
                asked = regions.asked(_to_port(_UDP, knock.way.port, knock.to))
                self.takers.append(_Taker(_KNOCK + knock.name, asked, None))
        for knock in policy.knocks:  # what goes to a port that one opens is decided by it, with a grant or without
            unless = None if knock.unless is None else regions.asked(knock.unless)
            for protocol, port in knock.opens:
                asked = regions.asked(_to_port(protocol, port, knock.to))
                self.takers.append(_Taker(_KNOCK + knock.name, asked, unless))
        self.packets: list[Region] = []  # of each rule: what its packets are bound to have
        self.unless: list[Region | None] = []
        self.earlier: list[int] = []  # of each rule: how many takers come before it
        for rule in policy.rules:
            asked = regions.asked(rule.match)
            unless = None if rule.unless is None else regions.asked(rule.unless)
            self.packets.append(regions.implied(asked))
            self.unless.append(unless)
            self.earlier.append(len(self.takers))
            if rule.action.kind is not ir.ActionKind.COUNT:
                self.takers.append(_Taker(rule.name, asked, unless))
        self.implied_unless = {
            number: regions.implied(taker.unless)
            for number, taker in enumerate(self.takers)
            if taker.unless is not None
        }
        self.fields = sorted({field for taker in self.takers for field in taker.asked})
        self.covering = [self.masks(field) for field in self.fields]

    def masks(self, field: str) -> list[int]:
        """For each rule, the takers whose condition on ``field`` all of the rule's packets meet."""
        indifferent = (1 << len(self.takers)) - 1
        holders: dict[Ranges, int] = defaultdict(int)
        for number, taker in enumerate(self.takers):
            if field in taker.asked:
                holders[taker.asked[field]] |= 1 << number
                indifferent ^= 1 << number
        wanted = {region[field] for region in self.packets if field in region}
        found = dict.fromkeys(wanted, indifferent)
        for values, container in _containers(wanted, holders):
            found[values] |= holders[container]
        return [found[region[field]] if field in region else indifferent for region in self.packets]

    def covered_by_one(self) -> dict[int, tuple[str, ...]]:
        """Rule -> the first taker that takes all of its packets."""
        found: dict[int, tuple[str, ...]] = {}
        for rule in range(len(self.packets)):
            before = (1 << self.earlier[rule]) - 1
            for number in _bits(reduce(and_, (masks[rule] for masks in self.covering), before)):
                if self._takes_all(number, rule):
                    found[rule] = (self.takers[number].name,)
                    break
        return found

    def _takes_all(self, number: int, rule: int) -> bool:
        """Whether a taker that matches all of a rule's packets does so in spite of its ``except``."""
        excepted = self.implied_unless.get(number)
        if excepted is None:
            return True
        packets, own = self.packets[rule], self.unless[rule]
        taker_unless = self.takers[number].unless
        assert taker_unless is not None
        for field, values in taker_unless.items():
            if not values or (field in packets and are_apart(field, packets[field], values)):
                return True
        # What it leaves, the rule itself leaves, too.
        return own is not None and all(
            field in excepted and is_within(excepted[field], values) for field, values in own.items()
        )

    def covered_by_several(self, done: Container[int]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Rule -> takers that differ from it in one field and take all of its packets together."""
        plain = _mask(number for number, taker in enumerate(self.takers) if taker.unless is None)
        left = [rule for rule in range(len(self.packets)) if rule not in done]
        for index, field in enumerate(self.fields):
            groups: dict[int, list[int]] = defaultdict(list)
            for rule in left:
                if field in self.packets[rule]:
                    others = (masks[rule] for at, masks in enumerate(self.covering) if at != index)
                    candidates = reduce(and_, others, plain)
                    if candidates & candidates - 1:
                        groups[candidates].append(rule)
            for candidates, rules in groups.items():
                yield from self._covered_in(field, candidates, rules)

    def _covered_in(self, field: str, candidates: int, rules: Sequence[int]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """``rules``, in order, of which ``candidates`` cover all fields but one: do their ranges there cover it?"""
        numbers = _bits(candidates)
        upcoming = next(numbers, None)
        union = _Union()
        added = []
        for rule in rules:
            while upcoming is not None and upcoming < self.earlier[rule]:
                taken = self.takers[upcoming].asked.get(field, ())
                if not all(union.contains(bounds) for bounds in taken):
                    union.add(taken)
                    added.append(self.takers[upcoming])
                upcoming = next(numbers, None)
            packets = self.packets[rule][field]
            if packets and all(union.contains(bounds) for bounds in packets):
                yield rule, tuple(dict.fromkeys(t.name for t in added if intersect(t.asked[field], packets)))


class _Union:
    """A growing set of whole numbers: disjoint, non-adjacent ranges in order."""

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []

    def add(self, values: Ranges) -> None:
        for low, high in values:
            first = bisect.bisect_left(self._highs, low - 1)
            last = bisect.bisect_right(self._lows, high + 1)
            if first < last:
                low, high = min(low, self._lows[first]), max(high, self._highs[last - 1])
            self._lows[first:last] = [low]
            self._highs[first:last] = [high]

    def contains(self, bounds: Range) -> bool:
        at = bisect.bisect_right(self._lows, bounds.low) - 1
        return at >= 0 and bounds.high <= self._highs[at]


def _containers(inner: Iterable[Ranges], outer: Iterable[Ranges]) -> Iterator[tuple[Ranges, Ranges]]:
    """All pairs of a set of numbers and one that contains it.

    One sweep over all ranges by their lower ends, in which those of ``outer`` are open as long as they reach on. The
    cost is that of sorting, and for each distinct range of ``inner`` that of the ranges open there.
    """
    inner_list, outer_list = list(inner), list(outer)
    # Of equal lower ends, the ranges of outer come first.
    events = [(low, 0, high, number) for number, values in enumerate(outer_list) for low, high in values]
    events += [(low, 1, high, number) for number, values in enumerate(inner_list) for low, high in values]
    events.sort()
    open_ranges: list[tuple[int, int]] = []  # a heap of (high, number)
    containing: dict[int, int] = {}
    asked, answer = None, 0
    for low, kind, high, number in events:
        if kind == 0:
            while open_ranges and open_ranges[0][0] < low:
                heapq.heappop(open_ranges)
            heapq.heappush(open_ranges, (high, number))
            continue
        if asked != (low, high):
            asked, answer = (low, high), _mask(outside for reach, outside in open_ranges if reach >= high)
        containing[number] = containing.get(number, answer) & answer
    for number, outsides in containing.items():
        for outside in _bits(outsides):
            yield inner_list[number], outer_list[outside]


def _mask(numbers: Iterable[int]) -> int:
    """The integer whose bits of these numbers are set."""
    found = list(numbers)
    mask = bytearray(max(found, default=0) // 8 + 1)
    for number in found:
        mask[number // 8] |= 1 << number % 8
    return int.from_bytes(mask, "little")


def _bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, the lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
