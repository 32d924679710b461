# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies and frames for hypothesis, drawn where they meet: at the corners of the rules' conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from tests import frames
from tests.policies import INTERFACES, one, policy, prefix
from xdpfw.addresstable import AddressTable
from xdpfw.compiler import ir
from xdpfw.compiler.ir import MAX_IP_LENGTH, NO_TAG, Action, ActionKind, AddressRanges, MacMask, Range, Ranges
from xdpfw.compiler.ranges import merge

Draw = Callable[[st.SearchStrategy[Any]], Any]

V4: Final = (0, 1, 0x0A000001, 0x0A000002, 0x0A00FFFF, 0x0A010000, 0x7FFFFFFF, 0xC0A80407, 0xFFFFFFFE, 0xFFFFFFFF)
_NETS = (0x20010DB8 << 96, 0x20010DB8_0001_0000 << 64, 0xFFFF << 32, 0xFE80 << 112)
V6: Final = (0, 1, (1 << 128) - 1, *(value for net in _NETS for value in (net, net + 1, net + (1 << 64))))
V4_LENGTHS: Final = (0, 1, 7, 8, 9, 12, 15, 16, 17, 20, 24, 25, 30, 31, 32, 32)
V6_LENGTHS: Final = (0, 1, 8, 9, 16, 17, 32, 33, 48, 64, 65, 96, 100, 127, 128, 128)
MACS: Final = (0, frames.SRC_MAC, frames.DST_MAC, 0x0A1B2C3D4E5F, 0x01005E000001, (1 << 48) - 1)
MASKS: Final = ((1 << 48) - 1, (1 << 48) - 1, 0xFFFFFF000000, 0x010000000000, 0xFFFF, 0x000100010001, 0)
PROTOS: Final = (0, 1, 6, 6, 17, 17, 33, 44, 47, 50, 58, 59, 60, 132, 136, 255)
ETHERTYPES: Final = (0, 46, frames.IPV4, frames.ARP, frames.IPV6, 0x88CC, 0xFFFF)
FLAGS: Final = (0, 0x02, 0x10, 0x12, 0x29, 0xFF)
EXTENSIONS: Final = (frames.HOP_BY_HOP, frames.ROUTING, frames.AH, frames.DESTINATION, frames.MOBILITY)

NUMBERS: Final[dict[str, tuple[tuple[int, ...], int]]] = {
    "interface": (tuple(range(len(INTERFACES))), len(INTERFACES) - 1),
    "family": ((0, 1, 2), 2),
    "ethertype": (ETHERTYPES, 0xFFFF),
    "vlan": ((NO_TAG, 0, 1, 100, 4095), 4095),
    "inner_vlan": ((NO_TAG, 0, 1, 100, 4095), 4095),
    "proto": (PROTOS, 255),
    "sport": ((0, 1, 53, 67, 546, 547, 1023, 1024, 40000, 65535), 65535),
    "dport": ((0, 1, 22, 53, 68, 80, 443, 546, 1023, 1024, 8080, 65535), 65535),
    "fragment": ((0, 1, 2), 2),
    "length": ((0, 20, 28, 40, 48, 60, 68, 100, 1500, MAX_IP_LENGTH), MAX_IP_LENGTH),
    "ttl": ((0, 1, 64, 254, 255), 255),
    "dscp": ((0, 1, 46, 63), 63),
    "ip_options": ((0, 1), 1),
    "state": ((0, 1), 1),
}
"""The fields that are plain numbers: values to draw from, and the largest there is."""


def ranges(values: Sequence[int]) -> st.SearchStrategy[Ranges]:
    """One value, or some ranges between values."""
    value = st.sampled_from(values)
    span = st.tuples(value, value).map(lambda pair: (min(pair), max(pair)))
    return st.one_of(value.map(one), value.map(one), st.lists(span, min_size=1, max_size=3).map(merge))


def _addresses_of(values: Sequence[int], lengths: Sequence[int], bits: int) -> st.SearchStrategy[Range]:
    value = st.sampled_from(values)
    spans = st.tuples(value, value).map(lambda pair: Range(min(pair), max(pair)))
    prefixes = st.builds(lambda value, length: prefix(value, length, bits), value, st.sampled_from(lengths))
    return st.one_of(prefixes, prefixes, prefixes, spans)


