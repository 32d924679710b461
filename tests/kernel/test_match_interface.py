# SPDX-License-Identifier: GPL-2.0-or-later
"""interface: one of those that the policy names."""

from __future__ import annotations

import pytest

from tests.kernel.fields import ARP, TCP4, TCP6, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")

CASES = [
    Case("{interface: a}", [(TCP4, 0), (TCP6, 0), (ARP, 0)], [(TCP4, 1), (TCP4, 2), (ARP, None)]),
    Case("{interface: b}", [(TCP4, 1)], [(TCP4, 0), (TCP4, 2), (TCP4, None)]),
    Case("{interface: [a, c]}", [(TCP4, 0), (TCP6, 2)], [(TCP4, 1), (TCP4, None)]),
    Case("{interface: [a, b, c]}", [(TCP4, 0), (TCP4, 1), (TCP4, 2)], [(TCP4, None)]),
    Case("{interface: c, proto: tcp, dport: 22}", [(TCP4, 2)], [(TCP4, 1), (ARP, 2)]),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
