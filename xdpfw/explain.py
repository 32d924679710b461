# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a policy decides on a packet as it does: each step of the reference interpreter, with its outcome."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, summarize_address_range
from typing import Final

from xdpfw.compiler import ir
from xdpfw.packet.decode import Invalid, Packet, decode
from xdpfw.packet.notation import PROTO_NAMES, describe
from xdpfw.reference.flows import Flows
from xdpfw.reference.fragments import Fragments
from xdpfw.reference.interpreter import Decision, enabled_allowances, evaluate, tracks
from xdpfw.reference.knocks import (
    ACCEPTED,
    CLOSED,
    GRANTED,
    STEP,
    Knocks,
    has_payload,
    is_for_many,
    listens,
    positions,
    windows,
)
from xdpfw.reference.matching import Observation, Standing, observe, unmet
from xdpfw.reference.memory import START, Instant, Memory, Source
from xdpfw.reference.sets import Sets

MAC_MASK: Final = 0xFFFFFFFFFFFF
TCP_FLAG_NAMES: Final = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
MAX_VLAN: Final = 4095
SHOWN_ALTERNATIVES: Final = 4  # of a condition; a set may have a million

PROTECTION_TEXTS: Final = {
    "protect.syn_cookie": "a SYN, answered with a cookie instead",
    "protect.bad_cookie": "of no connection that is known, and with no cookie that was sent",
}
SPA_TEXTS: Final = {
    ACCEPTED: "an SPA message, accepted",
    "knock.spa_malformed": "no SPA message: its length, version or flags are wrong, or it is a fragment",
    "knock.spa_unknown_key": "an SPA message, of a key that is not known",
    "knock.spa_replayed": "an SPA message, no later than the last one of its key",
    "knock.spa_stale": "an SPA message, too old",
    "knock.spa_early": "an SPA message, of a time to come",
    "knock.spa_source": "an SPA message, made for another source",
    "knock.spa_forged": "an SPA message, with a wrong tag",
    "knock.spa_service": "an SPA message, for a port that the knock does not open",
    "knock.spa_refused": "an SPA message, and there is no room for another grant",
}


class Outcome(enum.StrEnum):
    PARSED = "parsed"
    INVALID = "invalid"
    MATCHED = "matched"
    COUNTED = "counted"  # a count rule that matched
    UNMET = "unmet"  # a condition does not hold
    EXCEPTED = "excepted"  # all conditions hold, and so does the except of the rule or knock
    STEP = "step"  # of a knock
    MESSAGE = "message"  # SPA
    GRANTED = "granted"  # to a port that the knock opens, and the source holds a grant
    CLOSED = "closed"  # and it holds none


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One step. ``field``, ``found`` and ``wanted`` tell of the first condition that a rule's packet does not meet."""

    step: str  # parse, ban, allow, knock, rule, default or protect
    outcome: Outcome
    name: str | None = None  # of the allowance, knock or rule, or of what is protected against
    field: str | None = None  # as in the policy, but icmp for icmp_type and icmp_code
    found: str | None = None  # None: the packet has no such field. Where there is no field: what the packet is
    wanted: str | None = None
    effect: str | None = None  # of a rule that decides, beside its verdict: its limit, add_to, routes and CPUs

    def to_json(self) -> dict[str, str]:
        """The entry without what it does not have."""
        items = {key: getattr(self, key) for key in self.__slots__}
        return {key: str(value) for key, value in items.items() if value is not None}

    def __str__(self) -> str:
        what = f"{self.step} {self.name}" if self.name else self.step
        match self.outcome:
            case Outcome.PARSED | Outcome.INVALID | Outcome.STEP | Outcome.MESSAGE | Outcome.GRANTED | Outcome.CLOSED:
                return f"{what}: {self.found}"
            case Outcome.UNMET if self.field is None:
                return f"{what}: no match" + (f": {self.found}" if self.found else "")
            case Outcome.UNMET if self.found is None:
                return f"{what}: no match, the packet has no {self.field}; wanted: {self.wanted}"
            case Outcome.UNMET:
                return f"{what}: no match, {self.field} is {self.found}; wanted: {self.wanted}"
            case Outcome.EXCEPTED:
                return f"{what}: no match, its except holds"
            case Outcome.COUNTED:
                return f"{what}: counts, and goes on"
            case Outcome.MATCHED:
                return f"{what}: match" + "".join(f": {text}" for text in (self.found, self.effect) if text)