def _literals() -> st.SearchStrategy[AddressRanges]:
    """Prefixes and ranges of either family or both."""
    v4 = _addresses_of(V4, V4_LENGTHS, 32).map(lambda found: (found, None))
    v6 = _addresses_of(V6, V6_LENGTHS, 128).map(lambda found: (None, found))
    return st.lists(st.one_of(v4, v4, v6), min_size=1, max_size=3).map(
        lambda found: AddressRanges(merge(a for a, _ in found if a), merge(b for _, b in found if b))
    )


def _file_set(content: AddressRanges, name: str) -> ir.AddressSet:
    """A set with a file. Its name goes by what is in it, too, as a policy has no two of the same name."""
    low_64 = (1 << 64) - 1
    v4 = np.array(content.v4, dtype=np.uint32).reshape(-1, 2)
    halves = [(low >> 64, low & low_64, high >> 64, high & low_64) for low, high in content.v6]
    table = AddressTable.of(v4, np.array(halves, dtype=np.uint64).reshape(-1, 4))
    return ir.AddressSet(f"{name}-{table.digest.hex()[:8]}", table, len(table), "a file")


def addresses() -> st.SearchStrategy[AddressRanges]:
    """Addresses as they are written, and sets with files: such, and others, and both.

    Now and then two sets with the same in them have different names.
    """
    nothing = st.just(AddressRanges())
    one_set = st.builds(_file_set, st.one_of(_literals(), _literals(), nothing), st.sampled_from(("set", "list")))
    twins = _literals().map(lambda content: [_file_set(content, name) for name in ("set", "list")])
    sets = st.one_of(*[st.lists(one_set, min_size=1, max_size=2)] * 4, twins)
    named = st.builds(
        lambda own, found: AddressRanges(own.v4, own.v6, tuple(dict.fromkeys(found))),
        st.one_of(nothing, nothing, _literals()),
        sets,
    )
    return st.one_of(_literals(), _literals(), named)


def _mac() -> st.SearchStrategy[MacMask]:
    return st.builds(lambda value, mask: MacMask(value & mask, mask), st.sampled_from(MACS), st.sampled_from(MASKS))


def _tcp_flags() -> st.SearchStrategy[ir.TcpFlags]:
    flags = st.sampled_from(FLAGS)
    return st.builds(lambda wanted, not_wanted: ir.TcpFlags(wanted, not_wanted & ~wanted), flags, flags)


def _icmp() -> st.SearchStrategy[ir.IcmpMessage]:
    kinds = st.sampled_from((one(0), one(3), one(8), one(128), one(135), one(0, 255), one(133, 137), one(255)))
    codes = st.sampled_from((one(0), one(1, 3), one(0, 255), one(255)))
    return st.builds(
        lambda proto, kind, code: ir.IcmpMessage(proto, *kind, *code), st.sampled_from((1, 58)), kinds, codes
    )


def _some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, min_size=1, max_size=2, unique=True).map(tuple)


CONDITIONS: Final[dict[str, st.SearchStrategy[Any]]] = {
    **{name: ranges(values) for name, (values, _) in NUMBERS.items()},
    "src": addresses(),
    "dst": addresses(),
    "src_mac": _some(_mac()),
    "dst_mac": _some(_mac()),
    "tcp_flags": _some(_tcp_flags()),
    "icmp": _some(_icmp()),
}

# What policies are about, more often than the rest.
NAMES: Final = (
    (*CONDITIONS, *("proto", "dport", "src", "dst") * 4),
    ("src", "dst", "src", "dst", "proto", "dport", "sport"),
    ("src", "dst"),
)


Known = dict[str, list[Any]]
"""The conditions that a policy has had so far: its rules share some, as people's do, and so meet in the tables."""


@st.composite
def matches(draw: Draw, names: Sequence[str], known: Known, most: int = 4) -> ir.Match:
    """Conditions on up to ``most`` fields. They may contradict each other."""
    chosen = draw(st.lists(st.sampled_from(names), max_size=most, unique=True))
    return ir.Match(**{name: _condition(draw, name, known.setdefault(name, [])) for name in chosen})


def _condition(draw: Draw, name: str, known: list[Any]) -> Any:
    if known and draw(st.booleans()):
        return draw(st.sampled_from(known))
    known.append(draw(CONDITIONS[name]))
    return known[-1]


ACTIONS: Final = (
    *[Action(ActionKind.DROP), Action(ActionKind.PASS)] * 3,
    Action(ActionKind.COUNT),
    Action(ActionKind.COUNT),
    Action(ActionKind.TX),
    Action(ActionKind.REDIRECT, "b"),
    Action(ActionKind.REDIRECT, "c", src_mac=0x020000000009, dst_mac=0x02000000000A),
)


