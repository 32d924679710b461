# SPDX-License-Identifier: GPL-2.0-or-later
"""What a match asks for, and what its packets are bound to have, field by field, all as ranges of whole numbers.

Two matches can then be compared with one notion: a set of numbers within another.
"""

from __future__ import annotations

import functools
import operator
from typing import Final

from xdpfw.addresstable import AddressTable
from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family, Fragment, Range, Ranges
from xdpfw.compiler.ranges import complement, intersect, merge
from xdpfw.policy.addresses import V4_BITS, V6_BITS
from xdpfw.policy.names import ICMP, ICMPV6, PORT_PROTOCOLS, TCP

Region = dict[str, Ranges]
"""Fields of ``ir.Match``. One that is not there is not asked for, or may be missing from the packet."""

MAC_BITS: Final = 48
V6_BASE: Final = 1 << 33  # IPv6 addresses come behind those of IPv4 and the numbers of whole sets there
MAX_EXPANDED: Final = 10_000
"""A set with a file that has more ranges is one number in each family that it has addresses of, a dynamic one in both.

Such a number is behind the addresses of its family. So the set lies within itself, and within all of the family.
"""
ODD_MASK_BASE: Final = 1 << 2 * MAC_BITS  # so do MAC masks that are no prefixes: one number each, of no address
ICMPV6_BASE: Final = 1 << 16  # type << 8 | code of ICMPv6 comes behind that of ICMP


def _span(low: int, high: int) -> Ranges:
    return (Range(low, high),)


def _only(*numbers: int) -> Ranges:
    return merge((number, number) for number in numbers)


_WITH_PORTS: Final = _only(*PORT_PROTOCOLS)
_IPV4: Final = _only(Family.IPV4)
_IPV6: Final = _only(Family.IPV6)
_IP: Final = _only(Family.IPV4, Family.IPV6)
_WITH_TRANSPORT: Final = _only(Fragment.NONE, Fragment.FIRST)
_TRANSPORT_FIELDS: Final = frozenset({"sport", "dport", "tcp_flags", "icmp", "state"})
_STATES: Final = _span(ir.State.NEW, ir.State.ESTABLISHED)

_OF_ALL: Final[Region] = {
    "family": _span(Family.OTHER, Family.IPV6),
    "ethertype": _span(0, 0xFFFF),
    "vlan": _span(ir.NO_TAG, 4095),
    "inner_vlan": _span(ir.NO_TAG, 4095),
    "src_mac": _span(0, (1 << MAC_BITS) - 1),
    "dst_mac": _span(0, (1 << MAC_BITS) - 1),
}
_OF_IP: Final[Region] = {
    "proto": _span(0, 255),
    "fragment": _span(Fragment.NONE, Fragment.LATER),
    "length": _span(0, ir.MAX_IP_LENGTH),
    "ttl": _span(0, 255),
    "dscp": _span(0, 63),
    "ip_options": _span(0, 1),
}
_PLAIN_FIELDS: Final = (
    "interface",
    "family",
    "ethertype",
    "vlan",
    "inner_vlan",
    *_OF_IP,
    "sport",
    "dport",
    "state",
)
_plain_fields: Final = operator.attrgetter(*_PLAIN_FIELDS)
_OF_NO_CONSEQUENCE: Final = frozenset(
    {
        *("interface", "src_mac", "dst_mac", "sport", "dport", "tcp_flags", "length", "ttl", "dscp", "ip_options"),
        *("knocked", "state"),
    }
)
"""Of these fields, it matters only whether they are asked for: what the others have does not depend on their values."""

_IP_FIELDS: Final = frozenset({*_OF_IP, *_TRANSPORT_FIELDS, "src", "dst", "knocked"})

_ETHERTYPES: Final = {
    Family.IPV4: _only(0x0800),
    Family.IPV6: _only(0x86DD),
    Family.OTHER: complement(_only(0x0800, 0x86DD), 0xFFFF),
}
WHOLE_SETS: Final = (
    (Range(0, (1 << V4_BITS) - 1), Range(1 << V4_BITS, V6_BASE - 1)),
    (
        Range(V6_BASE, V6_BASE + (1 << V6_BITS) - 1),
        Range(V6_BASE + (1 << V6_BITS), V6_BASE + (1 << V6_BITS) + (1 << 32) - 1),
    ),
)
"""Of each family, all addresses, and the numbers of whole sets behind them."""

_ADDRESSES: Final = {
    Family.IPV4: _span(0, WHOLE_SETS[0][1].high),
    Family.IPV6: _span(V6_BASE, WHOLE_SETS[1][1].high),
    Family.OTHER: (),
}
_ICMP_MESSAGES: Final = {
    Family.IPV4: (ICMP, _span(0, ICMPV6_BASE - 1)),
    Family.IPV6: (ICMPV6, _span(ICMPV6_BASE, 2 * ICMPV6_BASE - 1)),
}


