# SPDX-License-Identifier: GPL-2.0-or-later
"""fragment: first, later, any, none; of IP packets."""

from __future__ import annotations

import pytest

from tests.frames import FRAGMENT, HOP_BY_HOP, MORE_FRAGMENTS, extended, tcp, v4_frame, v6_frame
from tests.kernel.fields import ARP, LLDP, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")


def piece(fragment: int) -> bytes:
    return v4_frame(tcp(), fragment=fragment)


def piece6(fragment: int) -> bytes:
    return v6_frame(*extended([HOP_BY_HOP, FRAGMENT], tcp(), fragment=fragment))


# Reserved and "don't fragment" bits say nothing; neither do IPv6's reserved bits 1 and 2.
WHOLE = [piece(0), piece(0x4000), piece(0x8000), v6_frame(tcp())]
ATOMIC = [piece6(0), piece6(0b110)]
FIRST = [piece(MORE_FRAGMENTS), piece(0xE000), piece6(1), piece6(0b111)]
LATER = [piece(1), piece(0x1FFF), piece(MORE_FRAGMENTS | 1), piece(0xC001), piece6(8), piece6(9), piece6(0xFFF8)]

CASES = [
    Case("{fragment: first}", FIRST, [*WHOLE, *ATOMIC, *LATER, ARP]),
    Case("{fragment: later}", LATER, [*WHOLE, *ATOMIC, *FIRST, ARP]),
    Case("{fragment: any}", [*FIRST, *LATER], [*WHOLE, *ATOMIC, ARP, LLDP]),
    Case("{fragment: none}", [*WHOLE, *ATOMIC], [*FIRST, *LATER, ARP, LLDP]),
    Case("{fragment: [none, first]}", [*WHOLE, *ATOMIC, *FIRST], [*LATER, ARP]),
    Case("{fragment: any, family: ipv6}", [piece6(1), piece6(8)], [piece(1), *ATOMIC]),
    Case("{proto: tcp, dport: 22, fragment: first}", FIRST, LATER),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