SECOND_NS: Final = 1_000_000_000
LIMITS: Final = (
    ir.Limit(1, SECOND_NS, 1),
    ir.Limit(5, SECOND_NS, 2, ir.Per.SRC, 24, 64),
    ir.Limit(1, 60 * SECOND_NS, 1, ir.Per.SRC, exceed=ir.Verdict.PASS),
    ir.Limit(10, SECOND_NS, 1, ir.Per.FLOW),
    ir.Limit(1000, SECOND_NS, 1514, bytes=True, exceed=ir.Verdict.PASS),
)


def _with_effects(draw: Draw, rule: ir.Rule) -> ir.Rule:
    """Now and then with a limit, if it decides."""
    limit = draw(st.sampled_from((None,) * 9 + LIMITS))
    return rule if rule.action.kind is ActionKind.COUNT else dataclasses.replace(rule, limit=limit)


@st.composite
def policies(draw: Draw, most_rules: int = 12) -> ir.Policy:
    names = draw(st.sampled_from(NAMES))
    known: Known = {}
    rules = [
        _with_effects(
            draw,
            ir.Rule(
                f"r{number}",
                draw(matches(names, known)),
                draw(st.sampled_from(ACTIONS)),
                draw(st.one_of(st.none(), st.none(), st.none(), matches(names, known, 3))),
            ),
        )
        for number in range(draw(st.integers(0, most_rules)))
    ]
    verdict = st.sampled_from((ir.Verdict.PASS, ir.Verdict.DROP))
    allow = draw(st.one_of(st.just((False,) * 4), st.tuples(*[st.booleans()] * 4)))
    return policy(
        *rules, default=draw(verdict), invalid=draw(verdict), allow=ir.Allow(*allow, established=False, fragments=False)
    )


def corners(spans: Iterable[tuple[int, int]], highest: int) -> list[int]:
    """Just within and just beyond each range."""
    return sorted({v for low, high in spans for v in (low - 1, low, high, high + 1) if 0 <= v <= highest})


class _Aim:
    """Draws a packet's fields so that they meet one rule's conditions, or just miss them."""

    def __init__(self, draw: Draw, rules: Sequence[ir.Rule]) -> None:
        self.draw = draw
        chosen = draw(st.sampled_from(rules)) if rules else None
        self.matches = [match for match in (chosen and chosen.match, chosen and chosen.unless) if match is not None]

    def conditions(self, name: str) -> list[Any]:
        return [value for match in self.matches if (value := getattr(match, name)) is not None]

    def number(self, name: str) -> int:
        values, highest = NUMBERS[name]
        found = [span for condition in self.conditions(name) for span in condition]
        near = corners(found, highest) + [NO_TAG] * any(low == NO_TAG for low, _ in found)
        return int(self.draw(st.sampled_from(near or values)))

    def address(self, name: str, is_v4: bool) -> int:
        found = [span for condition in self.conditions(name) for span in (condition.v4 if is_v4 else condition.v6)]
        highest = (1 << (32 if is_v4 else 128)) - 1
        return int(self.draw(st.sampled_from(corners(found, highest) or (V4 if is_v4 else V6))))

    def mac(self, name: str) -> int:
        found = [test for condition in self.conditions(name) for test in condition]
        if not found:
            return int(self.draw(st.sampled_from(MACS)))
        value, mask = self.draw(st.sampled_from(found))
        near = (value, value | ~mask & (1 << 48) - 1, value ^ mask & -mask)
        return int(self.draw(st.sampled_from(near)))

    def family(self) -> int:
        """Of a family that the addresses have, where there are any."""
        found = [1 if condition.v4 else 2 for name in ("src", "dst") for condition in self.conditions(name)]
        return int(self.draw(st.sampled_from(found))) if found else self.number("family")

    def flags(self) -> int:
        found = [test for condition in self.conditions("tcp_flags") for test in condition]
        near = [v for test in found for v in (test.set, 0xFF & ~test.clear, test.set ^ 1, test.clear)]
        return int(self.draw(st.sampled_from(near or FLAGS)))

    def icmp(self) -> tuple[int, int]:
        found = [message for condition in self.conditions("icmp") for message in condition]
        kinds = corners((message.type for message in found), 255) or (0, 3, 8, 128, 135, 255)
        codes = corners((message.code for message in found), 255) or (0, 1, 255)
        return self.draw(st.sampled_from(kinds)), self.draw(st.sampled_from(codes))

    def proto(self) -> int:
        if self.conditions("tcp_flags"):
            return frames.TCP
        messages = [message.protocol for condition in self.conditions("icmp") for message in condition]
        return int(self.draw(st.sampled_from(messages))) if messages else self.number("proto")

    def tags(self) -> list[tuple[int, int]]:
        wanted = (name for name in ("vlan", "inner_vlan") if self.conditions(name) or self.draw(st.integers(0, 5)) == 5)
        ids = [self.number(name) for name in wanted]
        ids += [7] * self.draw(st.sampled_from((0,) * 20 + (1, 2, 3)))
        return [(frames.VLAN if i % 2 else frames.QINQ, tag) for i, tag in enumerate(ids) if tag != NO_TAG]


