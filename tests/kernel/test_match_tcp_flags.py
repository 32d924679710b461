# SPDX-License-Identifier: GPL-2.0-or-later
"""tcp_flags: flags that must be set and flags that must be clear, of TCP alone."""

from __future__ import annotations

import pytest

from tests.frames import UDP, tcp, udp, v4_frame, v6_frame
from tests.kernel.fields import ARP, LATER4, LATER6, Case, check, parametrize

pytestmark = pytest.mark.needs("privileges", "data plane")

FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
SYN, ACK = 0x02, 0x10


def flagged(flags: int) -> bytes:
    return v4_frame(tcp(flags=flags))


def flagged6(flags: int) -> bytes:
    return v6_frame(tcp(flags=flags))


NOT_TCP = [v4_frame(udp() + tcp(flags=0xFF), UDP), LATER4, LATER6, ARP]

CASES = [
    *(
        Case(
            f"{{tcp_flags: {name}}}",
            [flagged(1 << bit), flagged6(0xFF), flagged(1 << bit | ACK)],
            [flagged(0), flagged(0xFF ^ 1 << bit), *NOT_TCP],
        )
        for bit, name in enumerate(FLAGS)
    ),
    *(
        Case(f"{{tcp_flags: '!{name}'}}", [flagged(0), flagged6(0xFF ^ 1 << bit)], [flagged(1 << bit), flagged(0xFF)])
        for bit, name in enumerate(FLAGS)
    ),
    Case(
        "{tcp_flags: 'syn,!ack'}", [flagged(SYN), flagged6(0xFF ^ ACK)], [flagged(SYN | ACK), flagged(ACK), flagged(0)]
    ),
    Case("{tcp_flags: none}", [flagged(0), flagged6(0)], [*(flagged(1 << bit) for bit in range(8)), *NOT_TCP]),
    Case("{tcp_flags: all}", [flagged(0xFF), flagged6(0xFF)], [flagged(0xFF ^ 1 << bit) for bit in range(8)]),
    Case(
        "{tcp_flags: ['syn,!ack', 'rst']}",
        [flagged(SYN), flagged(4), flagged(4 | ACK)],
        [flagged(SYN | ACK), flagged(0)],
    ),
    Case(
        "{proto: [tcp, udp], dport: 22, tcp_flags: 'fin,psh,urg'}",
        [flagged(0x29), flagged(0x39)],
        [flagged(0x21), v4_frame(udp() + bytes(20), UDP), v4_frame(tcp(dport=23, flags=0x29))],
    ),
]


@parametrize(CASES)
def test_match(case: Case) -> None:
    check(case)
