# SPDX-License-Identifier: GPL-2.0-or-later
"""icmp_type and icmp_code: of ICMP in IPv4 and ICMPv6 in IPv6, never the one for the other."""

from __future__ import annotations

import pytest

from tests.frames import ICMP, ICMPV6, icmp, v4_frame, v6_frame
from tests.kernel.fields import ARP, ICMP4, ICMP6, TCP4, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")


def message(type: int, code: int = 0) -> bytes:
    return v4_frame(icmp(type, code), ICMP)


def message6(type: int, code: int = 0) -> bytes:
    return v6_frame(icmp(type, code), ICMPV6)


WRONG_FAMILY = [
    v6_frame(icmp(8), ICMP),
    v4_frame(icmp(8), ICMPV6),
    v6_frame(icmp(128), ICMP),
    v4_frame(icmp(128), ICMPV6),
]
LATER = f"{ICMP4} frag=later payload=0800000000000000"
LATER6 = f"{ICMP6} frag=later payload=8000000000000000"

CASES = [
    Case(
        "{proto: icmp, icmp_type: echo-request}", [ICMP4, message(8, 255)], [message(7), message(9), message6(8), LATER]
    ),
    Case("{proto: icmp, icmp_type: 8}", [message(8)], [message(0, 8), message6(8), TCP4, ARP, *WRONG_FAMILY]),
    Case("{proto: icmpv6, icmp_type: echo-request}", [ICMP6], [message6(129), message(128), *WRONG_FAMILY, LATER6]),
    Case("{proto: icmp, icmp_type: 0}", [message(0, 7)], [message(1), message(255), message6(0), message(8)]),
    Case("{proto: icmp, icmp_type: 255, icmp_code: 255}", [message(255, 255)], [message(255, 254), message(254, 255)]),
    Case(
        "{proto: icmpv6, icmp_type: 255, icmp_code: 255}", [message6(255, 255)], [message6(255, 254), message(255, 255)]
    ),
    Case(
        "{proto: icmpv6, icmp_type: 0, icmp_code: 0}", [message6(0)], [message6(0, 1), message6(1), message(255, 255)]
    ),
    Case("{proto: icmp, icmp_type: 3, icmp_code: 4}", [message(3, 4)], [message(3, 3), message(3, 5), message(4, 4)]),
    Case(
        "{proto: icmp, icmp_type: 3, icmp_code: [1, 3]}", [message(3, 1), message(3, 3)], [message(3, 2), message(3, 0)]
    ),
    Case("{proto: icmp, icmp_type: [0, 3, 11]}", [message(0), message(3, 9), message(11)], [message(8), message(10)]),
    Case(
        "{proto: icmpv6, icmp_type: [133, 134, 135, 136]}",
        [message6(133), message6(136, 1)],
        [message6(132), message6(137)],
    ),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
