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
from xdpfw.reference.cookies import challenged
from xdpfw.reference.flows import Flows
from xdpfw.reference.fragments import Fragments
from xdpfw.reference.knocks import ACCEPTED, GRANTED, STEP, Knocks
from xdpfw.reference.limits import Limits
from xdpfw.reference.matching import Observation, Standing, observe, unmet
from xdpfw.reference.memory import START, Event, Instant, Memory
from xdpfw.reference.routes import routed
from xdpfw.reference.sets import Sets

ESTABLISHED: Final = "allow.established"
FRAGMENTS: Final = "allow.fragments"


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
    is_exceeded: bool = field(default=False, compare=False)  # the rule's limit is; not what it does within it
    acting: str | None = field(default=None, compare=False)  # the rule that logs and adds, cookie or not
    events: tuple[Event, ...] = field(default=(), compare=False)  # of sets and knocks, in their order

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
    memory = Memory() if memory is None else memory
    sets = Sets(policy, memory, now)
    if sets.is_banned(packet):
        return Decision(ir.Verdict.DROP, "ban")
    flows = Flows(memory, now)
    state = flows.state_of(packet) if tracks(policy) else None
    fragments, limits = Fragments(memory, now), Limits(memory, now)
    decision = _allowed(policy, packet, state)
    if decision is None and policy.allow.fragments and packet.fragment is Fragment.LATER:
        first = fragments.first_of(packet)
        decision = None if first is None else _followed(policy, packet, first, limits, sets)
    if decision is None:
        decision = _decide(policy, packet, interface, state, memory, now, limits, sets)
    if policy.allow.fragments and packet.fragment is Fragment.FIRST:
        fragments.remember(packet, decision)
    if state is not None and decision.verdict is ir.Verdict.REDIRECT and not is_for_stack(policy, decision):
        flows.note_forwarded(packet)
    return decision


def note_sent(policy: ir.Policy, frame: bytes, *, memory: Memory, now: Instant = START) -> None:
    """Takes in that the firewall's own side sends this frame through one of its interfaces."""
    packet = decode(frame)
    if tracks(policy) and not isinstance(packet, Invalid):
        Flows(memory, now).note_sent(packet)


def tracks(policy: ir.Policy) -> bool:
    """Whether something depends on the state of packets."""
    matches = (match for rule in policy.rules for match in (rule.match, rule.unless) if match is not None)
    return policy.allow.established or bool(policy.protect_syn) or any(match.state is not None for match in matches)


def _allowed(policy: ir.Policy, packet: Packet, state: ir.State | None) -> Decision | None:
    """The decision, where an allowance makes it."""
    for allowance in enabled_allowances(policy.allow):
        if ALLOWANCES[allowance](packet):
            return Decision(ir.Verdict.PASS, f"allow.{allowance}")
    if policy.allow.established and state is ir.State.ESTABLISHED:
        return Decision(ir.Verdict.PASS, ESTABLISHED)
    return None


def _followed(policy: ir.Policy, packet: Packet, first: Decision, limits: Limits, sets: Sets) -> Decision:
    """The decision on a later fragment whose first one is known. Unless it is dropped, it takes tokens of its own."""
    if first.verdict is ir.Verdict.DROP:
        return first
    rule = next((rule for rule in policy.rules if rule.name == first.rule), None)
    if rule is not None and rule.limit is not None and not limits.take(rule.name, rule.limit, packet):
        if rule.add_to is not None:
            sets.add(rule.add_to, packet)
        events = tuple(sets.events)
        return Decision(rule.limit.exceed, "rule", rule.name, is_exceeded=True, acting=rule.name, events=events)
    return Decision(ir.Verdict.PASS, FRAGMENTS) if first.verdict is ir.Verdict.PASS else first


def _decide(
    policy: ir.Policy,
    packet: Packet,
    interface: int | None,
    state: ir.State | None,
    memory: Memory,
    now: Instant,
    limits: Limits,
    sets: Sets,
) -> Decision:
    """The decision of knocks, rules or the default."""
    knocks = Knocks(policy.knocks, memory, now)
    observation = observe(packet, interface, state)
    reason = knocks.decide(packet, observation)
    if reason is not None:
        decision = Decision(ir.Verdict.PASS if reason == GRANTED else ir.Verdict.DROP, reason)
    else:
        src_sets, dst_sets = (sets.having(packet.family, address) for address in (packet.src, packet.dst))
        standing = Standing(knocks.held(packet), src_sets, dst_sets)
        decision = _by_rules(policy, packet, observation, standing, limits, sets)
    if breaks_sequences(decision):
        knocks.reset(packet)
    decision = replace(decision, events=(*sets.events, *knocks.events))
    if state is not None and is_for_stack(policy, decision):
        return challenged(policy, packet, state, decision)
    return decision


def _by_rules(
    policy: ir.Policy, packet: Packet, observation: Observation, standing: Standing, limits: Limits, sets: Sets
) -> Decision:
    counted: list[str] = []
    for rule in policy.rules:
        if unmet(rule.match, packet, observation, standing) is not None:
            continue
        if rule.unless is not None and unmet(rule.unless, packet, observation, standing) is None:
            continue
        if rule.action.kind is ir.ActionKind.COUNT:
            counted.append(rule.name)
            continue
        is_exceeded = rule.limit is not None and not limits.take(rule.name, rule.limit, packet)
        if rule.add_to is not None and (is_exceeded or not rule.add_to.exceeded):
            sets.add(rule.add_to, packet)
        if is_exceeded:
            assert rule.limit is not None
            verdict, target = rule.limit.exceed, None
        else:
            verdict, target = verdict_of(rule.action, packet), rule.action.interface
        return Decision(verdict, "rule", rule.name, target, tuple(counted), is_exceeded, rule.name)
    return Decision(policy.default, "default", counted=tuple(counted))


def verdict_of(action: ir.Action, packet: Packet) -> ir.Verdict:
    """What an action does with a packet, as far as that can be said without the machine's routes and CPUs."""
    match action.kind:
        case ir.ActionKind.ROUTE:
            return routed(packet)
        case ir.ActionKind.CPU:
            return ir.Verdict.REDIRECT
        case kind:
            return ir.Verdict(kind.value)


def is_for_stack(policy: ir.Policy, decision: Decision) -> bool:
    """Whether the firewall's own stack gets the packet, on this CPU or another."""
    if decision.verdict is not ir.Verdict.REDIRECT:
        return decision.verdict is ir.Verdict.PASS
    return any(rule.name == decision.rule and rule.action.kind is ir.ActionKind.CPU for rule in policy.rules)


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
