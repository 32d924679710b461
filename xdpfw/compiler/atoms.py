# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules -> atoms, the unit that the classifier sorts into its tables.

An atom is a plain product: one set of values a field, all of which must hold. A rule without ``except`` is one
atom. ``M except (a and b)`` is the union of ``M and not a`` and ``M and not b``: an atom for each condition of the
exception, next to each other and with the same rule number. (They may overlap; the rule is the same.)
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from xdpfw.compiler import ir, ranges
from xdpfw.compiler.ir import Family, Fragment, MacMask, Range, Ranges
from xdpfw.kernel.abi import Absent, Detail, Field, Kind, Limit, PacketState

HIGHEST: dict[Field, int] = {
    Field.PROTO: Absent.NO_PROTO,
    Field.DPORT: Absent.NO_PORT,
    Field.SPORT: Absent.NO_PORT,
    Field.KIND: Kind.COUNT - 1,
    Field.DETAIL: Absent.NO_DETAIL,
    Field.INTERFACE: Absent.NO_INTERFACE,
    Field.ETHERTYPE: 0xFFFF,
    Field.VLAN: Absent.NO_TAG,
    Field.INNER_VLAN: Absent.NO_TAG,
    Field.LENGTH: Absent.NO_LENGTH,
    Field.TTL: Absent.NO_TTL,
    Field.DSCP: Absent.NO_DSCP,
    Field.KNOCKED: (1 << Limit.MAX_KNOCKED) - 1,
    Field.STATE: PacketState.NONE,
    Field.SRC_SETS: (1 << Limit.MAX_ASKED_SETS) - 1,
    Field.DST_SETS: (1 << Limit.MAX_ASKED_SETS) - 1,
}
"""The largest value that the parser gives each field. MAC addresses have conditions of their own."""


class MacCondition(NamedTuple):
    """Holds for an address that matches one of ``among`` (None: any address) and none of ``not_among``."""

    among: tuple[MacMask, ...] | None
    not_among: tuple[MacMask, ...] = ()


class SetCondition(NamedTuple):
    """Holds for the addresses in ``within`` (None: any) and in none of ``without``; some of them name sets."""

    within: ir.AddressRanges | None
    without: tuple[ir.AddressRanges, ...] = ()


class AddressCondition(NamedTuple):
    """Holds for the addresses in ``v4`` and ``v6``, and with ``none`` for packets that have no IP address.

    ``sets``: where the condition names sets with a file; then v4 and v6 are empty, and it is what holds instead.
    """

    v4: Ranges
    v6: Ranges
    none: bool = False
    sets: SetCondition | None = None


FieldCondition = Ranges | MacCondition
Predicate = tuple[tuple[Field, FieldCondition], ...]
"""Conditions on small fields, in the order of Field."""


@dataclass(frozen=True, slots=True)
class Atom:
    rule: int
    predicate: Predicate
    src: AddressCondition | None
    dst: AddressCondition | None
    counts: bool  # a rule that only counts


_EVERY_V4 = (Range(0, (1 << 32) - 1),)
_EVERY_V6 = (Range(0, (1 << 128) - 1),)


class _Conditions(NamedTuple):
    """A Match in the data plane's own fields."""

    predicate: Predicate
    src: AddressCondition | None
    dst: AddressCondition | None


def _contains(values: Ranges | None, value: int) -> bool:
    return values is None or any(low <= value <= high for low, high in values)


def _kinds(match: ir.Match) -> Ranges | None:
    """Family, fragment and options, which the parser puts into one number."""
    if match.family is None and match.fragment is None and match.ip_options is None:
        return None
    kinds = []
    for family in Family:
        for fragment in Fragment:
            for options in (0, 1):
                is_ip = family is not Family.OTHER
                if (
                    _contains(match.family, family)
                    and (match.fragment is None or (is_ip and _contains(match.fragment, fragment)))
                    and (match.ip_options is None or (is_ip and _contains(match.ip_options, options)))
                ):
                    kind = family | fragment << Kind.FRAGMENT_SHIFT | options << Kind.OPTIONS_SHIFT
                    kinds.append(Range(kind, kind))
    return ranges.merge(kinds)


