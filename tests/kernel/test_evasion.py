# SPDX-License-Identifier: GPL-2.0-or-later
"""Dressing a packet up to slip past a rule: tags, options, extension headers, fragments, lies about lengths."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.frames import (
    AH,
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    IPV4,
    IPV6,
    MOBILITY,
    MORE_FRAGMENTS,
    QINQ,
    ROUTING,
    TCP,
    UDP,
    VLAN,
    ethernet,
    extended,
    extension,
    ipv4,
    ipv6,
    tcp,
    udp,
    v4_frame,
    v6_frame,
)
from tests.kernel.agreement import agreement
from tests.policies import written
from xdpfw.compiler import ir

pytestmark = pytest.mark.needs("privileges", "data plane")

KINDS = (HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION, MOBILITY)
MORE = 1
"""IPv6's more-fragments bit, in a first fragment's header."""


def blocking() -> ir.Policy:
    """Passes all but SSH: what slips past is passed."""
    return written("{name: ssh, match: {proto: tcp, dport: 22}, action: drop}")


def admitting() -> ir.Policy:
    """Passes SSH alone: what only looks like it must not be passed."""
    return written("{name: ssh, match: {proto: tcp, dport: 22}, action: pass}", default="drop")


def test_tags_hide_nothing() -> None:
    with agreement(blocking()) as both:
        for number in range(6):
            for tpids in itertools.product((VLAN, QINQ), repeat=number):
                for tci in (0, 5, 0xE000, 0xFFFF):  # 0xe000: a priority tag, of VLAN 0
                    tags = [(tpid, tci) for tpid in tpids]
                    for frame in (ethernet(IPV4, ipv4(tcp()), tags=tags), ethernet(IPV6, ipv6(tcp()), tags=tags)):
                        reason = "invalid.vlan_tags" if number == 5 else "rule"
                        decision = both.run(frame)
                        assert (decision.reason, decision.verdict) == (reason, "drop")


@pytest.mark.parametrize("length", range(0, 41, 4))
def test_ipv4_options_hide_nothing(length: int) -> None:
    """Options that look like a TCP header to another port, or of any kind."""
    with agreement(blocking()) as both:
        for options in (bytes((1,) * length), bytes(length), (tcp(dport=80) * 2)[:length], bytes((0xFF,) * length)):
            assert both.run(v4_frame(tcp(), options=options)).rule == "ssh"
            assert both.run(v4_frame(tcp(dport=80), options=(tcp() * 2)[:length])).reason == "default"


def chains() -> Iterator[tuple[int, ...]]:
    """Extension headers: all sequences up to four, and all orders of the six, up to eight in all."""
    for number in range(5):
        yield from itertools.product(KINDS, repeat=number)
    for order in itertools.permutations(KINDS):
        yield order
        yield (*order, *order[:2])


def test_extension_headers_hide_nothing() -> None:
    with agreement(blocking()) as both:
        for kinds in chains():
            assert both.run(v6_frame(*extended(kinds, tcp()))).rule == "ssh", kinds


def test_a_ninth_extension_header_is_invalid() -> None:
    with agreement(blocking()) as both:
        for order in itertools.permutations(KINDS):
            assert both.run(v6_frame(*extended((*order, *order[:3]), tcp()))).reason == "invalid.extension_headers"


@pytest.mark.parametrize("kind", [HOP_BY_HOP, ROUTING, AH, DESTINATION, MOBILITY])
@pytest.mark.parametrize("length", [0, 1, 2, 100, 255])
def test_long_extension_headers_hide_nothing(kind: int, length: int) -> None:
    with agreement(blocking()) as both:
        assert both.run(v6_frame(extension(kind, TCP, length=length) + tcp(), kind)).rule == "ssh"
        assert both.run(v6_frame(extension(kind, UDP, length=length) + udp() + tcp(), kind)).reason == "default"


FIRST = [
    (v4_frame(tcp(), fragment=MORE_FRAGMENTS), "v4"),
    (v6_frame(*extended([FRAGMENT], tcp(), fragment=MORE)), "v6"),
    (v6_frame(*extended([DESTINATION, FRAGMENT, DESTINATION], tcp(), fragment=MORE)), "v6 between others"),
]
LATER = [
    (v4_frame(tcp(), fragment=1), "v4 right behind the ports"),
    (v4_frame(tcp(), fragment=1 | MORE_FRAGMENTS), "v4 overlapping"),
    (v4_frame(tcp(), fragment=0x1FFF), "v4 last"),
    (v6_frame(*extended([FRAGMENT], tcp(), fragment=8)), "v6"),
    (v6_frame(*extended([FRAGMENT], tcp(), fragment=8 | MORE)), "v6 overlapping"),
    (v6_frame(*extended([FRAGMENT], tcp(), fragment=0xFFF8)), "v6 last"),
    (v6_frame(*extended([HOP_BY_HOP, FRAGMENT], tcp(), fragment=8)), "v6 behind another"),
]
TINY = [v4_frame(tcp()[:length], fragment=MORE_FRAGMENTS) for length in range(20)] + [
    v6_frame(*extended([FRAGMENT], tcp()[:length], fragment=MORE)) for length in range(20)
]


def test_a_first_fragment_meets_rules_on_ports() -> None:
    with agreement(blocking()) as both:
        for frame, what in FIRST:
            assert both.run(frame).rule == "ssh", what


def test_a_later_fragment_has_no_ports() -> None:
    """Whatever its bytes look like, it does not pass as SSH."""
    with agreement(admitting()) as both:
        for frame, what in LATER:
            decision = both.run(frame)
            assert (decision.reason, decision.verdict) == ("default", "drop"), what


def test_fragments_can_be_dropped_whole() -> None:
    rules = [
        "{name: later, match: {fragment: later}, action: drop}",
        "{name: first, match: {fragment: first}, action: tx}",
    ]
    with agreement(written(*rules)) as both:
        assert {both.run(frame).rule for frame, _ in LATER} == {"later"}
        assert {both.run(frame).rule for frame, _ in FIRST} == {"first"}


def test_a_tiny_first_fragment_is_invalid() -> None:
    """RFC 1858: else the flags, or the ports, would stand in the second one."""
    with agreement(blocking()) as both:
        assert {both.run(frame).reason for frame in TINY} == {"invalid.first_fragment"}


def nested(*fragments: int) -> bytes:
    """IPv6 fragment headers one behind the other."""
    payload, following = tcp(), TCP
    for fragment in reversed(fragments):
        payload, following = extension(FRAGMENT, following, fragment=fragment) + payload, FRAGMENT
    return v6_frame(payload, following)


@pytest.mark.parametrize(
    ("fragments", "rule"),
    [
        ((0,), "whole"),
        ((0, 0), "whole"),
        ((MORE,), "first"),
        ((MORE, 0), "first"),
        ((0, MORE), "first"),
        ((MORE, MORE), "first"),
        ((8,), "later"),
        ((MORE, 8), "later"),
        ((0, 8 | MORE), "later"),
        ((8, 0), "unknown"),
        ((8, MORE), "unknown"),
    ],
)
def test_nested_fragment_headers(fragments: tuple[int, ...], rule: str) -> None:
    """An atomic fragment takes nothing back. Behind a later fragment's header nothing is looked at."""
    rules = [
        "{name: whole, match: {proto: tcp, dport: 22, fragment: none}, action: drop}",
        "{name: first, match: {proto: tcp, dport: 22, fragment: first}, action: drop}",
        "{name: later, match: {proto: tcp, fragment: later}, action: drop}",
        "{name: unknown, match: {proto: 44, fragment: later}, action: drop}",
    ]
    with agreement(written(*rules)) as both:
        assert both.run(nested(*fragments)).rule == rule


