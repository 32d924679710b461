# SPDX-License-Identifier: GPL-2.0-or-later
"""What outlives a packet: half-done sequences, grants, the last message of each SPA key. And the time."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family
from xdpfw.packet.decode import Packet

if TYPE_CHECKING:
    from xdpfw.reference.fragments import Datagram, First
    from xdpfw.reference.limits import Bucket

MAX_GRANTS: Final = 65536
MAX_UNSIGNED_GRANTS: Final = 49152
SWEEP_INTERVAL_NS: Final = 1_000_000_000
ADDRESS_BITS: Final = {Family.IPV4: 32, Family.IPV6: 128}

Service = ir.Service
THE_KNOCK: Final = Service(0, 0)
"""Stands beside the ports in a grant: the knock itself, for rules that ask who has knocked."""


class Instant(NamedTuple):
    """A time on both clocks.

    ``boot_ns`` runs on in suspend and never goes back; ``wall_ns`` is since 1970, without leap seconds.
    """

    boot_ns: int
    wall_ns: int

    def after(self, ns: int) -> Instant:
        return Instant(self.boot_ns + ns, self.wall_ns + ns)


START: Final = Instant(boot_ns=3600 * 1_000_000_000, wall_ns=1_767_225_600 * 1_000_000_000)
"""When virtual time begins: an hour after boot, at 2026-01-01T00:00:00Z."""


class Source(NamedTuple):
    """``address``: host-order integer of 32 or 128 bits."""

    family: Family
    address: int

    @classmethod
    def of(cls, packet: Packet) -> Source:
        """Raises ValueError for a packet that is not IP."""
        if packet.src is None:
            raise ValueError("only IP packets have a source")
        return cls(packet.family, packet.src)


class Course(NamedTuple):
    """A sequence that a source may be on: that which opens a knock, or that which closes it.

    ``window`` tells those of a rotation apart. A sequence that changes is another one.
    """

    knock: str
    closes: bool
    sequence: ir.Sequence
    window: int | None = None


class Progress(NamedTuple):
    """How far a source has come: ``done`` steps, the first at ``started_ns``, the last of them at ``last_ns``."""

    done: int
    started_ns: int
    last_ns: int


class GrantKey(NamedTuple):
    """``prefix``: the source's address, all but its first ``prefix_bits`` bits 0."""

    family: Family
    prefix: int
    prefix_bits: int
    knock: str
    service: Service


class Grant(NamedTuple):
    """Holds before ``until_ns``, not at it. ``key`` is the SPA key that earned it, if one did."""

    until_ns: int
    key: ir.SpaKey | None = None


class FlowState(enum.Enum):
    SYN_SENT = enum.auto()  # TCP: this side has sent a SYN, and nothing came back
    ANSWERED = enum.auto()  # TCP: this side's SYN was answered, and that answer is not acknowledged
    HALF_OPEN = enum.auto()  # TCP: this side has answered a SYN, and its answer is not acknowledged
    ESTABLISHED = enum.auto()
    CLOSING = enum.auto()  # TCP: a FIN was there
    CLOSED = enum.auto()  # TCP: a RST was there
    UNREPLIED = enum.auto()  # others: sent by this side, and nothing came since
    REPLIED = enum.auto()  # others: both sides have sent


class FlowKey(NamedTuple):
    """``remote`` is the source of the packets that come in.

    Of an ICMP echo, ``local_port`` is its id, ``remote_port`` the type of the messages that come in.
    """

    family: Family
    proto: int
    remote: int
    remote_port: int
    local: int
    local_port: int


class Flow(NamedTuple):
    """Lasts before ``until_ns``, not at it.

    ``expected_ack``: of HALF_OPEN and ANSWERED, the acknowledgement that confirms it.
    """

    state: FlowState
    until_ns: int
    expected_ack: int = 0


class MemberKey(NamedTuple):
    """``prefix``: an address, all but its first ``prefix_bits`` bits 0."""

    family: Family
    prefix: int
    prefix_bits: int


class Member(NamedTuple):
    """A member of a dynamic set before ``until_ns``, not at it; None: for good."""

    until_ns: int | None
    added_ns: int

    def is_over(self, now: Instant) -> bool:
        return self.until_ns is not None and self.until_ns <= now.boot_ns