def _details(match: ir.Match) -> Ranges | None:
    """TCP flags and ICMP messages, which share a field as no packet has both."""
    details: Ranges | None = None
    if match.tcp_flags is not None:
        details = ranges.merge(
            (Detail.TCP + flags, Detail.TCP + flags)
            for flags in range(256)
            if any(flags & test.set == test.set and not flags & test.clear for test in match.tcp_flags)
        )
    if match.icmp is not None:
        messages = ranges.merge(
            (base + (kind << 8 | message.code.low), base + (kind << 8 | message.code.high))
            for message in match.icmp
            for base in (Detail.ICMP if message.protocol == 1 else Detail.ICMPV6,)
            for kind in range(message.type.low, message.type.high + 1)
        )
        details = messages if details is None else ranges.intersect(details, messages)
    return details


def _tags(tags: Ranges | None) -> Ranges | None:
    """VLAN ids as the parser has them, where "no tag" comes last and not before 0."""
    if tags is None:
        return None
    ids = [Range(max(low, 0), high) for low, high in tags if high >= 0]
    untagged = [Range(Absent.NO_TAG, Absent.NO_TAG) for low, _ in tags if low == ir.NO_TAG]
    return ranges.merge(ids + untagged)


def _knocked(names: tuple[str, ...] | None, asked: Sequence[str]) -> Ranges | None:
    """The values of which some bit is that of one of the knocks; ``asked``: the knocks in order of their bits."""
    if names is None:
        return None
    mask = sum(1 << asked.index(name) for name in set(names))
    return ranges.merge((value, value) for value in range(1 << Limit.MAX_KNOCKED) if value & mask)


_small_fields = operator.attrgetter(
    *(each.name for each in dataclasses.fields(ir.Match) if each.name not in ("src", "dst"))
)


def _dynamic(names: tuple[str, ...], asked: Sequence[str]) -> Ranges:
    """The values of which some bit is that of one of the dynamic sets; ``asked``: the sets in order of their bits."""
    mask = sum(1 << asked.index(name) for name in set(names))
    return ranges.merge((value, value) for value in range(1 << Limit.MAX_ASKED_SETS) if value & mask)


_SET_FIELDS: Final = (("src", Field.SRC_SETS), ("dst", Field.DST_SETS))


class _Reader:
    """Matches -> conditions. ``asked``: the knocks in order of their bits; ``sets``: by field, the dynamic sets so.

    Of the small fields many rules ask the same: that is made once.
    """

    def __init__(self, asked: Sequence[str], sets: Mapping[Field, Sequence[str]]) -> None:
        self._asked = asked
        self._sets = sets
        self._known: dict[tuple[object, ...], Predicate] = {}

    def conditions(self, match: ir.Match) -> _Conditions:
        """All but those on dynamic sets."""
        key = _small_fields(match)
        predicate = self._known.get(key)
        if predicate is None:
            predicate = self._known[key] = _predicate(match, self._asked)
        return _Conditions(
            predicate,
            None if match.src is None else _addresses(match.src),
            None if match.dst is None else _addresses(match.dst),
        )

    def dynamic(self, match: ir.Match) -> dict[str, tuple[Field, Ranges]]:
        """By direction, the condition on dynamic sets that stands beside that on addresses: one must hold."""
        return {
            direction: (field, _dynamic(wanted.dynamic, self._sets[field]))
            for direction, field in _SET_FIELDS
            if (wanted := getattr(match, direction)) is not None and wanted.dynamic
        }

    def alternatives(self, match: ir.Match) -> list[_Conditions]:
        """Conditions of which one must hold whole."""
        found = [self.conditions(match)]
        for direction, (field, members) in self.dynamic(match).items():
            found = [
                each
                for one in found
                for each in (
                    one,
                    one._replace(predicate=_in_order({**dict(one.predicate), field: members}), **{direction: None}),
                )
            ]
        return found


def _predicate(match: ir.Match, asked: Sequence[str]) -> Predicate:
    by_field: dict[Field, FieldCondition | None] = {
        Field.PROTO: match.proto,
        Field.DPORT: match.dport,
        Field.SPORT: match.sport,
        Field.KIND: _kinds(match),
        Field.DETAIL: _details(match),
        Field.INTERFACE: match.interface,
        Field.ETHERTYPE: match.ethertype,
        Field.VLAN: _tags(match.vlan),
        Field.INNER_VLAN: _tags(match.inner_vlan),
        Field.LENGTH: match.length,
        Field.TTL: match.ttl,
        Field.DSCP: match.dscp,
        Field.KNOCKED: _knocked(match.knocked, asked),
        Field.STATE: match.state,
        Field.SRC_MAC: None if match.src_mac is None else MacCondition(match.src_mac),
        Field.DST_MAC: None if match.dst_mac is None else MacCondition(match.dst_mac),
    }
    return _in_order(
        {
            field: condition if isinstance(condition, MacCondition) else ranges.merge(condition)
            for field, condition in by_field.items()
            if condition is not None
        }
    )