DAMAGE: Final = (None,) * 16 + ("padding", "byte", "byte", "cut")


@st.composite
def frame_at(draw: Draw, rules: Sequence[ir.Rule]) -> bytes:
    """A frame at the corners of one of the rules; now and then it is damaged."""
    aim = _Aim(draw, rules)
    family = aim.family()
    if family == ir.Family.OTHER:
        ethertype, packet = aim.number("ethertype"), bytes(28)
    else:
        ethertype, packet = _ip(aim, family == ir.Family.IPV4)
    frame = frames.ethernet(ethertype, packet, tags=aim.tags(), src_mac=aim.mac("src_mac"), dst_mac=aim.mac("dst_mac"))
    damage = draw(st.sampled_from(DAMAGE))
    if damage == "cut":
        return frame[: draw(st.integers(0, len(frame)))]
    if damage == "byte":
        at = draw(st.integers(12, max(12, min(len(frame), 90) - 1)))
        return frame[:at] + bytes((draw(st.sampled_from((0, 1, 0x45, 0x60, 0xFF))),)) + frame[at + 1 :]
    if damage == "padding":
        return frame + bytes(draw(st.integers(1, 46)))
    return frame


def _transport(aim: _Aim, proto: int) -> bytes:
    if proto == frames.TCP:
        return frames.tcp(aim.number("sport"), aim.number("dport"), aim.flags())
    if proto in frames.PORT_HEADERS:
        return frames.PORT_HEADERS[proto](aim.number("sport"), aim.number("dport"))
    if proto in (frames.ICMP, frames.ICMPV6):
        return frames.icmp(*aim.icmp())
    return bytes(8)


def _ip(aim: _Aim, is_v4: bool) -> tuple[int, bytes]:
    proto, fragment, options = aim.proto(), aim.number("fragment"), aim.number("ip_options")
    ttl, dscp = aim.number("ttl"), aim.number("dscp")
    src, dst = aim.address("src", is_v4), aim.address("dst", is_v4)
    payload = _transport(aim, proto)
    if aim.conditions("length"):
        payload += bytes(min(max(aim.number("length") - (20 if is_v4 else 40) - len(payload), 0), 2000))
    if is_v4:
        bits = (0, frames.MORE_FRAGMENTS, 185)[fragment]
        packet = frames.ipv4(
            payload, proto, src=src, dst=dst, ttl=ttl, tos=dscp << 2, fragment=bits, options=bytes(4 * options)
        )
        return frames.IPV4, packet
    kinds = [aim.draw(st.sampled_from(EXTENSIONS)) for _ in range(aim.draw(st.sampled_from((1, 1, 2, 7))) * options)]
    if fragment or aim.draw(st.integers(0, 7)) == 0:
        kinds.append(frames.FRAGMENT)
    payload, following = frames.extended(kinds, payload, proto, fragment=(0, 1, 185 << 3)[fragment])
    return frames.IPV6, frames.ipv6(payload, following, src=src, dst=dst, hop_limit=ttl, traffic_class=dscp << 2)


@st.composite
def policies_with_frames(
    draw: Draw, most_rules: int = 16, frame_count: int = 16
) -> tuple[ir.Policy, list[tuple[bytes, int | None]]]:
    """A policy, and frames with the number of the interface where each comes in."""
    drawn = draw(policies(most_rules))
    interface = st.sampled_from((0, 0, 1, 2, None))
    return drawn, [(draw(frame_at(drawn.rules)), draw(interface)) for _ in range(frame_count)]
