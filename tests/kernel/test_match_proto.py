# SPDX-License-Identifier: GPL-2.0-or-later
"""proto: the upper-layer protocol, behind IPv6 extension headers and in later fragments too."""

from __future__ import annotations

import pytest

from tests.frames import (
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    ICMPV6,
    NO_NEXT_HEADER,
    ROUTING,
    TCP,
    UDP,
    extended,
    icmp,
    ipv4,
    tcp,
    udp,
    v4_frame,
    v6_frame,
)
from tests.kernel.fields import (
    ARP,
    GRE4,
    ICMP4,
    ICMP6,
    LATER4,
    LATER6,
    LLDP,
    TCP4,
    TCP6,
    UDP4,
    UDP6,
    Case,
    check,
    parametrize,
)

pytestmark = pytest.mark.needs("privileges", "data plane")

EXTENDED_TCP = v6_frame(*extended([HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT, DESTINATION], tcp()))
EXTENDED_UDP = v6_frame(*extended([HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT, DESTINATION], udp(), UDP))
TUNNEL = v4_frame(ipv4(tcp()), 4)
ESP6 = v6_frame(bytes(8), 50)

CASES = [
    Case("{proto: tcp}", [TCP4, TCP6, LATER4, LATER6, EXTENDED_TCP], [UDP4, UDP6, GRE4, TUNNEL, ARP, EXTENDED_UDP]),
    Case("{proto: udp}", [UDP4, UDP6, EXTENDED_UDP], [TCP4, TCP6, "udplite 1.2.3.4:1 > 5.6.7.8:2", LLDP]),
    Case("{proto: icmp}", [ICMP4, v6_frame(icmp(), 1)], [ICMP6, TCP4]),
    Case("{proto: icmpv6}", [ICMP6, v4_frame(icmp(128), ICMPV6)], [ICMP4, TCP6]),
    Case("{proto: sctp}", ["sctp 1.2.3.4:1 > 5.6.7.8:2", "sctp [::1]:1 > [::2]:2"], [TCP4, v4_frame(b"", 131)]),
    Case("{proto: gre}", [GRE4, "gre ::1 > ::2"], [TCP4, v4_frame(b"", 46), v4_frame(b"", 48)]),
    Case("{proto: esp}", ["esp 1.2.3.4 > 5.6.7.8", ESP6], [TCP4, TCP6]),
    # AH is an upper-layer protocol in IPv4 and an extension header in IPv6.
    Case("{proto: ah}", ["ah 1.2.3.4 > 5.6.7.8"], ["ah ::1 > ::2", TCP4]),
    Case("{proto: 4}", [TUNNEL], [TCP4, v4_frame(b"", 5), v4_frame(b"", 3)]),
    Case("{proto: 59}", [v6_frame(b"", NO_NEXT_HEADER), "ah ::1 > ::2"], [TCP6]),
    Case("{proto: 0}", [v4_frame(tcp(), 0)], [TCP4, EXTENDED_TCP, ARP]),
    Case("{proto: 255}", [v4_frame(b"", 255), v6_frame(b"", 255)], [v4_frame(b"", 254), v4_frame(tcp(), 0), ARP]),
    # Where IPv6 has an extension header, IPv4 has a protocol like any other.
    Case("{proto: 60}", [v4_frame(tcp(), DESTINATION)], [v6_frame(*extended([DESTINATION], tcp(), TCP))]),
    Case("{proto: [tcp, udp, 47]}", [TCP4, UDP6, GRE4], [ICMP4, ICMP6, "esp 1.2.3.4 > 5.6.7.8"]),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
