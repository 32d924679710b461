# SPDX-License-Identifier: GPL-2.0-or-later
"""What the reference keeps from packet to packet of limits and fragments, as policies' own tests have it."""

from __future__ import annotations

import pytest

from tests.policies import written
from xdpfw.compiler import ir
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.interpreter import evaluate
from xdpfw.reference.memory import START, Memory

MS = 1_000_000
DNS = "{{name: dns, match: {{proto: udp, dport: 53}}, action: pass, limit: {limit}}}"
ONE, OTHER = ("udp 198.51.100.7:1 > 203.0.113.1:53", "udp 198.51.100.8:1 > 203.0.113.1:53")
FIRST, LATER = ("udp 198.51.100.7:1 > 203.0.113.1:53 frag=first", "udp 198.51.100.7 > 203.0.113.1 frag=later")


def verdicts(policy: ir.Policy, *steps: str | int) -> list[str]:
    """Of the packets among the steps; numbers are ns that go by."""
    memory, now, found = Memory(), START, []
    for step in steps:
        if isinstance(step, int):
            now = now.after(step)
        else:
            found.append(str(evaluate(policy, parse_packet(step), memory=memory, now=now).verdict))
    return found


def test_a_limit_gives_its_burst_and_then_its_rate() -> None:
    policy = written(DNS.format(limit="{rate: 10/s, burst: 2, per: rule}"), default="drop")
    assert verdicts(policy, ONE, ONE, OTHER, 99 * MS, ONE, MS, OTHER, ONE) == [
        "pass",
        "pass",
        "drop",
        "drop",
        "pass",
        "drop",
    ]


@pytest.mark.parametrize(("per", "last"), [("src", "pass"), ("src/24", "drop"), ("flow", "pass"), ("rule", "drop")])
def test_who_shares_a_bucket(per: str, last: str) -> None:
    policy = written(DNS.format(limit=f"{{rate: 1/s, burst: 1, per: {per}}}"), default="drop")
    assert verdicts(policy, ONE, ONE, OTHER) == ["pass", "drop", last]


def test_a_copy_of_the_memory_has_buckets_and_fragments_of_its_own() -> None:
    rules = DNS.format(limit="{rate: 1/s, burst: 1, per: rule}")
    policy = written(rules, default="drop", allow="fragments")
    memory = Memory()
    copy = memory.copy()
    assert evaluate(policy, parse_packet(FIRST), memory=copy).verdict == "pass"
    assert evaluate(policy, parse_packet(LATER), memory=memory).reason == "default"
    assert evaluate(policy, parse_packet(ONE), memory=memory).verdict == "pass"
    assert evaluate(policy, parse_packet(ONE), memory=copy).verdict == "drop"


def test_later_fragments_follow_for_thirty_seconds() -> None:
    policy = written("{name: dns, match: {proto: udp, dport: 53}, action: pass}", default="drop", allow="fragments")
    steps = (LATER, FIRST, LATER, 30_000 * MS - 1, LATER, 1, LATER)
    assert verdicts(policy, *steps) == ["drop", "pass", "pass", "pass", "drop"]
