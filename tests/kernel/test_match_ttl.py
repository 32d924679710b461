# SPDX-License-Identifier: GPL-2.0-or-later
"""ttl: TTL or hop limit."""

from __future__ import annotations

import pytest

from tests.kernel.fields import ARP, LATER4, LLDP, TCP4, TCP6, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")

CASES = [
    Case("{ttl: 1}", [f"{TCP4} ttl=1", f"{TCP6} ttl=1"], [f"{TCP4} ttl=0", f"{TCP6} ttl=2", ARP]),
    Case("{ttl: 0}", [f"{TCP4} ttl=0", f"{TCP6} ttl=0"], [f"{TCP4} ttl=1", f"{TCP4} ttl=255", ARP, LLDP]),
    Case("{ttl: 255}", [f"{TCP4} ttl=255", f"{TCP6} ttl=255"], [f"{TCP4} ttl=254", f"{TCP6} ttl=0", ARP]),
    Case("{ttl: 0-9}", [f"{TCP4} ttl=0", f"{LATER4} ttl=9"], [f"{TCP4} ttl=10", TCP6, ARP]),
    Case("{ttl: [64, 128-200]}", [TCP4, TCP6, f"{TCP4} ttl=128"], [f"{TCP4} ttl=127", f"{TCP6} ttl=201"]),
    Case("{ttl: 0-255}", [TCP4, TCP6], [ARP]),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
