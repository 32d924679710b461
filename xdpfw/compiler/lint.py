# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules that no packet reaches, because earlier ones take all of theirs.

Found: a rule that one earlier rule, allowance or knock covers, or that several earlier ones cover which differ from it
in one and the same field (``dport: 0-1023`` and ``dport: 1024-65535`` before any ``dport``). Implications count:
``src`` in IPv4 makes ``family: ipv4``. Knocks cover what goes to the ports that they open, and to those of their SPA
messages. Not found: cover that takes several fields at a time, by steps of knocks, parts of MAC masks that are no
prefixes, and, among several that cover together, those with ``except``. What is reported is always right.

Those that cover a rule alone are found by ``cover``. So are those that cover it but in one field, of which it has to be
covered at both ends there before anybody looks at what lies between.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from xdpfw.compiler import ir
from xdpfw.compiler.containment import Bools, Ints, NumberSets, expand
from xdpfw.compiler.cover import ANY, Cover
from xdpfw.compiler.ir import Family, Fragment, IcmpMessage, Match, Range, Ranges, State
from xdpfw.compiler.regions import WHOLE_SETS, Region, Regions, are_apart, highest_address, is_within
from xdpfw.policy.collector import collector_paused
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
    "established": (Match(state=(Range(State.ESTABLISHED, State.ESTABLISHED),)),),
}
"""What each allowance passes, as matches of which any one holds.

Not there: ``fragments``, which later ones it passes, their first ones decide.
"""


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
    with collector_paused():
        return _never_reached(policy)


