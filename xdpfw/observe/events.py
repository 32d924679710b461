# SPDX-License-Identifier: GPL-2.0-or-later
"""The event stream: what the program and user space recorded, and grants that ran out, in order of time."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import heapq
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from typing import Any, Final, Self

from xdpfw.kernel import abi
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.ring import EventRecord, Ring
from xdpfw.kernel.state import State, boot_ns
from xdpfw.observe.expiry import WHOLE, Expired, Expiry, Holder
from xdpfw.observe.metadata import KnockMeta, service_name
from xdpfw.observe.names import FULL_BITS, Names, address_text, prefix_of, prefix_text

NS_PER_US: Final = 1_000
US_PER_S: Final = 1_000_000
SETTLED_NS: Final = 50_000_000
"""An event is recorded within this time of its own: what is older can be put in order for good."""

_PROTOCOLS: Final = {
    int(IPPROTO_ICMP): "icmp",
    int(IPPROTO_TCP): "tcp",
    int(IPPROTO_UDP): "udp",
    int(IPPROTO_ICMPV6): "icmpv6",
}
_SPA_REASON: Final = "knock.spa_"


class EventKind(enum.StrEnum):
    KNOCK_STEP = "knock-step"
    KNOCK_RESET = "knock-reset"
    GRANT = "grant"
    GRANT_END = "grant-end"
    GRANT_REFUSED = "grant-refused"
    SPA_FAILURE = "spa-failure"
    RULE = "rule"
    BAN = "ban"
    UNBAN = "unban"
    SET_ADD = "set-add"
    SET_DELETE = "set-delete"
    LOST = "lost"


_KINDS: Final = {
    int(abi.EventKind.EVENT_STEP): EventKind.KNOCK_STEP,
    int(abi.EventKind.EVENT_RESET): EventKind.KNOCK_RESET,
    int(abi.EventKind.EVENT_GRANT): EventKind.GRANT,
    int(abi.EventKind.EVENT_GRANT_END): EventKind.GRANT_END,
    int(abi.EventKind.EVENT_GRANT_REFUSED): EventKind.GRANT_REFUSED,
    int(abi.EventKind.EVENT_SPA_FAILURE): EventKind.SPA_FAILURE,
    int(abi.EventKind.EVENT_RULE): EventKind.RULE,
    int(abi.EventKind.EVENT_SET_ADD): EventKind.SET_ADD,
    int(abi.EventKind.EVENT_SET_DELETE): EventKind.SET_DELETE,
}
_OF_BANS: Final = {EventKind.SET_ADD: EventKind.BAN, EventKind.SET_DELETE: EventKind.UNBAN}
_GRANTS: Final = (EventKind.GRANT, EventKind.GRANT_END, EventKind.GRANT_REFUSED)


class EndCause(enum.StrEnum):
    EXPIRED = "expired"
    CLOSED = "closed"
    REVOKED = "revoked"
    KEY_REMOVED = "key-removed"
    KNOCK_REMOVED = "knock-removed"


_CAUSES: Final = {
    int(abi.GrantEnd.CLOSED): EndCause.CLOSED,
    int(abi.GrantEnd.REVOKED): EndCause.REVOKED,
    int(abi.GrantEnd.KEY_REMOVED): EndCause.KEY_REMOVED,
    int(abi.GrantEnd.KNOCK_REMOVED): EndCause.KNOCK_REMOVED,
}


@dataclass(frozen=True, slots=True)
class Event:
    """Times are ns since 1970; None: events of this kind have no such member, or what it names is gone."""

    time: int
    event: EventKind
    knock: str | None = None
    source: str | None = None  # of grants, the prefix that they are for
    step: int | None = None
    steps: int | None = None
    closes: bool | None = None  # the steps are those that end the grant
    services: tuple[str, ...] | None = None
    service: int | None = None  # that an SPA message asked for, in the knock's order
    until: int | None = None
    cause: EndCause | None = None
    key: str | None = None
    key_id: int | None = None
    failure: str | None = None
    set: str | None = None
    rule: str | None = None  # that logs the packet, or puts its source into a set
    verdict: str | None = None
    interface: str | None = None
    destination: str | None = None
    proto: str | int | None = None
    sport: int | None = None
    dport: int | None = None
    bytes: int | None = None
    suppressed: int | None = None
    lost: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The shape that docs/events.md has. ``knock`` and ``rule`` are null where their names are gone."""
        members = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        always = _ALWAYS.get(self.event, "knock")
        found = {name: value for name, value in members.items() if value is not None or name == always}
        if self.event is EventKind.SPA_FAILURE and self.knock is None:
            del found["knock"]
        for name in ("time", "until"):
            if name in found:
                found[name] = rfc3339(found[name])
        return found


