# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies that stretch one part of the tables each, and frames at the corners of their rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

from tests import frames
from tests.policies import one, policy, prefix, rule, v4, v6
from xdpfw.compiler import ir
from xdpfw.compiler.ir import ActionKind, AddressRanges, MacMask, Match, Range, Ranges
from xdpfw.compiler.ranges import merge

HOST: Final = v4(prefix(frames.DST_V4, 32))
KINDS: Final = (ActionKind.DROP, ActionKind.PASS)


def numbered(matches: Iterable[Match]) -> ir.Policy:
    return policy(*(rule(i, match, KINDS[i % 2]) for i, match in enumerate(matches)))


def prefix_sets() -> ir.Policy:
    """Two sets of 100,000 prefixes, IPv4 and IPv6 mixed; a host of the first is let through."""
    source = random.Random(1)

    def drawn() -> AddressRanges:
        return AddressRanges(
            merge(prefix(source.getrandbits(32), source.randrange(12, 33)) for _ in range(70_000)),
            merge(prefix(0x2 << 124 | source.getrandbits(124), source.randrange(20, 129), 128) for _ in range(30_000)),
        )

    first, second = drawn(), drawn()
    friend = v4(Range(first.v4[5000].low, first.v4[5000].low))
    return numbered([Match(src=friend), Match(src=first, proto=one(6)), Match(dst=second), Match(src=first, dst=first)])


def port_sets() -> ir.Policy:
    """Every other port, every third, and all that are left of the low ones."""
    every_other = tuple(Range(i, i) for i in range(1, 65536, 2))
    every_third = tuple(Range(i, i) for i in range(0, 65536, 3))
    return numbered(
        [
            Match(proto=one(6), dport=every_other, sport=every_third),
            Match(proto=one(17), dport=every_third),
            Match(proto=one(6, 17), dport=one(0, 1023), sport=every_other),
        ]
    )


def ports_of_a_host() -> ir.Policy:
    """500 of them, and some for its whole network."""
    matches = [Match(dst=HOST, proto=one(6 if i % 3 else 17), dport=one(i * 7)) for i in range(500)]
    network = v4(prefix(frames.DST_V4, 16))
    return numbered(
        [*matches, *(Match(dst=network, proto=one(6), dport=one(i * 21)) for i in range(100)), Match(dst=HOST)]
    )


def hosts_of_networks() -> ir.Policy:
    """Networks with 17 to 50 wide sources each, and hosts in them: what is left of a host's row is its network's."""
    matches = []
    for i in range(12):
        network = 10 << 24 | i << 16
        for j in range(17 + 3 * i):
            wide = v4(Range(j << 26, (j << 26) + (3 << 24) - 1))
            matches.append(Match(src=wide, dst=v4(prefix(network, 16)), proto=one(6)))
        hosts = (v4(prefix(network + host, 32)) for host in (0x7FFF, 0xFFFF))
        matches += [Match(dst=host, proto=one(17), dport=one(53)) for host in hosts]
    return numbered(matches)


def ports_of_all_hosts() -> ir.Policy:
    """2,000 port rules without an address."""
    return numbered(Match(proto=one(6 if i % 2 else 17), dport=one(i * 31 % 65536)) for i in range(2000))


def nested() -> ir.Policy:
    """/32 to /0 of sources, then /0 to /32 of destinations behind a port each; so for IPv6."""
    sources = [Match(src=v4(prefix(frames.SRC_V4, length)), proto=one(17)) for length in range(32, 1, -1)]
    sources6 = [Match(src=v6(prefix(frames.SRC_V6, length, 128)), proto=one(17)) for length in range(128, 1, -1)]
    ends = [Match(dst=v4(prefix(frames.DST_V4, n)), proto=one(6), dport=one(n, n + 5)) for n in range(33)]
    ends6 = [Match(dst=v6(prefix(frames.DST_V6, n, 128)), proto=one(6), dport=one(n, n + 5)) for n in range(129)]
    return numbered([*sources, *sources6, *ends, *ends6])


def crossing() -> ir.Policy:
    """The longer the source's prefix, the shorter the destination's."""
    return numbered(
        Match(src=v4(prefix(0x0A000000 + (i << 8), n)), dst=v4(prefix(0x0B000000 + (i << 4), 32 - n)))
        for i in range(16)
        for n in range(33)
    )


