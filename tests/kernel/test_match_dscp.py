# SPDX-License-Identifier: GPL-2.0-or-later
"""dscp: the upper six bits of the type of service or traffic class; the ECN bits say nothing."""

from __future__ import annotations

import pytest

from tests.frames import tcp, v4_frame, v6_frame
from tests.kernel.fields import ARP, TCP4, TCP6, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")

EF = [v4_frame(tcp(), tos=46 << 2 | ecn) for ecn in range(4)] + [
    v6_frame(tcp(), traffic_class=46 << 2 | ecn, flow_label=label) for ecn in range(4) for label in (0, 0xFFFFF)
]

CASES = [
    Case("{dscp: ef}", EF, [TCP4, f"{TCP4} dscp=45", f"{TCP6} dscp=47", ARP]),
    Case("{dscp: 0}", [TCP4, TCP6, v6_frame(tcp(), traffic_class=3, flow_label=0xFFFFF)], [f"{TCP6} dscp=1", ARP, *EF]),
    Case("{dscp: 63}", [f"{TCP4} dscp=63", f"{TCP6} dscp=63"], [f"{TCP4} dscp=62", TCP6, ARP]),
    Case("{dscp: [af41, cs1]}", [f"{TCP4} dscp=34", f"{TCP6} dscp=8"], [f"{TCP4} dscp=33", f"{TCP6} dscp=9", TCP4]),
    *(
        Case(
            f"{{dscp: {1 << bit}}}",
            [f"{TCP4} dscp={1 << bit}", f"{TCP6} dscp={1 << bit}"],
            [f"{TCP4} dscp={63 - (1 << bit)}"],
        )
        for bit in range(6)
    ),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
