# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of packets beside each other, through ten rules (ten-rules.yaml), warm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bench.report import Table
from bench.subjects import ten_rules
from bench.timing import Times, timer
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK
from xdpfw.packet.notation import parse_packet

PACKETS: Final = {
    "TCP, a rule by port passes": "tcp 192.0.9.7:40000 > 203.0.113.1:443 S",
    "TCP, a rule by set and port passes": "tcp 192.0.2.7:40000 > 203.0.113.1:22 S",
    "UDP, the default drops": "udp 192.0.9.7:40000 > 203.0.113.1:161",
    "TCP, a rule by source drops": "tcp 127.0.0.1:40000 > 203.0.113.1:443 S",
    "TCP behind two VLAN tags": "tcp 192.0.9.7:40000 > 203.0.113.1:443 S vlan=100 inner_vlan=7",
    "IPv6 TCP, a rule by port passes": "tcp [2001:db8::7]:40000 > [2001:db8::1]:443 S",
    "IPv6 UDP, the default drops": "udp [2001:db8::7]:40000 > [2001:db8::1]:161",
    "ARP, an allowance passes": "arp 192.0.2.7 > 192.0.2.1",
}
REPEAT_MORE: Final = 10
"""Few packets, so that there is time for more runs of each."""

Say = Callable[[str], None]


def measure(rounds: int, repeat: int, say: Say) -> Table:
    say("ten rules")
    repeat *= REPEAT_MORE
    with Generation.load(compile_policy(ten_rules()), interfaces=[LOOPBACK], targets=[]) as generation:
        timers = {name: timer(generation.program, parse_packet(text), repeat) for name, text in PACKETS.items()}
        times = Times.of(timers, rounds, repeat)
    above = {name: times.above_null(name) for name in times.found}
    return Table(
        "Ten rules, packet by packet",
        f"BPF_PROG_TEST_RUN, {repeat:,} runs of each, in ns above the null program ({times.null_ns:g} ns); the median "
        f"of {rounds} rounds.",
        ("packet", "ns", "ratio"),
        [(name, ns, 1 + ns / times.null_ns) for name, ns in above.items()],
    )
