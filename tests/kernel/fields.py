# SPDX-License-Identifier: GPL-2.0-or-later
"""What the test of one match field is: conditions, packets that meet them, and packets that just do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from tests.kernel.agreement import agreement
from tests.policies import written
from xdpfw.compiler import grouping

Packet = str | bytes | tuple[str | bytes, int | None]
"""In the notation or as a frame; with the number of the interface where it comes in, if that is not the first."""


class Case(NamedTuple):
    """``match``: the value of ``match`` in YAML; ``hits`` meet it, ``misses`` do not."""

    match: str
    hits: Sequence[Packet]
    misses: Sequence[Packet]
    sets: str = ""


def parametrize(cases: Sequence[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.match for case in cases])


def _arrive(packet: Packet) -> tuple[str | bytes, int | None]:
    return packet if isinstance(packet, tuple) else (packet, 0)


def check(case: Case) -> None:
    """By a rule with that match, then by one with that ``except``: verdict, rule, and counters of both."""
    for text, matching, others in (
        (f"{{name: it, match: {case.match}, action: drop}}", case.hits, case.misses),
        (f"{{name: it, except: {case.match}, action: drop}}", case.misses, case.hits),
    ):
        with agreement(written(text, sets=case.sets)) as both:
            for packet in matching:
                decision = both.run(*_arrive(packet))
                assert (decision.rule, decision.verdict) == ("it", "drop"), (text, packet)
            assert both.counted("it") == len(matching)
            for packet in others:
                decision = both.run(*_arrive(packet))
                assert (decision.reason, decision.verdict) == ("default", "pass"), (text, packet)
            assert both.counted("it") == len(matching)


def check_grouped(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where addresses are found through pairs and rows, as in a large policy."""
    monkeypatch.setattr(grouping, "WIDE_ONLY", 0)
    check(case)


TCP4 = "tcp 198.51.100.7:40000 > 203.0.113.1:22"
TCP6 = "tcp [2001:db8::7]:40000 > [2001:db8::1]:22"
UDP4 = "udp 198.51.100.7:40000 > 203.0.113.1:53"
UDP6 = "udp [2001:db8::7]:40000 > [2001:db8::1]:53"
ICMP4 = "icmp 198.51.100.7 > 203.0.113.1"
ICMP6 = "icmpv6 2001:db8::7 > 2001:db8::1"
GRE4 = "gre 198.51.100.7 > 203.0.113.1"
ARP = "arp 198.51.100.7 > 203.0.113.1"
LLDP = "ethertype 0x88cc payload=00"
LATER4 = "tcp 198.51.100.7:40000 > 203.0.113.1:22 frag=later"
"""With bytes that look like a TCP header where a first fragment has it."""
LATER6 = "tcp [2001:db8::7]:40000 > [2001:db8::1]:22 frag=later"