_ALWAYS: Final = {
    EventKind.RULE: "rule",
    EventKind.BAN: "set",
    EventKind.UNBAN: "set",
    EventKind.SET_ADD: "set",
    EventKind.SET_DELETE: "set",
    EventKind.LOST: "lost",
}
"""The member that is there even where it is null; of others, it is ``knock``."""


def rfc3339(wall_ns: int) -> str:
    """``2026-11-21T15:26:26.123456Z``: UTC, in whole microseconds."""
    seconds, microseconds = divmod(wall_ns // NS_PER_US, US_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{microseconds:06}Z"


class EventStream:
    """Both rings of an instance as one stream, from the oldest event that is still there.

    Usable with ``with``. Readers know nothing of each other, and take nothing away.
    """

    def __init__(self, pins: Pins, *, since_ns: int = 0) -> None:
        """``since_ns``: of CLOCK_BOOTTIME; what was before is left out.

        Raises FileNotFoundError where the instance has no state, KernelError.
        """
        directory = pins.state
        self._pin = directory / "events"
        self._since_ns = since_ns
        with contextlib.ExitStack() as opened:
            self._inode = _inode(self._pin)
            self._state = opened.enter_context(State.open(directory))
            self._rings = [opened.enter_context(ring) for ring in (self._state.kernel_ring(), self._state.notes_ring())]
            self._opened = opened.pop_all()
        self._places = [ring.oldest for ring in self._rings]
        self._names = Names(pins)
        self._expiry = Expiry()
        self._waiting: list[tuple[int, int, EventRecord]] = []
        self._serial = 0
        self._seeded = False
        self._offset_ns = 0
        self.suppressed: dict[EventKind, int] = {}
        self.lost = 0

    def take(self, *, settled: bool = False) -> list[Event]:
        """What happened since the last call, in order of time.

        ``settled``: only what is so old that nothing before it can come any more; the rest is for the next call.
        """
        self._names.refresh()
        lost = sum(self._read(index, ring) for index, ring in enumerate(self._rings))
        now_ns = boot_ns()
        self._offset_ns = time.time_ns() - now_ns
        horizon_ns = now_ns - SETTLED_NS if settled else now_ns
        events = [self._lost(lost, now_ns)] if lost else []
        while (upcoming := self._next(horizon_ns, settled)) is not None:
            event_ns, event = upcoming
            if event_ns >= self._since_ns:
                events.append(event)
        if settled and not self._seeded:
            self._seed()
        return events

    @property
    def is_gone(self) -> bool:
        """True once the firewall was detached: these maps are not the instance's any more."""
        try:
            return _inode(self._pin) != self._inode
        except FileNotFoundError:
            return True

    def not_told(self) -> dict[EventKind, int]:
        """Events that were only counted, and that no event has told of yet."""
        return {_KINDS[kind]: count for kind, count in self._state.suppressed().items() if count}

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, index: int, ring: Ring) -> int:
        """Puts new records in the queue, and returns how many were lost."""
        batch = ring.read(self._places[index])
        self._places[index] = batch.next
        for record in batch.records:
            if record.kind not in _KINDS:
                continue  # of a later xdpfw
            heapq.heappush(self._waiting, (record.time_ns, self._serial, record))
            self._serial += 1
        return batch.lost

    def _lost(self, count: int, now_ns: int) -> Event:
        self.lost += count
        at_ns = min(self._waiting[0][0], now_ns) if self._waiting else now_ns
        return Event(self._wall(at_ns), EventKind.LOST, lost=count)

    def _next(self, horizon_ns: int, settled: bool) -> tuple[int, Event] | None:
        """The earliest of what was recorded and what runs out. A grant is over at its end, so that comes first."""
        ends_ns = self._expiry.next()
        recorded_ns = self._waiting[0][0] if self._waiting else None
        if recorded_ns is not None and settled and recorded_ns > horizon_ns:
            recorded_ns = None
        if ends_ns is not None and ends_ns <= horizon_ns and (recorded_ns is None or ends_ns <= recorded_ns):
            return ends_ns, self._expired(self._expiry.take())
        if recorded_ns is None:
            return None
        record = heapq.heappop(self._waiting)[2]
        return recorded_ns, self._event(record)

    def _seed(self) -> None:
        """Grants from before the oldest event run out, too; the map has them."""
        self._seeded = True
        now_ns = boot_ns()
        for grant in self._state.list_grants():
            holder = Holder(grant.family, grant.source, grant.prefix_bits, grant.knock)
            service = service_name(grant.protocol, grant.port) if grant.protocol else WHOLE
            if grant.is_live(now_ns) and not self._expiry.knows(holder, service):
                self._expiry.grant(holder, [service], grant.until_ns)

    def _expired(self, expired: Expired) -> Event:
        holder = expired.holder
        knock = self._names.knock(holder.knock)
        return Event(
            self._wall(expired.at_ns),
            EventKind.GRANT_END,
            knock=knock.name if knock else None,
            source=address_text(holder.family, holder.source, holder.prefix_bits),
            services=tuple(service for service in expired.services if service != WHOLE),
            cause=EndCause.EXPIRED,
        )

    def _event(self, record: EventRecord) -> Event:
        kind = _KINDS[record.kind]
        if record.suppressed:
            self.suppressed[kind] = self.suppressed.get(kind, 0) + record.suppressed
        knock = self._names.knock(record.knock, record.generation) if record.knock else None
        members: dict[str, Any] = {"suppressed": record.suppressed or None}
        if kind is EventKind.RULE:
            members["rule"] = self._names.rule(record.rule, record.generation)
            members["verdict"] = abi.Verdict(record.detail).name.lower()
        elif kind in _OF_BANS:
            kind = _OF_BANS[kind] if record.detail == abi.SetLimit.BANS_SLOT else kind
            members["set"] = self._names.dynamic_set(record.detail, record.generation)
            if record.bytes:
                members["rule"] = self._names.rule(record.rule, record.generation)
            if record.duration_ns:
                members["until"] = self._wall(record.time_ns + record.duration_ns)
        else:
            members["knock"] = knock and knock.name
        if kind in (EventKind.KNOCK_STEP, EventKind.KNOCK_RESET):
            members |= {"step": record.step, "steps": record.steps, "closes": bool(record.detail) or None}
        if kind is EventKind.SPA_FAILURE:
            members["failure"] = abi.reason_name(record.detail).removeprefix(_SPA_REASON)
        if kind in _GRANTS or kind is EventKind.SPA_FAILURE:
            members |= {"key_id": record.key_number or None, "key": _key_name(knock, record.key_number)}
            members["service"] = record.service or None
        if kind in _GRANTS:
            members |= self._grant(kind, record, knock)
        if record.bytes:  # else user space noted it, and there is no packet
            members |= self._packet(record)
        return Event(self._wall(record.time_ns), kind, source=_source(record), **members)

    def _grant(self, kind: EventKind, record: EventRecord, knock: KnockMeta | None) -> dict[str, Any]:
        """What became of a grant; takes note of it."""
        bits = record.prefix_bits or FULL_BITS[record.family]
        holder = Holder(record.family, prefix_of(record.family, record.source, bits), bits, record.knock)
        services = _services(record, knock)
        if kind is EventKind.GRANT:
            until_ns = self._expiry.grant(holder, [*(services or ()), WHOLE], record.time_ns + record.duration_ns)
            return {"services": services, "until": self._wall(until_ns)}
        if kind is EventKind.GRANT_REFUSED:
            return {"services": services}
        if not record.service and not _port_of_note(record):
            # A message may have asked for a part of what the knock opens.
            services = self._expiry.end(holder) or services
        elif services:
            self._expiry.end(holder, services[0])
        return {"services": services, "cause": _CAUSES[record.detail]}

    def _packet(self, record: EventRecord) -> dict[str, Any]:
        has_ports = record.protocol in (IPPROTO_TCP, IPPROTO_UDP)
        return {
            "interface": self._names.interface(record.interface, record.generation),
            "destination": address_text(record.family, record.destination) if record.family else None,
            "proto": _PROTOCOLS.get(record.protocol, record.protocol) if record.family else None,
            "sport": record.sport if has_ports else None,
            "dport": record.dport if has_ports else None,
            "bytes": record.bytes,
        }

    def _wall(self, time_ns: int) -> int:
        return time_ns + self._offset_ns


def _inode(path: Path) -> int:
    return os.stat(path).st_ino


def _source(record: EventRecord) -> str | None:
    if not record.family:
        return None
    # Only of sets' entries is it always a prefix; the others leave its length out where it is a single address.
    text = prefix_text if _KINDS[record.kind] in _OF_BANS else address_text
    return text(record.family, record.source, record.prefix_bits)


def _key_name(knock: KnockMeta | None, number: int) -> str | None:
    return next((key.name for key in knock.keys if key.number == number), None) if knock else None


def _port_of_note(record: EventRecord) -> str | None:
    """What user space has ended, unless it is all; it knows the port itself."""
    return service_name(record.protocol, record.dport) if record.protocol and not record.bytes else None


def _services(record: EventRecord, knock: KnockMeta | None) -> tuple[str, ...] | None:
    """The ports that a grant is for; None where nobody knows any more what the knock opened."""
    if port := _port_of_note(record):
        return (port,)
    if knock is None:
        return None
    return knock.services[record.service - 1 : record.service] if record.service else knock.services
