# SPDX-License-Identifier: GPL-2.0-or-later
"""src_mac and dst_mac: an address, or an address under a mask."""

from __future__ import annotations

import pytest

from tests.frames import ARP as ETHERTYPE_ARP
from tests.frames import IPV6, VLAN, ethernet, ipv6, tcp
from tests.kernel.fields import TCP4, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")


def between(src: int, dst: int = 0x020000000002) -> bytes:
    return ethernet(ETHERTYPE_ARP, bytes(28), src_mac=src, dst_mac=dst)


MAC = 0x0A1B2C3D4E5F
ONE_BIT_OFF = [between(MAC ^ 1 << bit) for bit in range(48)]
TAGGED6 = ethernet(IPV6, ipv6(tcp()), src_mac=MAC, tags=[(VLAN, 1)])
LAST_BYTE, FIRST_BITS = "'00:00:00:00:00:5f/00:00:00:00:00:ff'", "'0a:00:00:00:00:00/fe:00:00:00:00:00'"

CASES = [
    Case("{src_mac: '0a:1b:2c:3d:4e:5f'}", [between(MAC), TAGGED6], [*ONE_BIT_OFF, between(0x020000000002, MAC)]),
    Case("{dst_mac: '0a:1b:2c:3d:4e:5f'}", [between(1, MAC)], [between(1, MAC ^ 1 << bit) for bit in range(48)]),
    Case("{src_mac: '00:00:00:00:00:00'}", [between(0)], [between(1), between(1 << 47)]),
    Case("{dst_mac: 'ff:ff:ff:ff:ff:ff'}", [between(1, (1 << 48) - 1)], [between(1, (1 << 48) - 2), between(1, 1)]),
    Case(
        "{src_mac: '0a:1b:2c:00:00:00/ff:ff:ff:00:00:00'}",
        [between(MAC), between(0x0A1B2C000000), between(0x0A1B2CFFFFFF)],
        [between(0x0A1B2BFFFFFF), between(0x0A1B2D000000), between(MAC ^ 1 << 47)],
    ),
    Case(
        "{dst_mac: '01:00:00:00:00:00/01:00:00:00:00:00'}",
        [between(1, 0x01005E000001), between(1, 0x3333_0000_0001), between(1, (1 << 48) - 1)],
        [between(0x0100_0000_0000, 0x0200_0000_0001), TCP4],
    ),
    Case(
        f"{{src_mac: ['02:00:00:00:00:01', {LAST_BYTE}, {FIRST_BITS}]}}",
        [between(0x020000000001), between(0x5F), between(0x0B0000000000), between(MAC)],
        [between(0x020000000002), between(0x15E), between(0x080000000000), between(0x5F00)],
    ),
    # The mask goes across all three words in which an address is looked up.
    Case(
        "{src_mac: '00:01:00:01:00:01/00:01:00:01:00:01'}",
        [between(0x000100010001), between((1 << 48) - 1)],
        [between(0x000000010001), between(0x000100000001), between(0x000100010000)],
    ),
    Case(
        "{src_mac: '0a:1b:2c:3d:4e:5f', dst_mac: '02:00:00:00:00:02'}",
        [between(MAC)],
        [between(MAC, 3), between(MAC - 1), between(0x020000000002, MAC)],
    ),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
