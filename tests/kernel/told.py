# SPDX-License-Identifier: GPL-2.0-or-later
"""The events and the counts of knocks that the kernel must come to, from what the reference decides."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass, field, replace

from xdpfw.compiler import ir
from xdpfw.compiler.image import numbered_sets
from xdpfw.compiler.knocks import identity
from xdpfw.kernel import abi
from xdpfw.kernel.maps import KnockCounter
from xdpfw.kernel.ring import EventRecord
from xdpfw.packet.decode import Invalid, Packet, decode
from xdpfw.reference.interpreter import Decision, verdict_of
from xdpfw.reference.knocks import CLOSED, GRANTED, Knocks
from xdpfw.reference.matching import Standing, observe, unmet
from xdpfw.reference.memory import ADDRESS_BITS, Event, EventKind, Instant, Memory

KINDS = {
    EventKind.STEP: abi.EventKind.EVENT_STEP,
    EventKind.RESET: abi.EventKind.EVENT_RESET,
    EventKind.GRANT: abi.EventKind.EVENT_GRANT,
    EventKind.GRANT_END: abi.EventKind.EVENT_GRANT_END,
    EventKind.GRANT_REFUSED: abi.EventKind.EVENT_GRANT_REFUSED,
    EventKind.SPA_FAILURE: abi.EventKind.EVENT_SPA_FAILURE,
}
COUNTS = {
    EventKind.STEP: "steps",
    EventKind.RESET: "resets",
    EventKind.GRANT: "grants",
    EventKind.GRANT_REFUSED: "refused",
    EventKind.GRANT_END: "closes",
}
REASONS = {abi.reason_name(reason): reason for reason in range(abi.Reason.COUNT)}
GRANTS = (EventKind.GRANT, EventKind.GRANT_REFUSED, EventKind.GRANT_END)


@dataclass
class _Limit:
    window: int = 0
    count: int = 0
    suppressed: int = 0


@dataclass
class Told:
    """Takes in decision after decision, in the order of the packets."""

    policy: ir.Policy
    records: list[EventRecord] = field(default_factory=list)
    counts: Tally[tuple[str, str]] = field(default_factory=Tally)  # by knock and member of struct xdpfw_knock_counter
    limits: dict[int, _Limit] = field(default_factory=dict)

    def add(self, frame: bytes, interface: int | None, decision: Decision, memory: Memory, now: Instant) -> None:
        """``memory``: as the packet has left it. A random sample of a rule that logs cannot be told."""
        packet = decode(frame)
        if isinstance(packet, Invalid):
            return
        about = self._about(packet, frame, interface, now)
        for event in decision.events:
            if event.kind is EventKind.SET_ADD:
                self._record(self._joined(event, decision, about))
        for number, rule in enumerate(self.policy.rules):
            if rule.name == decision.acting and rule.log_sample:
                assert rule.log_sample == 1
                verdict = abi.Verdict[_own_verdict(rule, packet, decision).upper()]
                self._record(about._replace(kind=int(abi.EventKind.EVENT_RULE), rule=number, detail=int(verdict)))
        for event in decision.events:
            if event.kind is EventKind.SET_ADD:
                continue
            self._record(self._event(event, packet, about))
            if event.kind in COUNTS:
                self.counts[str(event.knock), COUNTS[event.kind]] += 1
        if decision.reason in (GRANTED, CLOSED):
            self.counts[self._opener(packet, interface, memory, now, decision.reason)] += 1

    def counters(self) -> list[KnockCounter]:
        """By knock, as Generation.knock_counters()."""
        return [
            KnockCounter(**{name: self.counts[knock.name, name] for name in KnockCounter._fields})
            for knock in self.policy.knocks
        ]

    def suppressed(self) -> dict[int, int]:
        """Of each kind, since the last one that was recorded."""
        return {kind: limit.suppressed for kind, limit in self.limits.items() if limit.suppressed}

    def _about(self, packet: Packet, frame: bytes, interface: int | None, now: Instant) -> EventRecord:
        return EventRecord(
            kind=0,
            time_ns=now.boot_ns,
            family=int(packet.family),
            source=packet.src or 0,
            destination=packet.dst or 0,
            protocol=packet.proto or 0,
            sport=packet.sport or 0,
            dport=packet.dport or 0,
            interface=int(abi.Absent.NO_INTERFACE) if interface is None else interface,
            bytes=len(frame),
        )

    def _joined(self, event: Event, decision: Decision, about: EventRecord) -> EventRecord:
        """Test runs have each set in the slot of its number."""
        rules = [rule.name for rule in self.policy.rules]
        names = [each.name for each in numbered_sets(self.policy)]
        return about._replace(
            kind=int(abi.EventKind.EVENT_SET_ADD),
            rule=rules.index(str(decision.acting)),
            detail=names.index(str(event.set)),
            duration_ns=event.duration_ns,
            prefix_bits=ADDRESS_BITS[ir.Family(about.family)],
        )

    def _event(self, event: Event, packet: Packet, about: EventRecord) -> EventRecord:
        knock = next((knock for knock in self.policy.knocks if knock.name == event.knock), None)
        record = about._replace(
            kind=int(KINDS[event.kind]),
            knock=identity(knock.name) if knock else 0,
            step=event.step,
            steps=event.steps,
            duration_ns=event.duration_ns,
            key_number=event.key_number,
            service=event.service,
            detail=REASONS[event.reason] if event.reason else int(event.closes),
        )
        if knock is not None and event.kind in GRANTS:
            bits = knock.scope_v4 if packet.family is ir.Family.IPV4 else knock.scope_v6
            record = record._replace(prefix_bits=bits)
        return record

    def _record(self, record: EventRecord) -> None:
        """So many of a kind in a window of time (bpf/event.h)."""
        limit = self.limits.setdefault(record.kind, _Limit())
        window = record.time_ns >> abi.EventWindow.SHIFT
        if limit.window != window:
            self.limits[record.kind] = limit = replace(limit, window=window, count=0)
        if limit.count >= abi.Limit.EVENTS_PER_SECOND:
            limit.suppressed += 1
            return
        limit.count += 1
        self.records.append(record._replace(suppressed=limit.suppressed))
        limit.suppressed = 0

    def _opener(
        self, packet: Packet, interface: int | None, memory: Memory, now: Instant, reason: str
    ) -> tuple[str, str]:
        """Who is counted for a packet to a port that knocks open: the first that lets it pass, else the first."""
        knocks = Knocks(self.policy.knocks, memory, now)
        observation, standing = observe(packet, interface), Standing(knocks.held(packet))
        guards = [
            knock
            for knock in knocks.guards(packet)
            if knock.unless is None or unmet(knock.unless, packet, observation, standing) is not None
        ]
        if reason == CLOSED:
            return guards[0].name, "dropped"
        return next(knock.name for knock in guards if knocks.is_granted(knock, packet)), "passed"


def _own_verdict(rule: ir.Rule, packet: Packet, decision: Decision) -> ir.Verdict:
    """The rule's, which is not what became of the packet where that is answered with a cookie."""
    if decision.is_exceeded:
        assert rule.limit is not None
        return rule.limit.exceed
    return verdict_of(rule.action, packet)
