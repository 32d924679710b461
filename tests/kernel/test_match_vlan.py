# SPDX-License-Identifier: GPL-2.0-or-later
"""vlan and inner_vlan: ids of the first and the second tag, of either TPID."""

from __future__ import annotations

import itertools

import pytest

from tests.frames import ARP as ETHERTYPE_ARP
from tests.frames import IPV4, IPV6, QINQ, VLAN, ethernet, ipv4, ipv6, tcp
from tests.kernel.fields import ARP, TCP4, TCP6, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")


def tagged(*ids: int, tpids: tuple[int, ...] = (VLAN,) * 4, bits: int = 0) -> bytes:
    """``bits``: priority and DEI of every tag."""
    tags = [(tpid, bits << 12 | each) for tpid, each in zip(tpids, ids, strict=False)]
    return ethernet(IPV4, ipv4(tcp()), tags=tags)


TAGGED6 = ethernet(IPV6, ipv6(tcp()), tags=[(QINQ, 100)])
TAGGED_ARP = ethernet(ETHERTYPE_ARP, bytes(28), tags=[(VLAN, 100)])
EITHER = [tagged(100, 200, tpids=tpids) for tpids in itertools.product((VLAN, QINQ), repeat=2)]

CASES = [
    Case("{vlan: 100}", [tagged(100), TAGGED6, TAGGED_ARP, *EITHER], [TCP4, tagged(99), tagged(101), tagged(7, 100)]),
    Case("{vlan: 100}", [tagged(100, bits=bits) for bits in range(16)], [tagged(100 ^ 0x800), tagged(0, bits=15)]),
    Case("{vlan: 0}", [tagged(0), tagged(0, bits=15), tagged(0, 5)], [TCP4, tagged(1), tagged(4095)]),
    Case("{vlan: 4095}", [tagged(4095)], [TCP4, tagged(4094), tagged(0)]),
    Case("{vlan: 100-199}", [tagged(100), tagged(150), tagged(199)], [tagged(99), tagged(200), TCP4]),
    Case("{vlan: none}", [TCP4, TCP6, ARP], [tagged(0), tagged(4095), TAGGED6]),
    Case("{vlan: any}", [tagged(0), tagged(4095), TAGGED6, TAGGED_ARP], [TCP4, TCP6, ARP]),
    Case("{vlan: [none, 0, 7]}", [TCP4, tagged(0), tagged(7)], [tagged(1), tagged(4095), tagged(6), tagged(8)]),
    Case("{inner_vlan: 200}", EITHER, [tagged(200), tagged(100, 199), tagged(100, 201), tagged(100, 1, 200), TCP4]),
    Case("{inner_vlan: none}", [TCP4, tagged(5), TAGGED6, ARP], [tagged(5, 0), tagged(1, 2, 3, 4)]),
    Case("{inner_vlan: any}", [tagged(5, 0), tagged(5, 4095), tagged(1, 2, 3, 4)], [TCP4, tagged(5)]),
    Case("{vlan: 1, inner_vlan: 2}", [tagged(1, 2), tagged(1, 2, 3)], [tagged(2, 1), tagged(1), tagged(1, 3)]),
    Case("{vlan: 1, inner_vlan: none}", [tagged(1)], [tagged(1, 2), TCP4]),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
