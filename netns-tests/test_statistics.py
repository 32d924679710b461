# SPDX-License-Identifier: GPL-2.0-or-later
"""Every packet that was sent is in exactly one row of each view, as the reference decides it.

   sender              home
┌───────────┐      ┌───────────┐
│   eth0 ───┼──────┼─── fw0    │
│   eth1 ───┼──────┼─── fw1    │  XDP on both
└───────────┘      └───────────┘
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests import frames
from tests.firewall import policy
from tests.wire import Expected, Wire

RULES = (
    "{name: all, action: count}",
    "{name: second, match: {interface: fw1}, action: count}",
    "{name: web, match: {proto: tcp, dport: 80}, action: pass}",
    "{name: dns, match: {proto: udp, sport: 53, interface: fw1}, action: pass}",
    "{name: tagged, match: {vlan: 100-199}, action: drop}",
    "{name: later, match: {fragment: later}, action: drop}",
    "{name: back, match: {proto: udp, dport: 7}, action: tx}",
    "{name: on, match: {proto: udp, dport: 8}, action: {redirect: fw1}}",
)

KINDS = (
    frames.v4_frame(frames.tcp(dport=80)),
    frames.v6_frame(frames.tcp(dport=80)),
    frames.v4_frame(frames.tcp(dport=22)),
    frames.v4_frame(frames.udp(sport=53), frames.UDP),
    frames.v4_frame(frames.udp(dport=7), frames.UDP),
    frames.v6_frame(frames.udp(dport=8), frames.UDP),
    frames.ethernet(frames.IPV4, frames.ipv4(frames.tcp()), tags=[(frames.VLAN, 150)]),
    frames.ethernet(frames.IPV4, frames.ipv4(frames.tcp(dport=80)), tags=[(frames.QINQ, 5), (frames.VLAN, 150)]),
    frames.ethernet(frames.IPV4, frames.ipv4(frames.tcp()), tags=[(frames.VLAN, 1)] * 5),
    frames.v4_frame(frames.udp() + bytes(100), frames.UDP, fragment=10),
    frames.v4_frame(frames.tcp(), header_words=4),
    frames.v4_frame(frames.tcp(), total_length=1000),
    frames.v6_frame(frames.tcp(header_words=2)),
    frames.v4_frame(frames.icmp(type=11), frames.ICMP),
    frames.v4_frame(bytes(1460)),
    frames.ethernet(frames.ARP, bytes(28)),
    frames.ethernet(0x88CC, bytes(40)),
    frames.ethernet(0x0100, bytes(46)),
)


def test_every_packet_is_in_one_row_of_each_view(make_wire: Callable[..., Wire], mode: str) -> None:
    wire = make_wire("fw0", "fw1")
    text = policy(*RULES, interfaces=("fw0", "fw1"), mode=mode)
    wire.firewall.apply(text)
    draw = random.Random(20)
    arrivals = [(frame, number) for number in (0, 1) for frame in draw.choices(KINDS, k=500)]
    for number in (0, 1):
        wire.send((frame for frame, arrival in arrivals if arrival == number), number)
    expected = Expected.of(text, arrivals)
    stats = wire.firewall.stats()
    expected.check(stats)
    assert sum(row["packets"] for row in stats["verdicts"].values()) == len(arrivals)
    for view in ("rule", "reason", "interface", "set"):
        assert wire.firewall.command("stats", "--by", view).stdout


def test_it_counts_on_when_no_process_runs(wire: Wire) -> None:
    """Each command has ended before the next frame is sent; what the kernel counts is there all the same."""
    text = policy(*RULES[2:3])
    wire.firewall.apply(text)
    arrivals = [(frame, 0) for frame in KINDS]
    for frame, _ in arrivals:
        wire.send([frame])
    Expected.of(text, arrivals).check(wire.firewall.stats())
