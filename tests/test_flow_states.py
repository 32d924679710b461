# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows by the reference: what a user is told in docs/flows.md, without the kernel."""

from __future__ import annotations

import pytest

from tests.flow_frames import ACK, FIN, RST, SYN, V4, V6, Ends, datagram
from tests.policies import written
from xdpfw.compiler import ir
from xdpfw.reference.interpreter import evaluate, note_sent
from xdpfw.reference.memory import START, Memory

S = 1_000_000_000
DEFAULT_DROP = written(default="drop", allow="established")


class Host:
    """A firewall's memory, and the time since it began."""

    def __init__(self, policy: ir.Policy = DEFAULT_DROP) -> None:
        self.policy = policy
        self.memory = Memory()
        self.now = START

    def send(self, frame: bytes) -> None:
        note_sent(self.policy, frame, memory=self.memory, now=self.now)

    def passes(self, frame: bytes) -> bool:
        decision = evaluate(self.policy, frame, memory=self.memory, now=self.now)
        return decision.reason == "allow.established"

    def lasts(self, frame: bytes, seconds: int) -> bool:
        """Whether the frame passes up to so many seconds from now, and no longer; nothing is left of the flow then."""
        first = self.memory.copy()
        self.now = self.now.after(seconds * S - 1)
        before = self.passes(frame)
        self.memory = first
        self.now = self.now.after(1)
        return before and not self.passes(frame)


@pytest.mark.parametrize("ends", [V4, V6], ids=["IPv4", "IPv6"])
def test_each_state_lasts_as_long_as_the_document_says(ends: Ends) -> None:
    host = Host()
    host.send(ends.sent(flags=SYN, seq=1))
    assert host.lasts(ends.received(flags=SYN | ACK), 120)
    host.send(ends.sent(flags=SYN, seq=1))
    assert host.passes(ends.received(flags=SYN | ACK, seq=5))
    assert host.lasts(ends.received(flags=SYN | ACK, seq=5), 60)
    host.send(ends.sent(flags=SYN | ACK, seq=1))
    assert host.lasts(ends.received(flags=ACK, ack=2), 60)
    host.send(ends.sent(flags=ACK))
    assert host.lasts(ends.received(flags=ACK), 5 * 86400)
    host.send(ends.sent(flags=FIN | ACK))
    assert host.lasts(ends.received(flags=ACK), 120)
    host.send(ends.sent(flags=ACK))
    host.send(ends.sent(flags=RST))
    assert host.lasts(ends.received(flags=ACK), 10)
    for proto in ("udp", "sctp"):
        host.send(ends.sent(proto))
        assert host.lasts(ends.received(proto), 30)
        host.send(ends.sent(proto))
        assert host.passes(ends.received(proto))
        assert host.lasts(ends.received(proto), 180)
    host.send(ends.echo_sent())
    assert host.passes(ends.echo_received(is_reply=True))
    assert host.lasts(ends.echo_received(is_reply=True), 30)


def test_nothing_that_comes_in_makes_a_flow() -> None:
    host = Host(written(allow="established"))
    for flags in range(256):
        assert not host.passes(V4.received(flags=flags))
    for frame in (V4.received("udp"), V4.echo_received(), V4.echo_received(is_reply=True)):
        assert not host.passes(frame)
        assert not host.passes(V4.error(datagram(frame)))
    assert host.memory.flows == {}


def test_a_copy_of_the_memory_goes_its_own_way() -> None:
    host = Host()
    host.send(V4.sent("udp"))
    other = host.memory.copy()
    host.send(V6.sent("udp"))
    assert (len(host.memory.flows), len(other.flows)) == (2, 1)


def test_a_policy_that_asks_for_no_state_follows_no_flows() -> None:
    host = Host(written(default="drop"))
    host.send(V4.sent("udp"))
    assert host.memory.flows == {}