class EventKind(enum.StrEnum):
    STEP = "step"
    RESET = "reset"
    GRANT = "grant"
    GRANT_END = "grant_end"
    GRANT_REFUSED = "grant_refused"
    SPA_FAILURE = "spa_failure"
    SET_ADD = "set_add"


@dataclass(frozen=True, slots=True)
class Event:
    """What an operator would read of a packet.

    ``step``: reached so far, or, of a reset, given up; ``closes``: of the sequence that ends the grant. ``knock`` is
    None where an SPA message names no key. ``service`` is what a message asks for, once its tag was right.
    """

    kind: EventKind
    knock: str | None
    step: int = 0
    steps: int = 0
    closes: bool = False
    duration_ns: int = 0  # of a grant
    reason: str | None = None  # of an SPA failure: as in Decision.reason
    key_number: int = 0
    service: int = 0  # 0: all
    set: str | None = None  # a dynamic set that the source was put into, by the rule that decided


@dataclass(slots=True)
class Memory:
    """State of one firewall.

    ``grant_capacity``: how many entries there is room for, expired ones included; ``unsigned_capacity``: how many of
    those that no SPA key has earned.
    """

    grant_capacity: int = MAX_GRANTS
    unsigned_capacity: int = MAX_UNSIGNED_GRANTS
    progress: dict[tuple[Source, Course], Progress] = field(default_factory=dict)
    grants: dict[GrantKey, Grant] = field(default_factory=dict)
    spa_last_wall_ns: dict[bytes, int] = field(default_factory=dict)  # by key; initially 0
    swept_ns: int = 0
    flows: dict[FlowKey, Flow] = field(default_factory=dict)
    full_at: dict[Bucket, int] = field(default_factory=dict)
    fragments: dict[Datagram, First] = field(default_factory=dict)
    members: dict[str, dict[MemberKey, Member]] = field(default_factory=dict)  # by dynamic set
    sets_refused: dict[str, int] = field(default_factory=dict)  # how many members there was no room for
    sweep_sets_from_ns: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Memory:
        return Memory(
            self.grant_capacity,
            self.unsigned_capacity,
            dict(self.progress),
            dict(self.grants),
            dict(self.spa_last_wall_ns),
            self.swept_ns,
            dict(self.flows),
            dict(self.full_at),
            dict(self.fragments),
            {name: dict(members) for name, members in self.members.items()},
            dict(self.sets_refused),
            dict(self.sweep_sets_from_ns),
        )

    def holds(self, source: Source, knock: ir.Knock, service: Service, now: Instant) -> bool:
        """Whether the source holds a live grant of a knock for this port, or for THE_KNOCK."""
        grant = self.grants.get(grant_key(source, knock, service))
        return grant is not None and now.boot_ns < grant.until_ns

    def put(self, key: GrantKey, grant: Grant, now: Instant) -> bool:
        """Grants, or has a grant last longer, never shorter. False where there is no room."""
        held = self.grants.get(key)
        if held is None and not self._has_room(grant):
            self._sweep(now)
            if not self._has_room(grant):
                return False
        if held is None or held.until_ns < grant.until_ns:
            self.grants[key] = grant
        return True

    def _has_room(self, grant: Grant) -> bool:
        """Grants that no key has signed must leave some for those that are."""
        unsigned = sum(each.key is None for each in self.grants.values())
        return len(self.grants) < self.grant_capacity and (grant.key is not None or unsigned < self.unsigned_capacity)

    def _sweep(self, now: Instant) -> None:
        """Makes room, at most once a second."""
        if self.swept_ns and now.boot_ns - self.swept_ns < SWEEP_INTERVAL_NS:
            return
        self.swept_ns = now.boot_ns
        for key in [key for key, grant in self.grants.items() if grant.until_ns <= now.boot_ns]:
            del self.grants[key]


def grant_key(source: Source, knock: ir.Knock, service: Service) -> GrantKey:
    bits = knock.scope_v4 if source.family is Family.IPV4 else knock.scope_v6
    rest = ADDRESS_BITS[source.family] - bits
    return GrantKey(source.family, source.address >> rest << rest, bits, knock.name, service)