def explain(
    policy: ir.Policy,
    frame: bytes,
    interface: int | None = 0,
    *,
    memory: Memory | None = None,
    now: Instant = START,
) -> tuple[Decision, tuple[TraceEntry, ...]]:
    """:func:`~xdpfw.reference.interpreter.evaluate`, with the steps that led there; the last entry is what decided."""
    memory = Memory() if memory is None else memory
    before = memory.copy()
    decision = evaluate(policy, frame, interface, memory=memory, now=now)
    packet = decode(frame)
    if isinstance(packet, Invalid):
        return decision, (TraceEntry("parse", Outcome.INVALID, found=packet.reason),)
    parsed = TraceEntry("parse", Outcome.PARSED, found=describe(frame))
    return decision, (parsed, *_trace(policy, frame, packet, interface, decision, before, now))


def _trace(
    policy: ir.Policy,
    frame: bytes,
    packet: Packet,
    interface: int | None,
    decision: Decision,
    memory: Memory,
    now: Instant,
) -> Iterator[TraceEntry]:
    """``memory``: as it was before the packet. It is changed."""
    if decision.kind == "protect":  # what would have passed the packet comes first
        unprotected = replace(policy, protect_syn=())
        passed = evaluate(unprotected, frame, interface, memory=memory.copy(), now=now)
        yield from _trace(policy, frame, packet, interface, passed, memory, now)
        name = decision.reason.partition(".")[2]
        yield TraceEntry("protect", Outcome.MATCHED, name, found=PROTECTION_TEXTS[decision.reason])
        return
    if decision.kind == "ban":
        yield TraceEntry("ban", Outcome.MATCHED, found="the source is banned")
        return
    sets = Sets(policy, memory, now)
    knocks = Knocks(policy.knocks, memory, now)
    standing = Standing(
        knocks.held(packet), sets.having(packet.family, packet.src), sets.having(packet.family, packet.dst)
    )
    follows = policy.allow.fragments and packet.fragment is ir.Fragment.LATER
    first = Fragments(memory, now).first_of(packet) if follows else None
    state = Flows(memory, now).state_of(packet) if tracks(policy) else None
    observation = observe(packet, interface, state)
    for entry in _allowances(policy, packet, state, first, decision):
        yield entry
        if entry.outcome is Outcome.MATCHED:
            return
    by_knock = [_knock_entry(policy, knock, packet, observation, decision, knocks) for knock in policy.knocks]
    if decision.kind == "knock":
        decided = {GRANTED: Outcome.GRANTED, CLOSED: Outcome.CLOSED, STEP: Outcome.STEP}
        outcome = decided.get(decision.reason, Outcome.MESSAGE)
        yield from by_knock[: max(at for at, entry in enumerate(by_knock) if entry.outcome is outcome) + 1]
        return
    yield from by_knock
    for rule in policy.rules:
        if rule.name == decision.rule:
            yield TraceEntry("rule", Outcome.MATCHED, rule.name, effect=_effect(rule, decision))
            return
        field = unmet(rule.match, packet, observation, standing)
        if field is not None:
            held = standing.knocked
            found, wanted = _found(field, packet, observation, held, policy), _wanted(field, rule.match, policy)
            yield TraceEntry("rule", Outcome.UNMET, rule.name, field, found, wanted)
        elif rule.name in decision.counted:
            yield TraceEntry("rule", Outcome.COUNTED, rule.name)
        else:
            yield TraceEntry("rule", Outcome.EXCEPTED, rule.name)
    yield TraceEntry("default", Outcome.MATCHED)


def _allowances(
    policy: ir.Policy, packet: Packet, state: ir.State | None, first: Decision | None, decision: Decision
) -> Iterator[TraceEntry]:
    """Those that are on, up to the one that decides. ``first``: what became of a later fragment's first one."""
    for allowance in enabled_allowances(policy.allow):
        is_it = decision.reason == f"allow.{allowance}"
        yield TraceEntry("allow", Outcome.MATCHED if is_it else Outcome.UNMET, allowance)
    if policy.allow.established:
        is_it = state is ir.State.ESTABLISHED
        yield TraceEntry(
            "allow",
            Outcome.MATCHED if is_it else Outcome.UNMET,
            "established",
            found=None if is_it else "not a packet of a flow that is known",
        )
    if policy.allow.fragments and packet.fragment is ir.Fragment.LATER:
        found = "what came of the first fragment of its datagram" if first else "the first fragment is not known"
        if first and decision.is_exceeded and not first.is_exceeded:
            found = "beyond the limit of the rule that decided on the first fragment of its datagram"
        yield TraceEntry("allow", Outcome.MATCHED if first else Outcome.UNMET, "fragments", found=found)


