# SPDX-License-Identifier: GPL-2.0-or-later
"""family: ipv4, ipv6, other."""

from __future__ import annotations

import pytest

from tests.frames import IPV4, IPV6, VLAN, ethernet, ipv4, ipv6, tcp
from tests.kernel.fields import ARP, ICMP6, LATER4, LATER6, LLDP, TCP4, TCP6, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")

TAGGED4 = ethernet(IPV4, ipv4(tcp()), tags=[(VLAN, 5)])
TAGGED6 = ethernet(IPV6, ipv6(tcp()), tags=[(VLAN, 5)])
LENGTH = ethernet(60, bytes(60))
"""IEEE 802.3: what stands in the place of the ethertype is a length."""

CASES = [
    Case("{family: ipv4}", [TCP4, LATER4, TAGGED4, "gre 1.2.3.4 > 5.6.7.8"], [TCP6, ICMP6, ARP, LLDP, TAGGED6]),
    Case("{family: ipv6}", [TCP6, ICMP6, LATER6, TAGGED6], [TCP4, ARP, LLDP, TAGGED4]),
    Case("{family: other}", [ARP, LLDP, LENGTH, ethernet(0xFFFF), ethernet(0)], [TCP4, TCP6, TAGGED4, TAGGED6]),
    Case("{family: [ipv4, other]}", [TCP4, ARP], [TCP6]),
    Case("{family: [ipv4, ipv6, other]}", [TCP4, TCP6, ARP], []),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
