# SPDX-License-Identifier: GPL-2.0-or-later
"""ethertype: of the payload behind VLAN tags."""

from __future__ import annotations

import pytest

from tests.frames import IPV4, QINQ, VLAN, ethernet, ipv4, tcp
from tests.kernel.fields import ARP, LLDP, TCP4, TCP6, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")

TAGS = [(QINQ, 1), (VLAN, 2)]

CASES = [
    Case("{ethertype: arp}", [ARP, f"{ARP} vlan=5", f"{ARP} vlan=0 inner_vlan=4095"], [TCP4, TCP6, LLDP]),
    Case("{ethertype: ipv4}", [TCP4, ethernet(IPV4, ipv4(tcp()), tags=TAGS)], [TCP6, ARP]),
    Case("{ethertype: ipv6}", [TCP6, f"{TCP6} vlan=9"], [TCP4, ARP]),
    Case(
        "{ethertype: [lldp, 0x0806]}", [LLDP, ARP], [TCP4, "ethertype 0x88cd", "ethertype 0x88cb", "ethertype 0x0807"]
    ),
    Case("{ethertype: 0xffff}", ["ethertype 0xffff"], ["ethertype 0xfffe", "ethertype 0"]),
    Case("{ethertype: 0}", ["ethertype 0"], ["ethertype 1", "ethertype 0xffff", TCP4]),
    # 0x9100 is no tag here: what follows it is not looked at.
    Case("{ethertype: 0x9100}", [ethernet(0x9100, b"\0\5\x08\0" + ipv4(tcp()))], [TCP4]),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