def _effect(rule: ir.Rule, decision: Decision) -> str | None:
    """What a rule that decides does beside its verdict."""
    limit, add_to = rule.limit, rule.add_to
    texts = []
    if limit is not None:
        texts.append(f"beyond its limit, so {limit.exceed}" if decision.is_exceeded else "within its limit")
    if not decision.is_exceeded and rule.action.kind is ir.ActionKind.ROUTE:
        texts.append("forwarded by the kernel's routes, up the stack where there is none")
    if not decision.is_exceeded and rule.action.kind is ir.ActionKind.CPU:
        texts.append(f"to the stack on CPU {_alternatives(map(str, rule.action.cpus), len(rule.action.cpus))}")
    if add_to is not None and (decision.is_exceeded or not add_to.exceeded):
        texts.append(f"adds the source to @{add_to.set}")
    return ", ".join(texts) or None


def _knock_entry(
    policy: ir.Policy, knock: ir.Knock, packet: Packet, observation: Observation, decision: Decision, knocks: Knocks
) -> TraceEntry:
    """What a knock has to do with a packet that is decided as it is."""
    if decision.reason == STEP:
        if steps := "; ".join(_steps(knock, packet, knocks)):
            return TraceEntry("knock", Outcome.STEP, knock.name, found=steps)
    elif decision.reason in SPA_TEXTS:
        if knock in knocks.addressed(packet):
            return TraceEntry("knock", Outcome.MESSAGE, knock.name, found=SPA_TEXTS[decision.reason])
    elif knock in knocks.guards(packet):
        assert packet.proto is not None
        port = f"opens {packet.dport}/{_number('proto', packet.proto, policy)}, and the source holds"
        if knock.unless is not None and unmet(knock.unless, packet, observation, Standing(knocks.held(packet))) is None:
            return TraceEntry("knock", Outcome.EXCEPTED, knock.name)
        if knocks.is_granted(knock, packet):
            return TraceEntry("knock", Outcome.GRANTED, knock.name, found=f"{port} a grant")
        return TraceEntry("knock", Outcome.CLOSED, knock.name, found=f"{port} no grant; with one it would pass")
    if knock.to is not None and not listens(knock, packet):
        dst = None if packet.dst is None else str(_address(packet.family, packet.dst))
        return TraceEntry("knock", Outcome.UNMET, knock.name, "dst", dst, _addresses(knock.to))
    return TraceEntry("knock", Outcome.UNMET, knock.name)


def _steps(knock: ir.Knock, packet: Packet, knocks: Knocks) -> Iterator[str]:
    """What the packet is in each sequence of a knock that it is a step of."""
    for owner, course in knocks.courses():
        at = positions(packet, knock, course) if owner is knock else []
        if not at:
            continue
        progress = knocks.progress(Source.of(packet), course)
        done = 0 if progress is None else progress.done
        if has_payload(packet):
            step, what = at[0], "with payload, so that it ends what the source has begun"
        elif is_for_many(packet):
            step, what = at[0], "to a multicast address, so that it is not noted"
        elif done and done - 1 in at:
            step, what = done - 1, "again"
        elif done in at:
            step, what = done, "accepted"
        elif 0 in at:
            step, what = 0, "accepted, and the sequence begins anew"
        else:
            step, what = at[0], f"out of turn: the next is step {done + 1}"
        number = f"step {step + 1} of {len(course.sequence.steps)}"
        if course.closes:
            number += " of its close"
        if isinstance(knock.way, ir.Rotation) and course.window is not None:
            window = windows(knock.way, knocks.now).index(course.window)
            number += f" in the {('last', 'present', 'next')[window]} window"
        yield f"{number}, {what}"


def _found(
    field: str, packet: Packet, observation: Observation, held: Collection[str], policy: ir.Policy
) -> str | None:
    """The packet's value of a field of ``ir.Match``, as a policy would write it."""
    if field == "knocked":
        return _alternatives(sorted(held), len(held)) or "none"
    if field in ("src", "dst"):
        address = getattr(packet, field)
        return None if address is None else str(_address(packet.family, address))
    if field in ("src_mac", "dst_mac"):
        return _mac(getattr(packet, field))
    if field == "tcp_flags":
        return None if packet.tcp_flags is None else _flags(ir.TcpFlags(packet.tcp_flags, 0)) or "none"
    if field == "icmp":
        if packet.icmp_type is None or packet.proto is None:
            return None
        return f"{_number('proto', packet.proto, policy)} type {packet.icmp_type} code {packet.icmp_code}"
    value = observation[field]
    if value is None:
        return "none of the policy's" if field == "interface" else None
    return _number(field, value, policy)