class Regions:
    """Regions of one policy's matches. What many rules share, such as a large set, is converted once."""

    def __init__(self, policy: ir.Policy) -> None:
        self._of_all = {"interface": _span(0, len(policy.interfaces) - 1), **_OF_ALL}
        self._addresses: dict[int, Ranges] = {}
        self._whole_sets: dict[AddressTable | str, int] = {}  # dynamic ones by name
        self._consequences: dict[tuple[tuple[str, Ranges], ...], Region] = {}
        self._knocks = {knock.name: number for number, knock in enumerate(policy.knocks)}

    def asked(self, match: ir.Match) -> Region:
        """The conditions of ``match`` as they are written."""
        region: Region = {}
        for field, values in zip(_PLAIN_FIELDS, _plain_fields(match), strict=True):
            if values is not None:
                region[field] = values
        if match.src is not None:
            region["src"] = self._converted(match.src)
        if match.dst is not None:
            region["dst"] = self._converted(match.dst)
        if match.src_mac is not None:
            region["src_mac"] = _macs(match.src_mac)
        if match.dst_mac is not None:
            region["dst_mac"] = _macs(match.dst_mac)
        if match.tcp_flags is not None:
            region["tcp_flags"] = _tcp_flags(match.tcp_flags)
        if match.icmp is not None:
            region["icmp"] = icmp_ranges(match.icmp)
        if match.knocked is not None:
            region["knocked"] = _only(*(self._knocks[name] for name in match.knocked))
        return region

    def implied(self, asked: Region) -> Region:
        """What every packet in a region has: one with ``dport`` is IP, of a proto with ports, no later fragment.

        A field whose ranges come out empty means that there is no such packet.
        """
        sketch: Region = {}
        for field, values in asked.items():
            sketch[field] = () if field in _OF_NO_CONSEQUENCE else values
        for field in ("src", "dst"):
            if field in asked:
                sketch[field] = _addresses(_families(asked[field]))
        # Rules differ in addresses and ports for the most part: what follows from the rest is the same for many.
        key = tuple(sketch.items())
        if key not in self._consequences:
            self._consequences[key] = self._consequences_of(sketch)
        region = self._consequences[key].copy()
        for field, values in asked.items():
            if field in _OF_NO_CONSEQUENCE:
                region[field] = values
            elif field in ("src", "dst"):
                region[field] = values if is_within(values, region[field]) else intersect(values, region[field])
        return region

    def _consequences_of(self, asked: Region) -> Region:
        region = {**self._of_all, **asked}
        if "inner_vlan" in asked and asked["inner_vlan"][0].low != ir.NO_TAG:
            _narrow(region, "vlan", _span(0, 4095))
        if asked.keys() & {"sport", "dport"}:
            _narrow(region, "proto", _WITH_PORTS)
        if "tcp_flags" in asked:
            _narrow(region, "proto", _only(TCP))
        if "icmp" in asked:
            families = [f for f, (_, messages) in _ICMP_MESSAGES.items() if intersect(asked["icmp"], messages)]
            _narrow(region, "family", _only(*families))
            _narrow(region, "proto", _only(*(_ICMP_MESSAGES[family][0] for family in families)))
        if asked.keys() & _TRANSPORT_FIELDS:
            _narrow(region, "fragment", _WITH_TRANSPORT)
        if asked.keys() & _IP_FIELDS:
            _narrow(region, "family", _IP)
        for field in ("src", "dst"):
            if field in asked:
                _narrow(region, "family", _families(asked[field]))
        ethertypes = region["ethertype"]
        _narrow(region, "family", _only(*(f for f, numbers in _ETHERTYPES.items() if intersect(ethertypes, numbers))))
        _narrow(region, "ethertype", _union(_ETHERTYPES, region["family"]))
        if is_within(region["family"], _IP):
            _complete(region)
        return region

    def _converted(self, addresses: ir.AddressRanges) -> Ranges:
        key = id(addresses)  # lives as long as the policy
        if key not in self._addresses:
            v4: list[tuple[int, int]] = [*addresses.v4]
            v6: list[tuple[int, int]] = [*addresses.v6]
            for each in addresses.sets:
                for ranges, bits in ((v4, V4_BITS), (v6, V6_BITS)):
                    ranges += self._ranges_of_set(each.table, bits)
            for name in addresses.dynamic:
                for ranges, bits in ((v4, V4_BITS), (v6, V6_BITS)):
                    ranges += self._whole_set(name, bits)
            self._addresses[key] = (
                *_with_whole_sets(v4, *WHOLE_SETS[0]),
                *_with_whole_sets([(low + V6_BASE, high + V6_BASE) for low, high in v6], *WHOLE_SETS[1]),
            )
        return self._addresses[key]

    def _ranges_of_set(self, table: AddressTable, bits: int) -> list[tuple[int, int]]:
        """Its addresses of so many bits, or its number."""
        if len(table) <= MAX_EXPANDED:
            return table.spans(bits)
        return self._whole_set(table, bits) if len(table.v4 if bits == V4_BITS else table.v6) else []

    def _whole_set(self, which: AddressTable | str, bits: int) -> list[tuple[int, int]]:
        number = (1 << bits) + self._whole_sets.setdefault(which, len(self._whole_sets))
        return [(number, number)]