def _in_order(fields: Mapping[Field, FieldCondition]) -> Predicate:
    return tuple(sorted(fields.items(), key=lambda item: item[0]))


def _addresses(wanted: ir.AddressRanges) -> AddressCondition:
    if wanted.sets:
        return AddressCondition((), (), sets=SetCondition(wanted))
    return AddressCondition(wanted.v4, wanted.v6)


def _without_field(field: Field, condition: FieldCondition | None, exception: FieldCondition) -> FieldCondition:
    if isinstance(exception, MacCondition):
        assert condition is None or isinstance(condition, MacCondition)
        return MacCondition(condition.among if condition else None, exception.among or ())
    rest = ranges.complement(exception, HIGHEST[field])
    assert not isinstance(condition, MacCondition)
    return rest if condition is None else ranges.intersect(condition, rest)


def _without_addresses(condition: AddressCondition | None, exception: AddressCondition) -> AddressCondition:
    if exception.sets or (condition and condition.sets):
        within = None if condition is None else _set_condition(condition).within
        without = _set_condition(exception).within
        assert without is not None
        return AddressCondition((), (), condition is None, SetCondition(within, (without,)))
    v4 = ranges.complement(exception.v4, _EVERY_V4[0].high)
    v6 = ranges.complement(exception.v6, _EVERY_V6[0].high)
    if condition is None:
        return AddressCondition(v4, v6, none=True)
    return AddressCondition(ranges.intersect(condition.v4, v4), ranges.intersect(condition.v6, v6))


def _set_condition(condition: AddressCondition) -> SetCondition:
    return condition.sets or SetCondition(ir.AddressRanges(condition.v4, condition.v6))


def _products(match: ir.Match, unless: ir.Match | None, reader: _Reader) -> Iterator[_Conditions]:
    for wanted in reader.alternatives(match):
        if unless is None:
            yield wanted
        else:
            yield from _without(wanted, unless, reader)


def _without(wanted: _Conditions, unless: ir.Match, reader: _Reader) -> Iterator[_Conditions]:
    exception, dynamic = reader.conditions(unless), reader.dynamic(unless)
    fields = dict(wanted.predicate)

    def rest(field: Field, condition: FieldCondition) -> Predicate:
        return _in_order({**fields, field: _without_field(field, fields.get(field), condition)})

    for field, condition in exception.predicate:
        yield wanted._replace(predicate=rest(field, condition))
    # An address that is in neither: not in the ranges, and not in the dynamic sets.
    if exception.src is not None:
        predicate = rest(*dynamic["src"]) if "src" in dynamic else wanted.predicate
        yield wanted._replace(predicate=predicate, src=_without_addresses(wanted.src, exception.src))
    if exception.dst is not None:
        predicate = rest(*dynamic["dst"]) if "dst" in dynamic else wanted.predicate
        yield wanted._replace(predicate=predicate, dst=_without_addresses(wanted.dst, exception.dst))


def _can_match(product: _Conditions) -> bool:
    src, dst = product.src, product.dst
    return (
        all(condition for _, condition in product.predicate) and (src is None or any(src)) and (dst is None or any(dst))
    )


def asked_knocks(policy: ir.Policy) -> tuple[str, ...]:
    """The knocks that rules ask for, by ``knocked``, in order of the bits that stand for them."""
    matches = (match for rule in policy.rules for match in (rule.match, rule.unless) if match is not None)
    return tuple(dict.fromkeys(name for match in matches for name in match.knocked or ()))


def asked_sets(policy: ir.Policy, direction: str) -> tuple[str, ...]:
    """The dynamic sets that rules ask for, of ``src`` or ``dst``, in order of the bits that stand for them."""
    matches = (match for rule in policy.rules for match in (rule.match, rule.unless) if match is not None)
    wanted = (getattr(match, direction) for match in matches)
    return tuple(dict.fromkeys(name for addresses in wanted if addresses for name in addresses.dynamic))


def atoms(policy: ir.Policy) -> list[Atom]:
    """The atoms of all rules, in order of precedence. A rule that no packet can match has none."""
    found = []
    sets = {field: asked_sets(policy, direction) for direction, field in _SET_FIELDS}
    reader = _Reader(asked_knocks(policy), sets)
    for number, rule in enumerate(policy.rules):
        for product in _products(rule.match, rule.unless, reader):
            if _can_match(product):
                counts = rule.action.kind is ir.ActionKind.COUNT
                found.append(Atom(number, product.predicate, product.src, product.dst, counts))
    return found