def _wanted(field: str, match: ir.Match, policy: ir.Policy) -> str:
    """The condition of ``match`` on ``field``, as a policy would write it."""
    if field in ("src", "dst"):
        return _addresses(getattr(match, field))
    conditions = getattr(match, field)
    texts: Iterable[str]
    if field == "knocked":
        texts = conditions
    elif field in ("src_mac", "dst_mac"):
        texts = (
            _mac(item.value) if item.mask == MAC_MASK else f"{_mac(item.value)}/{_mac(item.mask)}"
            for item in conditions
        )
    elif field == "tcp_flags":
        texts = map(_flags, conditions)
    elif field == "icmp":
        texts = (_icmp(item, policy) for item in conditions)
    else:
        texts = (_range(field, item, policy) for item in conditions)
    return _alternatives(texts, len(conditions))


def _alternatives(texts: Iterable[str], count: int) -> str:
    shown = ", ".join(itertools.islice(texts, SHOWN_ALTERNATIVES))
    return f"{shown} and {count - SHOWN_ALTERNATIVES:,} more" if count > SHOWN_ALTERNATIVES else shown


def _number(field: str, value: int, policy: ir.Policy) -> str:
    match field:
        case "interface":
            return policy.interfaces[value].name
        case "family":
            return ir.Family(value).name.lower()
        case "fragment":
            return ir.Fragment(value).name.lower()
        case "state":
            return ir.State(value).name.lower()
        case "ethertype":
            return f"0x{value:04x}"
        case "proto":
            return next((name for name, number in PROTO_NAMES.items() if number == value), str(value))
        case "vlan" | "inner_vlan" if value == ir.NO_TAG:
            return "none"
        case "ip_options":
            return "true" if value else "false"
        case _:
            return str(value)


def _range(field: str, bounds: ir.Range, policy: ir.Policy) -> str:
    low, high = bounds
    if low == high:
        return _number(field, low, policy)
    if field in ("interface", "family", "fragment", "ip_options", "state"):
        return ", ".join(_number(field, value, policy) for value in range(low, high + 1))
    if field in ("vlan", "inner_vlan") and high == MAX_VLAN:
        return {ir.NO_TAG: "none, any", 0: "any"}.get(low, f"{low}-{high}")
    if field == "ethertype":
        return f"0x{low:04x}-0x{high:04x}"
    return f"{low}-{high}"


def _icmp(message: ir.IcmpMessage, policy: ir.Policy) -> str:
    text = f"{_number('proto', message.protocol, policy)} type {_range('type', message.type, policy)}"
    return text if message.code == ir.Range(0, 255) else f"{text} code {_range('code', message.code, policy)}"


def _flags(flags: ir.TcpFlags) -> str:
    if flags == ir.TcpFlags(0, 0xFF):
        return "none"
    names = [name for bit, name in enumerate(TCP_FLAG_NAMES) if flags.set >> bit & 1]
    names += [f"!{name}" for bit, name in enumerate(TCP_FLAG_NAMES) if flags.clear >> bit & 1]
    return ",".join(names)


def _addresses(ranges: ir.AddressRanges) -> str:
    v4 = (_address_range(ir.Family.IPV4, item) for item in ranges.v4)
    v6 = (_address_range(ir.Family.IPV6, item) for item in ranges.v6)
    sets = [f"@{name}" for name in (*ranges.dynamic, *(each.name for each in ranges.sets))]
    return _alternatives(itertools.chain(sets, v4, v6), len(sets) + len(ranges.v4) + len(ranges.v6))


def _mac(address: int) -> str:
    return address.to_bytes(6).hex(":")


def _address(family: ir.Family, address: int) -> IPv4Address | IPv6Address:
    return IPv4Address(address) if family is ir.Family.IPV4 else IPv6Address(address)


def _address_range(family: ir.Family, bounds: ir.Range) -> str:
    """An address, a prefix where the range is just that, or the range."""
    first, last = _address(family, bounds.low), _address(family, bounds.high)
    if first == last:
        return str(first)
    networks = list(itertools.islice(summarize_address_range(first, last), 2))
    return str(networks[0]) if len(networks) == 1 else f"{first}-{last}"