def port_ranges() -> ir.Policy:
    """Hundreds of ranges that overlap, on both ports."""
    source = random.Random(2)

    def drawn() -> Ranges:
        low = source.randrange(60_000)
        return one(low, low + source.randrange(5000))

    return numbered(Match(proto=one(6), sport=drawn(), dport=drawn()) for _ in range(300))


def mac_addresses() -> ir.Policy:
    """A thousand stations, a few vendors, and pairs."""
    source = random.Random(3)
    macs = [MacMask(source.getrandbits(48), (1 << 48) - 1) for _ in range(1000)]
    vendors = [MacMask(mac.value & 0xFFFFFF000000, 0xFFFFFF000000) for mac in macs[::50]]
    return numbered(
        [
            *(Match(src_mac=(mac,)) for mac in macs[:500]),
            *(Match(src_mac=(mac,), dst_mac=tuple(macs[:3])) for mac in macs[500:]),
            *(Match(dst_mac=(mac,)) for mac in vendors),
        ]
    )


def many_fields() -> ir.Policy:
    """400 rules with conditions on any four fields."""
    source = random.Random(4)

    def drawn(highest: int) -> Ranges:
        low = source.randrange(highest)
        return one(low, min(highest, low + source.randrange(highest // 4)))

    def match(i: int) -> Match:
        fields = {
            "proto": one(source.choice((6, 17))),
            "dport": drawn(65535),
            "ttl": drawn(255),
            "length": drawn(1500),
            "dscp": drawn(63),
            "vlan": drawn(4095),
            "src": v4(prefix(source.getrandbits(32), source.randrange(4, 33))),
            "dst": v4(prefix(source.getrandbits(32), source.randrange(4, 33))),
        }
        return Match(**{name: fields[name] for name in source.sample(sorted(fields), 4)})

    return numbered(match(i) for i in range(400))


LARGE: Final[dict[str, Callable[[], ir.Policy]]] = {
    each.__name__: each
    for each in (
        prefix_sets,
        port_sets,
        ports_of_a_host,
        hosts_of_networks,
        ports_of_all_hosts,
        nested,
        crossing,
        port_ranges,
        mac_addresses,
        many_fields,
    )
}


def frames_at(rules: ir.Policy, count: int, seed: int = 1) -> list[bytes]:
    """At the corners of rules drawn by a fixed seed: within their conditions, and one beyond."""
    source = random.Random(seed)

    def number(spans: Ranges | None, usual: int, highest: int) -> int:
        if not spans:
            return usual
        low, high = source.choice(spans)
        return min(max(source.choice((low, high, (low + high) // 2, low - 1, high + 1)), 0), highest)

    def mac(among: tuple[MacMask, ...] | None, usual: int) -> int:
        if not among:
            return usual
        value, mask = source.choice(among)
        return value ^ source.choice((0, 0, 1, 1 << 47, ~mask & (1 << 48) - 1))

    found = []
    for chosen in source.choices(rules.rules, k=count):
        match = chosen.match
        is_v6 = any(
            each is not None and each.v6 and (not each.v4 or source.random() < 0.5) for each in (match.src, match.dst)
        )
        highest = (1 << (128 if is_v6 else 32)) - 1
        src, dst = (
            number(None if each is None else each.v6 if is_v6 else each.v4, usual, highest)
            for each, usual in (
                (match.src, frames.SRC_V6 if is_v6 else frames.SRC_V4),
                (match.dst, frames.DST_V6 if is_v6 else frames.DST_V4),
            )
        )
        proto = source.choice((6, 17)) if match.proto is None else match.proto[0].low
        payload = frames.PORT_HEADERS[proto](number(match.sport, 40000, 65535), number(match.dport, 22, 65535))
        payload += bytes(max(0, number(match.length, 0, 1500) - 40 - len(payload)))
        ttl, tos = number(match.ttl, 64, 255), number(match.dscp, 0, 63) << 2
        if is_v6:
            packet = frames.ipv6(payload, proto, src=src, dst=dst, hop_limit=ttl, traffic_class=tos)
        else:
            packet = frames.ipv4(payload, proto, src=src, dst=dst, ttl=ttl, tos=tos)
        tags = [] if match.vlan is None else [(frames.VLAN, number(match.vlan, 1, 4095))]
        macs = {"src_mac": mac(match.src_mac, frames.SRC_MAC), "dst_mac": mac(match.dst_mac, frames.DST_MAC)}
        found.append(frames.ethernet(frames.IPV6 if is_v6 else frames.IPV4, packet, tags=tags, **macs))
    return found