def _never_reached(policy: ir.Policy) -> list[Unreached]:
    lint = _Lint(policy)
    found = lint.covered_by_one()
    found.update(list(lint.covered_by_several(found.keys())))
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
    """Takers are known by their numbers, in order of precedence, rules by theirs, and conditions by columns."""

    def __init__(self, policy: ir.Policy) -> None:
        regions = Regions(policy)
        self.takers = list(_takers_before_rules(policy, regions))
        self.packets: list[Region] = []  # of each rule: what its packets are bound to have
        self.unless: list[Region | None] = []
        earlier: list[int] = []  # of each rule: how many takers come before it
        for rule in policy.rules:
            asked = regions.asked(rule.match)
            unless = None if rule.unless is None else regions.asked(rule.unless)
            self.packets.append(regions.implied(asked))
            self.unless.append(unless)
            earlier.append(len(self.takers))
            if rule.action.kind is not ir.ActionKind.COUNT:
                self.takers.append(_Taker(rule.name, asked, unless))
        self.implied_unless = {
            number: regions.implied(taker.unless)
            for number, taker in enumerate(self.takers)
            if taker.unless is not None
        }
        fields = sorted({field for taker in self.takers for field in taker.asked} or {"family"})
        asked_for = [taker.asked for taker in self.takers]
        # Fields with many conditions tell most takers apart, and come first.
        columns = [_Column(field, asked_for, self.packets) for field in fields]
        self.columns = sorted(columns, key=lambda column: -len(column.values))
        self.asked = np.stack([column.asked for column in self.columns])
        self.wanted = np.stack([column.wanted for column in self.columns])
        self.earlier = np.array(earlier, np.int64)
        has_unless = np.array([taker.unless is not None for taker in self.takers], bool)
        self.plain, self.excepting = np.flatnonzero(~has_unless), np.flatnonzero(has_unless)
        self.plain_cover = self._cover(self.columns, self.asked[:, self.plain])

    @staticmethod
    def _cover(columns: Sequence[_Column], asked: Ints) -> Cover:
        return Cover([column.sets for column in columns], asked)

    def covered_by_one(self) -> dict[int, tuple[str, ...]]:
        """Rule -> the first taker that takes all of its packets."""
        none = len(self.takers)
        first = np.full(len(self.packets), none)
        before = np.searchsorted(self.plain, self.earlier)
        for rules, leaves in self.plain_cover.search(self.wanted, before):
            np.minimum.at(first, rules, self.plain[self.plain_cover.first[leaves]])
        decided: dict[int, int] = {}
        for rule, number in self._excepting_before(np.minimum(first, self.earlier)):
            if number < decided.get(rule, none) and self._takes_all(number, rule):
                decided[rule] = number
        decided = {rule: number for rule, number in enumerate(first.tolist()) if number != none} | decided
        return {rule: (self.takers[number].name,) for rule, number in decided.items()}

    def _excepting_before(self, limits: Ints) -> Iterator[tuple[int, int]]:
        """Rules, and takers with ``except`` below the rule's limit that match all its packets."""
        cover = self._cover(self.columns, self.asked[:, self.excepting])
        for rules, leaves in cover.search(self.wanted, np.searchsorted(self.excepting, limits)):
            rows, members = _members(cover, leaves)
            rules, numbers = rules[rows], self.excepting[members]
            kept = np.flatnonzero(numbers < limits[rules])
            kept = kept[np.lexsort((numbers[kept], rules[kept]))]
            yield from zip(rules[kept].tolist(), numbers[kept].tolist(), strict=True)

    def _takes_all(self, number: int, rule: int) -> bool:
        """Whether a taker that matches all of a rule's packets does so in spite of its ``except``."""
        excepted = self.implied_unless[number]
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

    def covered_by_several(self, done: Collection[int]) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Rule -> takers that differ from it in one field and take all of its packets together."""
        left = np.ones(len(self.packets), bool)
        left[list(done)] = False
        for at, column in sorted(enumerate(self.columns), key=lambda each: each[1].field):
            candidates = self.plain[self.asked[at, self.plain] != ANY]
            rules = self._covered_at_ends(at, candidates, left & (column.wanted != ANY))
            if not len(rules):
                continue
            others = [number for number in range(len(self.columns)) if number != at]
            cover = self._cover([self.columns[number] for number in others], self.asked[others][:, candidates])
            groups: dict[bytes, list[int]] = defaultdict(list)
            taken: dict[bytes, Ints] = {}
            for rule, leaves in self._leaves_of(cover, rules, others):
                key = leaves.tobytes()
                groups[key].append(rule)
                taken[key] = leaves
            for key, members in groups.items():
                numbers = np.sort(candidates[_members(cover, taken[key])[1]])
                yield from self._covered_in(column.field, numbers.tolist(), members)

    def _covered_at_ends(self, at: int, candidates: Ints, left: Bools) -> Ints:
        """Those of the rules of which a candidate covers the lowest number of a field, and one the highest.

        Few do, which spares looking closer at the rest.
        """
        column = self.columns[at]
        cover = self._cover(self.columns, self.asked[:, candidates])
        before = np.searchsorted(candidates, self.earlier)
        for points in (column.lowest, column.highest):
            wanted = self.wanted.copy()
            wanted[at] = points
            found = np.zeros(len(left), bool)
            for rules, _ in cover.search(wanted, np.where(left & (points != ANY), before, 0)):
                found[rules] = True
            left = found
        return np.flatnonzero(left)

    def _leaves_of(self, cover: Cover, rules: Ints, fields: list[int]) -> Iterator[tuple[int, Ints]]:
        """The leaves that each of ``rules`` goes to in a trie over ``fields``, in order."""
        found: dict[int, list[Ints]] = defaultdict(list)
        every = np.full(len(rules), len(self.takers))
        for places, leaves in cover.search(self.wanted[fields][:, rules], every):
            order = np.argsort(places, kind="stable")
            distinct, starts = np.unique(places[order], return_index=True)
            for place, part in zip(distinct.tolist(), np.split(leaves[order], starts[1:]), strict=True):
                found[place].append(part)
        for place in sorted(found):
            yield int(rules[place]), np.sort(np.concatenate(found[place]))

    def _covered_in(
        self, field: str, candidates: Sequence[int], rules: Sequence[int]
    ) -> Iterator[tuple[int, tuple[str, ...]]]:
        """``rules``, in order, of which ``candidates`` cover all fields but one: do their ranges there cover it?"""
        numbers = iter(candidates)
        upcoming = next(numbers, None)
        union = _AddressUnion() if field in ("src", "dst") else _Union()
        added = []
        for rule in rules:
            while upcoming is not None and upcoming < self.earlier[rule]:
                taken = self.takers[upcoming].asked[field]
                if not all(union.contains(bounds) for bounds in taken):
                    union.add(taken)
                    added.append(self.takers[upcoming])
                upcoming = next(numbers, None)
            packets = self.packets[rule][field]
            if packets and all(union.contains(bounds) for bounds in packets):
                yield rule, tuple(dict.fromkeys(t.name for t in added if _meet(t.asked[field], packets)))


def _takers_before_rules(policy: ir.Policy, regions: Regions) -> Iterator[_Taker]:
    for name, matches in ALLOWANCES.items():
        if getattr(policy.allow, name):
            for match in matches:
                yield _Taker(_ALLOWANCE + name, regions.asked(match), None)
    for knock in policy.knocks:  # what goes to the port of messages is one, be it right or wrong, and is dropped
        if isinstance(knock.way, ir.Spa):
            yield _Taker(_KNOCK + knock.name, regions.asked(_to_port(_UDP, knock.way.port, knock.to)), None)
    for knock in policy.knocks:  # what goes to a port that one opens is decided by it, with a grant or without
        unless = None if knock.unless is None else regions.asked(knock.unless)
        for protocol, port in knock.opens:
            yield _Taker(_KNOCK + knock.name, regions.asked(_to_port(protocol, port, knock.to)), unless)


class _Column:
    """One field: of each taker what it asks for, of each rule what its packets have, as numbers of ``values``.

    ``lowest`` and ``highest``: of each rule, the set of just that one of its packets' numbers; ANY where it has none.
    """

    def __init__(self, field: str, asked: Sequence[Region], packets: Sequence[Region]) -> None:
        self.field = field
        self.values: dict[Ranges, int] = {}
        self.asked = self._numbers(asked)
        self.wanted = self._numbers(packets)
        given = list(self.values)
        ends = np.full((2, len(given) + 1), ANY)  # the last one is that of ANY
        for number in np.unique(self.wanted[self.wanted != ANY]).tolist():
            if values := given[number]:
                highest = highest_address(values) if field in ("src", "dst") else values[-1].high
                for at, end in enumerate((values[0].low, highest)):
                    ends[at, number] = self.values.setdefault((Range(end, end),), len(self.values))
        self.lowest, self.highest = ends[:, self.wanted]
        self.sets = NumberSets(list(self.values))

    def _numbers(self, regions: Sequence[Region]) -> Ints:
        values = [region.get(self.field) for region in regions]
        # What many have is mostly one object, and the hash of a large set takes long.
        distinct = {id(each): each for each in values}
        numbers = {
            identity: ANY if each is None else self.values.setdefault(each, len(self.values))
            for identity, each in distinct.items()
        }
        return np.fromiter(map(numbers.__getitem__, map(id, values)), np.int64, len(values))


def _members(cover: Cover, leaves: Ints) -> tuple[Ints, Ints]:
    """All pairs of a place in ``leaves`` and a taker of the leaf there."""
    order = np.argsort(cover.leaves, kind="stable")
    starts = np.searchsorted(cover.leaves[order], np.arange(len(cover.first) + 1))
    rows, at = expand(starts[leaves], np.diff(starts)[leaves])
    return rows, order[at]


def _meet(a: Ranges, b: Ranges) -> bool:
    """Whether they have a number in common."""
    few, many = (a, b) if len(a) <= len(b) else (b, a)
    for low, high in few:
        at = bisect.bisect_left(many, (low,))
        if (at < len(many) and many[at].low <= high) or (at and many[at - 1].high >= low):
            return True
    return False


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


class _AddressUnion(_Union):
    """One of ``src`` or ``dst``: with all addresses of a family, all sets' are in it."""

    def add(self, values: Ranges) -> None:
        super().add(values)
        for addresses, whole_sets in WHOLE_SETS:
            if self.contains(addresses):
                super().add((whole_sets,))