def _with_whole_sets(ranges: list[tuple[int, int]], addresses: Range, whole_sets: Range) -> Ranges:
    """The ranges of a family; if they are all ``addresses``, they hold every set's, too."""
    merged = merge(ranges)
    if merged and merged[0].low == addresses.low and merged[0].high >= addresses.high:
        return (Range(addresses.low, whole_sets.high),)
    return merged


def highest_address(values: Ranges) -> int:
    """The highest number of ``src`` or ``dst``; where that is every set's, the highest address."""
    highest = values[-1].high
    return next((addresses.high for addresses, behind in WHOLE_SETS if highest == behind.high), highest)


def is_within(inner: Ranges, outer: Ranges) -> bool:
    if len(outer) == 1 and inner:
        return outer[0].low <= inner[0].low and inner[-1].high <= outer[0].high
    return intersect(inner, outer) == inner


def _complete(region: Region) -> None:
    """The fields that an IP packet has in any case."""
    for field, values in _OF_IP.items():
        region.setdefault(field, values)
    for field in ("src", "dst"):
        _narrow(region, field, _addresses(region["family"]))
    if not is_within(region["fragment"], _WITH_TRANSPORT):
        return
    region.setdefault("state", _STATES)
    if is_within(region["proto"], _WITH_PORTS):
        region.setdefault("sport", _span(0, 0xFFFF))
        region.setdefault("dport", _span(0, 0xFFFF))
    if region["proto"] == _only(TCP):
        region.setdefault("tcp_flags", _span(0, 0xFF))
    for family, (proto, messages) in _ICMP_MESSAGES.items():
        if (region["family"], region["proto"]) == (_only(family), _only(proto)):
            region.setdefault("icmp", messages)


def _narrow(region: Region, field: str, values: Ranges) -> None:
    present = region.get(field)
    if present is None:
        region[field] = values
    elif not is_within(present, values):
        region[field] = intersect(present, values)


def are_apart(field: str, a: Ranges, b: Ranges) -> bool:
    """True if no packet has a value of this field in both. Of odd MAC masks and whole sets that cannot be said.

    A source may hold grants of several knocks.
    """
    if field in ("src", "dst") and any(
        intersect(values, tuple(behind for _, behind in WHOLE_SETS)) for values in (a, b)
    ):
        return not intersect(_families(a), _families(b))
    if field == "knocked":
        return False
    if field in ("src_mac", "dst_mac") and any(values and values[-1].low >= ODD_MASK_BASE for values in (a, b)):
        return False
    return not intersect(a, b)


@functools.cache
def _addresses(families: Ranges) -> Ranges:
    return _union(_ADDRESSES, families)


def _families(addresses: Ranges) -> Ranges:
    """Sets may be empty; those of IPv4 come first."""
    if not addresses:
        return ()
    if addresses[-1].high < V6_BASE:
        return _IPV4
    return _IP if addresses[0].low < V6_BASE else _IPV6


def _union(by_family: dict[Family, Ranges], families: Ranges) -> Ranges:
    return merge(
        bounds for family, values in by_family.items() if intersect(families, _only(family)) for bounds in values
    )


@functools.cache
def _macs(conditions: tuple[ir.MacMask, ...]) -> Ranges:
    return merge(map(_mac, conditions))


def _mac(condition: ir.MacMask) -> Range:
    value, mask = condition
    free = mask ^ (1 << MAC_BITS) - 1
    if free & free + 1:  # the mask is no prefix
        number = ODD_MASK_BASE + (mask << MAC_BITS) + value
        return Range(number, number)
    return Range(value, value | free)


@functools.cache
def _tcp_flags(conditions: tuple[ir.TcpFlags, ...]) -> Ranges:
    return _only(
        *(
            flags
            for flags in range(256)
            if any(flags & want.set == want.set and not flags & want.clear for want in conditions)
        )
    )


@functools.cache
def icmp_ranges(messages: tuple[ir.IcmpMessage, ...]) -> Ranges:
    bases = {ICMP: 0, ICMPV6: ICMPV6_BASE}
    return merge(
        (first + message.code.low, first + message.code.high)
        for message in messages
        for kind in range(message.type.low, message.type.high + 1)
        for first in (bases[message.protocol] + (kind << 8),)
    )
