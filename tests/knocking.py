# SPDX-License-Identifier: GPL-2.0-or-later
"""A firewall with knocks in virtual time, decided by the reference interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any, Final

from tests.policies import policy
from xdpfw.compiler import ir
from xdpfw.knock.spa import Message, source_bytes
from xdpfw.knock.steps import parse_step
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.interpreter import Decision, evaluate
from xdpfw.reference.memory import START, Event, EventKind, Instant, Memory

S: Final = 1_000_000_000
MS: Final = 1_000_000

HOST: Final = "203.0.113.1"
HOST6: Final = "2001:db8::1"
KNOCKER: Final = "198.51.100.7"
KNOCKER6: Final = "2001:db8::7"

PASSED: Final = "knock.granted"
SHUT: Final = "knock.closed"
STEP: Final = "knock.step"


def sequence(text: str, within: int = 10 * S, step: int = 10 * S) -> ir.Sequence:
    """``7000/tcp 9000/udp 8/icmp``"""
    return ir.Sequence(tuple(ir.Step(*parse_step(word)) for word in text.split()), within, step)


def services(text: str) -> tuple[ir.Service, ...]:
    """``22/tcp 53/udp``"""
    return tuple(ir.Service(*parse_step(word)[:2]) for word in text.split())


def knock(
    name: str,
    way: str | ir.Sequence | ir.Rotation | ir.Spa,
    opens: str = "22/tcp",
    *,
    lasts: int = 30 * S,
    close: str | None = None,
    **more: Any,
) -> ir.Knock:
    way = sequence(way) if isinstance(way, str) else way
    closing = None if close is None else sequence(close)
    return ir.Knock(name, way, services(opens), lasts, closing, **more)


def prefixes(*addresses: str) -> ir.AddressRanges:
    """Single addresses, of both families."""
    found = sorted((ip_address(text) for text in addresses), key=int)
    ranges = {4: [], 6: []}  # type: dict[int, list[ir.Range]]
    for address in found:
        ranges[address.version].append(ir.Range(int(address), int(address)))
    return ir.AddressRanges(tuple(ranges[4]), tuple(ranges[6]))


def end(address: str, port: int | None = None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def packet_of(step: str | ir.Step, src: str = KNOCKER, dst: str | None = None, options: str = "") -> str:
    """The packet that a client sends for a step."""
    step = ir.Step(*parse_step(step)) if isinstance(step, str) else step
    dst = dst or (HOST6 if ":" in src else HOST)
    if step.protocol in (6, 17):
        name = "tcp" if step.protocol == 6 else "udp"
        return f"{name} {end(src, 40000)} > {end(dst, step.number)} {options}".strip()
    is_v6 = ":" in src
    number = {8: 128, 0: 129}[step.number] if is_v6 and step.protocol == 1 else step.number
    return f"{'icmpv6' if is_v6 else 'icmp'} {src} > {dst} type {number} code {step.code or 0} {options}".strip()


@dataclass
class Firewall:
    """Sends packets one after the other. Only :meth:`wait` takes time."""

    knocks: Sequence[ir.Knock]
    rules: Sequence[ir.Rule] = ()
    default: ir.Verdict = ir.Verdict.DROP
    allow: ir.Allow | None = None
    memory: Memory = field(default_factory=Memory)
    now: Instant = START
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.policy = replace(policy(*self.rules, default=self.default), knocks=tuple(self.knocks))
        if self.allow is not None:
            self.policy = replace(self.policy, allow=self.allow)

    def wait(self, ns: int) -> None:
        self.now = self.now.after(ns)

    def decide(self, packet: str | bytes) -> Decision:
        frame = parse_packet(packet) if isinstance(packet, str) else packet
        decision = evaluate(self.policy, frame, memory=self.memory, now=self.now)
        self.events += decision.events
        return decision

    def send(self, packet: str | bytes) -> str:
        """The reason, or the name of the rule."""
        decision = self.decide(packet)
        return decision.rule or decision.reason

    def knock(self, steps: str, src: str = KNOCKER, dst: str | None = None) -> None:
        """Sends steps, which must be taken for such."""
        for step in steps.split():
            decision = self.decide(packet_of(step, src, dst))
            assert (decision.reason, decision.verdict) == (STEP, ir.Verdict.DROP), step

    def opened(self, service: str = "22/tcp", src: str = KNOCKER, dst: str | None = None) -> bool:
        """Whether the source gets to a port. To ask leaves no trace."""
        decision = evaluate(
            self.policy, parse_packet(packet_of(service, src, dst)), memory=self.memory.copy(), now=self.now
        )
        assert decision.reason in (PASSED, SHUT)
        assert (decision.verdict is ir.Verdict.PASS) == (decision.reason == PASSED)
        return decision.reason == PASSED

    def kinds(self) -> list[tuple[EventKind, str | None, int]]:
        """Kind, knock and step of all events since the last time."""
        found = [(event.kind, event.knock, event.step) for event in self.events]
        self.events.clear()
        return found


def spa_packet(
    message: Message, key: bytes, src: str = KNOCKER, dst: str | None = None, port: int = 62201, options: str = ""
) -> str:
    return udp_packet(message.signed(key), src, dst, port, options)


def udp_packet(payload: bytes, src: str = KNOCKER, dst: str | None = None, port: int = 62201, options: str = "") -> str:
    dst = dst or (HOST6 if ":" in src else HOST)
    return f"udp {end(src, 40000)} > {end(dst, port)} payload={payload.hex()} {options}".strip()


def message(now: Instant, src: str = KNOCKER, number: int = 1, **more: Any) -> Message:
    return Message(number, more.pop("time_ns", now.wall_ns), 77, source_bytes(src), **more)
