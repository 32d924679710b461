# SPDX-License-Identifier: GPL-2.0-or-later
"""The built-in allowances, each with what just misses it, before all rules and behind what is invalid."""

from __future__ import annotations

import pytest

from tests.frames import (
    ARP,
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    IPV6,
    QINQ,
    UDP,
    UDPLITE,
    VLAN,
    ethernet,
    extended,
    icmp,
    ipv6,
    udp,
    v4_frame,
    v6_frame,
)
from tests.kernel.agreement import agreement
from tests.policies import written

pytestmark = pytest.mark.needs("privileges", "data plane")

TAGS = [(QINQ, 100), (VLAN, 200)]


def nd(type: int, hop_limit: int = 255) -> bytes:
    return v6_frame(icmp(type), ICMPV6, hop_limit=hop_limit)


def nd_behind(kinds: list[int], fragment: int = 0) -> bytes:
    return v6_frame(*extended(kinds, icmp(135), ICMPV6, fragment=fragment), hop_limit=255)


ALLOWED = {
    "arp": [ethernet(ARP, bytes(28)), ethernet(ARP), ethernet(ARP, bytes(28), tags=TAGS)],
    "ndp": [
        *(nd(type) for type in range(133, 138)),
        ethernet(IPV6, ipv6(icmp(135), ICMPV6, hop_limit=255), tags=TAGS),
        nd_behind([HOP_BY_HOP, DESTINATION]),
        nd_behind([FRAGMENT]),  # atomic: a whole datagram
    ],
    "dhcp": [
        v4_frame(udp(67, 68), UDP),
        v6_frame(udp(547, 546), UDP),
        v4_frame(udp(67, 68), UDP, options=bytes(4)),
        v4_frame(udp(67, 68), UDP, fragment=0x2000),
    ],
    "icmp_errors": [
        *(v4_frame(icmp(type, code), ICMP) for type in (3, 11, 12) for code in (0, 4, 255)),
        *(v6_frame(icmp(type, code), ICMPV6) for type in (1, 2, 3, 4) for code in (0, 255)),
        v6_frame(*extended([HOP_BY_HOP], icmp(2), ICMPV6)),
    ],
}

NEVER = [
    *(ethernet(ethertype, bytes(28)) for ethertype in (0x0805, 0x0807, 0x8035, 0x0608)),
    nd(132),
    nd(138),
    nd(135, 254),
    nd(135, 0),
    nd_behind([FRAGMENT], fragment=1),
    nd_behind([FRAGMENT], fragment=8),
    v4_frame(icmp(135), ICMP, ttl=255),
    v4_frame(icmp(135), ICMPV6, ttl=255),
    v6_frame(icmp(135), ICMP, hop_limit=255),
    v4_frame(udp(68, 67), UDP),
    v4_frame(udp(67, 69), UDP),
    v4_frame(udp(66, 68), UDP),
    v4_frame(udp(547, 546), UDP),
    v6_frame(udp(67, 68), UDP),
    v6_frame(udp(546, 547), UDP),
    v4_frame(udp(67, 68), UDPLITE),
    v4_frame(udp(67, 68), UDP, fragment=1),
    v6_frame(*extended([FRAGMENT], udp(547, 546), UDP, fragment=8)),
    *(v4_frame(icmp(type), ICMP) for type in (0, 1, 2, 4, 5, 8, 10, 13, 255)),
    *(v6_frame(icmp(type), ICMPV6) for type in (0, 5, 128, 129, 255)),
    v6_frame(icmp(3), ICMP),
    v4_frame(icmp(1), ICMPV6),
    v4_frame(icmp(3), ICMP, fragment=1),
    v6_frame(*extended([FRAGMENT], icmp(1), ICMPV6, fragment=8)),
]


@pytest.mark.parametrize("name", ALLOWED)
def test_allowance(name: str) -> None:
    """It lets its own packets through, and none of those of the others."""
    with agreement(written("{name: it, action: drop}", default="drop", allow=name)) as both:
        for allowance, frames in ALLOWED.items():
            for frame in frames:
                wanted = ("pass", f"allow.{name}") if allowance == name else ("drop", "rule")
                decision = both.run(frame)
                assert (decision.verdict, decision.reason) == wanted
        for frame in NEVER:
            assert both.run(frame).reason == "rule"


def test_all_together() -> None:
    with agreement(written(default="drop", allow=" ".join(ALLOWED))) as both:
        for name, frames in ALLOWED.items():
            for frame in frames:
                assert both.run(frame).reason == f"allow.{name}"
        for frame in NEVER:
            assert both.run(frame).reason == "default"


def test_what_is_invalid_is_not_allowed() -> None:
    cut = [
        v6_frame(icmp(135)[:7], ICMPV6, hop_limit=255),
        v4_frame(udp(67, 68)[:7], UDP),
        v4_frame(icmp(3)[:4], ICMP),
        ethernet(ARP, bytes(28), tags=[(VLAN, 1)] * 5),
    ]
    with agreement(written(default="drop", allow=" ".join(ALLOWED))) as both:
        assert [both.run(frame).kind for frame in cut] == ["invalid"] * len(cut)
