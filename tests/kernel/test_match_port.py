# SPDX-License-Identifier: GPL-2.0-or-later
"""sport and dport: number, range, name, set; of the five protocols that have ports, and of no later fragment."""

from __future__ import annotations

import pytest

from tests.frames import (
    DCCP,
    ESP,
    GRE,
    IPV4,
    PORT_HEADERS,
    QINQ,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    VLAN,
    ethernet,
    ipv4,
    tcp,
    udp,
    v4_frame,
    v6_frame,
)
from tests.kernel.fields import ARP, ICMP4, LATER4, LATER6, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")


def to(dport: int, sport: int = 40000, proto: int = TCP) -> bytes:
    return v4_frame(PORT_HEADERS[proto](sport, dport), proto)


def to6(dport: int, sport: int = 40000, proto: int = TCP) -> bytes:
    return v6_frame(PORT_HEADERS[proto](sport, dport), proto)


EVERY = (TCP, UDP, UDPLITE, SCTP, DCCP)
WITHOUT_PORTS = [v4_frame(tcp(), proto) for proto in (GRE, ESP, 4, 0, 255)] + [v6_frame(tcp(), GRE), ICMP4, ARP]
"""What stands where others have ports looks like 40000 > 22."""

CASES = [
    Case("{proto: tcp, dport: 22}", [to(22), to6(22)], [to(21), to(23), to(40000, 22), to(22, proto=UDP), LATER4]),
    Case("{proto: tcp, sport: 40000}", [to(22), to6(22)], [to(40000, 39999), to(22, 40001), LATER4, LATER6]),
    Case(
        "{proto: [tcp, udp, udplite, sctp, dccp], dport: 22}",
        [packet(22, proto=proto) for packet in (to, to6) for proto in EVERY],
        [packet(23, 22, proto) for packet in (to, to6) for proto in EVERY] + WITHOUT_PORTS,
    ),
    Case("{proto: udp, dport: 0}", [to(0, proto=UDP)], [to(1, proto=UDP), to(65535, proto=UDP), to(0), *WITHOUT_PORTS]),
    Case("{proto: udp, dport: 65535}", [to6(65535, proto=UDP)], [to6(65534, proto=UDP), to6(0, proto=UDP)]),
    Case(
        "{proto: tcp, dport: 0-65535}", [to(0), to(65535), to6(7)], [LATER4, LATER6, to(7, proto=UDP), *WITHOUT_PORTS]
    ),
    Case("{proto: tcp, dport: 8000-8099}", [to(8000), to(8050), to6(8099)], [to(7999), to(8100), to(8050 ^ 0x8000)]),
    Case("{proto: tcp, dport: [ssh, 80, 8000-8099]}", [to(22), to(80), to(8001)], [to(79), to(81), to(23), to(7999)]),
    Case("{proto: tcp, dport: https}", [to(443)], [to(444), to(443, proto=UDP)]),
    Case(
        "{proto: tcp, sport: 0-1023, dport: 1024-65535}", [to(1024, 1023), to(65535, 0)], [to(1023, 0), to(1024, 1024)]
    ),
    Case(
        "{proto: [tcp, udp], dport: '@web'}",
        [to(80), to(443, proto=UDP), to6(8080), to(8090)],
        [to(81), to(442), to(8079), to(8091), to(80, proto=SCTP)],
        sets="web: {type: port, elements: [80, 443, 8080-8090]}",
    ),
    Case(
        "{proto: tcp, sport: ['@low', 50000], dport: '@web'}",
        [to(80, 1), to(80, 50000), to6(80, 3)],
        [to(80, 2), to(1, 80), to(80, 50001), to(81, 1)],
        sets="web: {type: port, elements: [80]}, low: {type: port, elements: [1, 3]}",
    ),
    # Ports stand behind whatever precedes them.
    Case(
        "{proto: udp, dport: 53}",
        [
            ethernet(IPV4, ipv4(udp(1, 53), UDP, options=bytes((1,) * 40)), tags=[(QINQ, 1), (VLAN, 2), (VLAN, 3)]),
            v4_frame(udp(1, 53, length=0), UDP),
            v4_frame(udp(1, 53, length=65535), UDP),
        ],
        [ethernet(IPV4, ipv4(udp(53, 1), UDP, options=b"\0\x35\0\x35"), tags=[(VLAN, 53)])],
    ),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