LIES = {
    "IPv4 padding looks like TCP": (ethernet(IPV4, ipv4(b"", TCP) + tcp()), "invalid.l4_header"),
    "IPv4 datagram ends within TCP": (v4_frame(tcp(), total_length=39), "invalid.l4_header"),
    "IPv4 length 0, as segmentation offload has it": (v4_frame(tcp(), total_length=0), "invalid.ipv4_ihl"),
    "IPv4 longer than the frame": (v4_frame(tcp(), total_length=41), "invalid.ipv4_length"),
    "IPv4 header covers TCP": (v4_frame(tcp(), header_words=10), "invalid.l4_header"),
    "IPv4 header shorter than it can be": (v4_frame(tcp(), header_words=4), "invalid.ipv4_ihl"),
    "IPv6 payload 0, as a jumbogram has it": (v6_frame(tcp(), payload_length=0), "invalid.l4_header"),
    "IPv6 padding looks like TCP": (ethernet(IPV6, ipv6(b"", TCP) + tcp()), "invalid.l4_header"),
    "IPv6 longer than the frame": (v6_frame(tcp(), payload_length=21), "invalid.ipv6_length"),
    "extension header swallows TCP": (
        v6_frame(bytes((TCP, 2)) + bytes(6) + tcp()[:12], DESTINATION),
        "invalid.extension",
    ),
    "extension header ends in the padding": (
        v6_frame(bytes((TCP, 3)) + bytes(6) + tcp(), DESTINATION) + bytes(80),
        "invalid.extension",
    ),
    "TCP offset beyond the datagram": (v4_frame(tcp(header_words=6)) + bytes(40), "invalid.l4_header"),
    "TCP offset below its header": (v4_frame(tcp(header_words=4) + bytes(40)), "invalid.tcp_offset"),
    "version of the other family": (ethernet(IPV6, ipv4(tcp()) + bytes(40)), "invalid.ipv6_version"),
    "802.3 length in front of IP": (ethernet(40, ipv4(tcp())), "default"),
    "LLC/SNAP in front of IP": (ethernet(48, bytes.fromhex("aaaa030000000800") + ipv4(tcp())), "default"),
    "unknown tag in front of IP": (ethernet(0x9100, b"\0\5\x08\0" + ipv4(tcp())), "default"),
    "IP in IP": (v4_frame(ipv4(tcp()), 4), "default"),
    "IPv6 in IPv4": (v4_frame(ipv6(tcp()), 41), "default"),
    "unknown IPv6 next header in front": (v6_frame(bytes((TCP, 0)) + bytes(6) + tcp(), 253), "default"),
    "TCP inside UDP": (v4_frame(udp() + tcp(), UDP), "default"),
}


@pytest.mark.parametrize("what", LIES)
def test_lies_do_not_pass(what: str) -> None:
    frame, reason = LIES[what]
    with agreement(admitting()) as both:
        decision = both.run(frame)
        assert (decision.reason, decision.verdict) == (reason, "drop")


@pytest.mark.parametrize("what", [what for what in LIES if LIES[what][1] != "default"])
def test_lies_that_are_invalid_are_dropped_by_default(what: str) -> None:
    with agreement(blocking()) as both:
        assert both.run(LIES[what][0]).verdict == "drop"


PADDING = [b"", bytes(6), bytes((0xFF,) * 46), tcp(), udp(1, 2), bytes(1000)]


def test_padding_changes_nothing() -> None:
    with agreement(blocking()) as both:
        for padding in PADDING:
            assert both.run(v4_frame(tcp()) + padding).rule == "ssh"
            assert both.run(v6_frame(tcp()) + padding).rule == "ssh"
            assert both.run(v4_frame(udp(), UDP) + padding).reason == "default"
