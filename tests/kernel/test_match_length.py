# SPDX-License-Identifier: GPL-2.0-or-later
"""length: of the IP packet in bytes (IPv6: payload length + 40), never of the frame."""

from __future__ import annotations

import pytest

from tests.frames import tcp, v4_frame, v6_frame
from tests.kernel.fields import ARP, TCP4, TCP6, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")

PADDED = v4_frame(tcp(), total_length=40) + bytes(6)
PADDED6 = v6_frame(tcp(), payload_length=20) + bytes(100)

CASES = [
    Case("{length: 40}", [TCP4, PADDED, f"{TCP4} vlan=5"], [f"{TCP4} length=41", TCP6, ARP]),
    Case("{length: 60}", [TCP6, PADDED6, f"{TCP4} length=60"], [f"{TCP6} length=61", TCP4, ARP]),
    Case(
        "{length: 100-200}", [f"{TCP4} length=100", f"{TCP6} length=200"], [f"{TCP4} length=99", f"{TCP6} length=201"]
    ),
    Case(
        "{length: 1500}", [f"{TCP4} length=1500", f"{TCP6} length=1500"], [f"{TCP4} length=1499", f"{TCP6} length=1501"]
    ),
    Case("{length: 9000-65575}", [f"{TCP4} length=9000", f"{TCP6} length=9001"], [f"{TCP4} length=8999", TCP4]),
    Case("{length: [40, 60]}", [TCP4, TCP6], [f"{TCP4} length=50"]),
    Case("{length: 20}", [v4_frame(b"", 0)], [TCP4, v4_frame(b"x", 0), v6_frame(b"", 59)]),
    Case("{length: 65535}", [f"{TCP4} length=65535"], [f"{TCP4} length=65534"]),
    Case("{length: 0-65575}", [TCP4, TCP6, v4_frame(b"", 0)], [ARP]),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
