# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy does with a frame, by the plainest loop there is.

The oracle of every test, and what ``explain`` and ``--reference`` run: it shares with the compiler nothing but the
IR, and with the program in the kernel nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family, Fragment
from xdpfw.packet.decode import ETHERTYPE_ARP, PROTO_UDP, Invalid, Packet, decode
from xdpfw.reference.knocks import ACCEPTED, GRANTED, STEP, Knocks
from xdpfw.reference.matching import Observation, observe, unmet
from xdpfw.reference.memory import START, Event, Instant, Memory


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a frame, and why.

    ``reason`` is ``rule``, ``default``, ``allow.NAME``, ``knock.NAME`` or ``invalid.NAME``; ``rule`` the rule that
    decided, ``target`` the interface of a redirect, ``counted`` the ``count`` rules that matched before the decision.
    """

    verdict: ir.Verdict
    reason: str
    rule: str | None = None
    target: str | None = None
    counted: tuple[str, ...] = ()
    events: tuple[Event, ...] = field(default=(), compare=False)  # of knocks, in their order

    @property
    def kind(self) -> str:
        """The reason without its detail: ``rule``, ``default``, ``allow``, ``knock`` or ``invalid``."""
        return self.reason.partition(".")[0]


def evaluate(
    policy: ir.Policy,
    frame: bytes,
    interface: int | None = 0,
    *,
    memory: Memory | None = None,
    now: Instant = START,
) -> Decision:
    """Decide on an Ethernet frame (no FCS) that arrives on ``policy.interfaces[interface]`` at ``now``.

    ``interface`` is None where the policy does not name the interface: no rule with ``interface`` matches then.
    ``memory`` is what earlier packets have left, and takes in what this one leaves; None: there were none.
    """
    packet = decode(frame)
    if isinstance(packet, Invalid):
        return Decision(policy.invalid, packet.reason)
    for allowance in enabled_allowances(policy.allow):
        if ALLOWANCES[allowance](packet):
            return Decision(ir.Verdict.PASS, f"allow.{allowance}")
    knocks = Knocks(policy.knocks, Memory() if memory is None else memory, now)
    observation = observe(packet, interface)
    reason = knocks.decide(packet, observation)
    if reason is not None:
        decision = Decision(ir.Verdict.PASS if reason == GRANTED else ir.Verdict.DROP, reason)
    else:
        decision = _by_rules(policy, packet, observation, knocks.held(packet))
    if breaks_sequences(decision):
        knocks.reset(packet)
    return replace(decision, events=tuple(knocks.events))


def _by_rules(policy: ir.Policy, packet: Packet, observation: Observation, held: frozenset[str]) -> Decision:
    counted: list[str] = []
    for rule in policy.rules:
        if unmet(rule.match, packet, observation, held) is not None:
            continue
        if rule.unless is not None and unmet(rule.unless, packet, observation, held) is None:
            continue
        if rule.action.kind is ir.ActionKind.COUNT:
            counted.append(rule.name)
            continue
        verdict = ir.Verdict(rule.action.kind.value)
        return Decision(verdict, "rule", rule.name, rule.action.interface, tuple(counted))
    return Decision(policy.default, "default", counted=tuple(counted))


def breaks_sequences(decision: Decision) -> bool:
    """Whether a packet of this decision ends what its source has begun. Steps see to that themselves.

    The default does even where it passes: what no rule passes is what a scan meets.
    """
    match decision.kind:
        case "rule":
            return decision.verdict is ir.Verdict.DROP
        case "knock":
            return decision.reason not in (STEP, GRANTED, ACCEPTED)
        case kind:
            return kind == "default"


def enabled_allowances(allow: ir.Allow) -> list[str]:
    """The names of the allowances that are on, in the order in which they are tried."""
    return [name for name in ALLOWANCES if getattr(allow, name)]


def _is_arp(packet: Packet) -> bool:
    return packet.ethertype == ETHERTYPE_ARP


def _is_ndp(packet: Packet) -> bool:
    """RFC 4861, section 4: hop limit 255; RFC 6980: never fragmented."""
    return (
        packet.family is Family.IPV6
        and packet.icmp_type in range(133, 138)
        and packet.ttl == 255
        and packet.fragment is Fragment.NONE
    )


def _is_dhcp_reply(packet: Packet) -> bool:
    """RFC 2131, section 4.1; RFC 8415, section 7.2."""
    ports = {Family.IPV4: (67, 68), Family.IPV6: (547, 546)}
    return packet.proto == PROTO_UDP and (packet.sport, packet.dport) == ports.get(packet.family)


def _is_icmp_error(packet: Packet) -> bool:
    """RFC 792 without source quench and redirect; RFC 4443, section 3."""
    types = {Family.IPV4: (3, 11, 12), Family.IPV6: (1, 2, 3, 4)}
    return packet.icmp_type in types.get(packet.family, ())


ALLOWANCES: Final[dict[str, Callable[[Packet], bool]]] = {
    "arp": _is_arp,
    "ndp": _is_ndp,
    "dhcp": _is_dhcp_reply,
    "icmp_errors": _is_icmp_error,
}
"""The fields of ``ir.Allow`` that are in force, in the order in which they are tried."""
