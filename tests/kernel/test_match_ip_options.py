# SPDX-License-Identifier: GPL-2.0-or-later
"""ip_options: IPv4 options, or an IPv6 extension header other than fragment."""

from __future__ import annotations

import pytest

from tests.frames import AH, DESTINATION, FRAGMENT, HOP_BY_HOP, MOBILITY, ROUTING, extended, tcp, v4_frame, v6_frame
from tests.kernel.fields import ARP, LLDP, TCP4, TCP6, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")

OPTIONS = [v4_frame(tcp(), options=bytes((1,) * length)) for length in (4, 20, 40)]
LATER = v4_frame(tcp(), options=bytes(4), fragment=185)
EXTENDED = [v6_frame(*extended([kind], tcp())) for kind in (HOP_BY_HOP, ROUTING, AH, DESTINATION, MOBILITY)]
BEHIND_FRAGMENT = v6_frame(*extended([FRAGMENT, DESTINATION], tcp(), fragment=1))
BEFORE_LATER = v6_frame(*extended([HOP_BY_HOP, FRAGMENT], tcp(), fragment=8))

WITH = [*OPTIONS, LATER, *EXTENDED, BEHIND_FRAGMENT, BEFORE_LATER]
# What stands behind a later fragment's header is payload, though it be called an extension header.
WITHOUT = [TCP4, TCP6, *(v6_frame(*extended([FRAGMENT], tcp(), last, fragment=8)) for last in (6, DESTINATION, AH))]
FRAGMENTS = [v6_frame(*extended([FRAGMENT], tcp(), fragment=fragment)) for fragment in (0, 1)]

CASES = [
    Case("{ip_options: true}", WITH, [*WITHOUT, *FRAGMENTS, ARP, LLDP]),
    Case("{ip_options: false}", [*WITHOUT, *FRAGMENTS], [*WITH, ARP, LLDP]),
    Case("{ip_options: true, family: ipv4}", [*OPTIONS, LATER], [TCP4, *EXTENDED]),
    Case("{ip_options: false, proto: tcp, dport: 22}", [TCP4, TCP6, *FRAGMENTS], [*WITH, ARP]),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
