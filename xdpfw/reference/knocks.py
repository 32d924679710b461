# SPDX-License-Identifier: GPL-2.0-or-later
"""Knocks: which packets are steps of one, who gets a grant, and what becomes of the ports that knocks open.

Every packet of an IP source goes through :meth:`Knocks.decide`, and through :meth:`Knocks.reset` if it is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family, Fragment
from xdpfw.packet.decode import PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Packet
from xdpfw.reference import spa
from xdpfw.reference.matching import Observation, Standing, unmet
from xdpfw.reference.memory import (
    THE_KNOCK,
    Course,
    Event,
    EventKind,
    Grant,
    Instant,
    Memory,
    Progress,
    Source,
    grant_key,
)

STEP: Final = "knock.step"
GRANTED: Final = "knock.granted"
CLOSED: Final = "knock.closed"
ACCEPTED: Final = "knock.spa_accepted"

SYN: Final = 0x02
NOT_BARE: Final = 0x01 | 0x04 | 0x08 | 0x10 | 0x20  # FIN, RST, PSH, ACK, URG; ECN's flags (RFC 3168) do not matter
ICMP_IN_IPV6: Final = {8: 128, 0: 129}  # echo request and reply
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000


class Knocks:
    """The knocks of a policy at one moment. ``events`` is what one packet has given an operator to read."""

    def __init__(self, knocks: Sequence[ir.Knock], memory: Memory, now: Instant) -> None:
        self.knocks = knocks
        self.memory = memory
        self.now = now
        self.events: list[Event] = []

    def held(self, packet: Packet) -> frozenset[str]:
        """The knocks that the packet's source holds a grant of."""
        if packet.src is None:
            return frozenset()
        source = Source.of(packet)
        return frozenset(knock.name for knock in self.knocks if self._holds(source, knock, THE_KNOCK))

    def decide(self, packet: Packet, observation: Observation) -> str | None:
        """The reason, where knocks decide on the packet. None: the rules do."""
        if packet.src is None:
            return None
        return self._step(packet) or self._message(packet) or self._port(packet, observation)

    def reset(self, packet: Packet) -> None:
        """Ends all that the packet's source has begun: the packet was dropped, and is no step that is right."""
        if packet.src is None or is_for_many(packet):
            return
        for _, course in self.courses():
            self._give_up(Source.of(packet), course)

    def courses(self) -> Iterator[tuple[ir.Knock, Course]]:
        """All sequences that can be gone through now, in the order in which a packet is noted for them."""
        for knock in self.knocks:
            if isinstance(knock.way, ir.Rotation):
                for window in windows(knock.way, self.now):
                    yield knock, Course(knock.name, False, rotated(knock.way, window), window)
        for knock in self.knocks:
            if isinstance(knock.way, ir.Sequence):
                yield knock, Course(knock.name, False, knock.way)
            if knock.close is not None:
                yield knock, Course(knock.name, True, knock.close)

    def progress(self, source: Source, course: Course) -> Progress | None:
        """How far the source has come, unless it has taken too long, counted in whole milliseconds of boot time."""
        progress = self.memory.progress.get((source, course))
        if progress is None:
            return None
        now_ms = self.now.boot_ns // NS_PER_MS
        if (now_ms - progress.started_ns // NS_PER_MS) * NS_PER_MS > course.sequence.within_ns:
            return None
        if (now_ms - progress.last_ns // NS_PER_MS) * NS_PER_MS > course.sequence.step_ns:
            return None
        return progress

    def _step(self, packet: Packet) -> str | None:
        courses = list(self.courses())
        if not any(positions(packet, knock, course) for knock, course in courses):
            return None
        if is_for_many(packet):
            return STEP
        if has_payload(packet):
            self.reset(packet)
            return STEP
        for knock, course in courses:
            self._note(Source.of(packet), knock, course, positions(packet, knock, course))
        return STEP

    def _note(self, source: Source, knock: ir.Knock, course: Course, at: list[int]) -> None:
        """Takes a step packet to be step ``at`` (from 0) of a sequence; it may be several, or none."""
        progress = self.progress(source, course)
        done = 0 if progress is None else progress.done
        if done > 0 and done - 1 in at:
            return
        if progress is not None and done in at:
            self._advance(source, knock, course, Progress(done + 1, progress.started_ns, self.now.boot_ns))
        elif 0 in at:
            self._advance(source, knock, course, Progress(1, self.now.boot_ns, self.now.boot_ns))
        else:
            self._give_up(source, course)

    def _advance(self, source: Source, knock: ir.Knock, course: Course, progress: Progress) -> None:
        steps = len(course.sequence.steps)
        self.events.append(Event(EventKind.STEP, knock.name, progress.done, steps, course.closes))
        if progress.done < steps:
            self.memory.progress[source, course] = progress
            return
        self.memory.progress.pop((source, course), None)
        if course.closes:
            self._close(source, knock)
        else:
            self._grant(source, knock, knock.for_ns)

    def _give_up(self, source: Source, course: Course) -> None:
        progress = self.progress(source, course)
        self.memory.progress.pop((source, course), None)
        if progress is not None:
            steps = len(course.sequence.steps)
            self.events.append(Event(EventKind.RESET, course.knock, progress.done, steps, course.closes))

    def _message(self, packet: Packet) -> str | None:
        """SPA. Nothing but the right tag moves the time of a key on."""
        listening = self._listening(packet)
        if not listening:
            return None
        message = spa.read(packet)
        if message is None:
            return self._refuse("malformed")
        owner = self._owner(packet, message)
        if owner is None:
            return self._refuse("unknown_key", key_number=message.key_number)
        knock, way, key = owner
        last = self.memory.spa_last_wall_ns.get(key.key, 0)
        failure = spa.failure(message, packet, key, way.window_ns, last, self.now.wall_ns)
        if failure is not None:
            return self._refuse(failure, knock, message.key_number)
        self.memory.spa_last_wall_ns[key.key] = message.time_ns
        if message.service > len(knock.opens):
            return self._refuse("service", knock, message.key_number, message.service)
        source = Source.of(packet)
        if message.closes:
            self._close(source, knock, key, message.service)
            return ACCEPTED
        duration_ns = min(message.ttl_s * NS_PER_S or knock.for_ns, knock.for_ns)
        if not self._grant(source, knock, duration_ns, key, message.service):
            return self._refuse("refused", knock, message.key_number, message.service)
        return ACCEPTED

    def _listening(self, packet: Packet) -> list[tuple[ir.Knock, ir.Spa]]:
        """The knocks that take the packet for a message, if it is to the port and destination of any."""
        if packet.proto != PROTO_UDP or packet.dport is None:
            return []
        return [
            (knock, knock.way)
            for knock in self.knocks
            if isinstance(knock.way, ir.Spa) and knock.way.port == packet.dport and listens(knock, packet)
        ]

    def _owner(self, packet: Packet, message: spa.Message) -> tuple[ir.Knock, ir.Spa, ir.SpaKey] | None:
        """The knock and the key that the number in a message stands for."""
        for knock, way in self._listening(packet):
            for key in way.keys:
                if key.number == message.key_number:
                    return knock, way, key
        return None

    def addressed(self, packet: Packet) -> list[ir.Knock]:
        """The knock that an SPA message is for; all that it may be for, where it names no key."""
        message = spa.read(packet)
        owner = self._owner(packet, message) if message else None
        return [owner[0]] if owner else [knock for knock, _ in self._listening(packet)]

    def _refuse(self, why: str, knock: ir.Knock | None = None, key_number: int = 0, service: int = 0) -> str:
        reason = f"knock.spa_{why}"
        name = knock.name if knock else None
        self.events.append(Event(EventKind.SPA_FAILURE, name, reason=reason, key_number=key_number, service=service))
        return reason

    def _grant(
        self, source: Source, knock: ir.Knock, duration_ns: int, key: ir.SpaKey | None = None, service: int = 0
    ) -> bool:
        """Grants all that the knock opens, or its ``service``-th port; and the knock itself. False: no room for it."""
        grant = Grant(self.now.boot_ns + duration_ns, key)
        ports = knock.opens[service - 1 : service] if service else knock.opens
        keys = [grant_key(source, knock, port) for port in (*ports, THE_KNOCK)]
        new = [key for key in keys if key not in self.memory.grants]
        granted = all(self.memory.put(key, grant, self.now) for key in keys)
        if not granted:
            for each in new:
                self.memory.grants.pop(each, None)
        kind = EventKind.GRANT if granted else EventKind.GRANT_REFUSED
        self.events.append(
            Event(
                kind,
                knock.name,
                duration_ns=duration_ns,
                key_number=key.number if key else 0,
                service=service,
            )
        )
        return granted

    def _close(self, source: Source, knock: ir.Knock, key: ir.SpaKey | None = None, service: int = 0) -> None:
        """Ends the source's grant; or of its ports the ``service``-th alone, and the knock itself with the last."""
        ports = knock.opens[service - 1 : service] if service else (*knock.opens, THE_KNOCK)
        ended = False
        for port in ports:
            ended |= self._holds(source, knock, port)
            self.memory.grants.pop(grant_key(source, knock, port), None)
        if not any(self._holds(source, knock, port) for port in knock.opens):
            self.memory.grants.pop(grant_key(source, knock, THE_KNOCK), None)
        if ended:
            number = key.number if key else 0
            self.events.append(Event(EventKind.GRANT_END, knock.name, key_number=number, service=service))

    def _port(self, packet: Packet, observation: Observation) -> str | None:
        """A port that knocks open: shut to all who have no grant of one of them."""
        guards = self.guards(packet)
        standing = Standing(self.held(packet))
        guards = [
            knock
            for knock in guards
            if knock.unless is None or unmet(knock.unless, packet, observation, standing) is not None
        ]
        if not guards:
            return None
        return GRANTED if any(self.is_granted(knock, packet) for knock in guards) else CLOSED

    def guards(self, packet: Packet) -> list[ir.Knock]:
        """The knocks that open the port that the packet goes to, whether or not their ``except`` holds."""
        if packet.proto not in (PROTO_TCP, PROTO_UDP) or packet.dport is None:
            return []
        port = ir.Service(packet.proto, packet.dport)
        return [knock for knock in self.knocks if port in knock.opens and listens(knock, packet)]

    def is_granted(self, knock: ir.Knock, packet: Packet) -> bool:
        """Whether the packet's source holds a grant of the knock for the port that it goes to."""
        assert packet.proto is not None
        assert packet.dport is not None
        return self._holds(Source.of(packet), knock, ir.Service(packet.proto, packet.dport))

    def _holds(self, source: Source, knock: ir.Knock, service: ir.Service) -> bool:
        return self.memory.holds(source, knock, service, self.now)


def listens(knock: ir.Knock, packet: Packet) -> bool:
    """Whether the packet goes to a destination of the knock."""
    if packet.dst is None:
        return False
    return knock.to is None or knock.to.contains(packet.family, packet.dst)


def positions(packet: Packet, knock: ir.Knock, course: Course) -> list[int]:
    """Which steps of a sequence, from 0, the packet is. A bare SYN that has payload is found here, too."""
    if packet.fragment is not Fragment.NONE or not listens(knock, packet):
        return []
    return [number for number, step in enumerate(course.sequence.steps) if _is(step, packet)]


def _is(step: ir.Step, packet: Packet) -> bool:
    if step.protocol == PROTO_TCP:
        is_bare = packet.tcp_flags is not None and packet.tcp_flags & SYN and not packet.tcp_flags & NOT_BARE
        return bool(packet.proto == PROTO_TCP and packet.dport == step.number and is_bare)
    if step.protocol == PROTO_UDP:
        return packet.proto == PROTO_UDP and packet.dport == step.number
    if packet.icmp_type is None or step.code not in (None, packet.icmp_code):
        return False
    if step.protocol == PROTO_ICMPV6:
        return packet.family is Family.IPV6 and packet.icmp_type == step.number
    assert step.protocol == PROTO_ICMP
    if packet.family is Family.IPV6:
        return packet.icmp_type == ICMP_IN_IPV6.get(step.number)
    return packet.icmp_type == step.number


def has_payload(packet: Packet) -> bool:
    """A SYN that brings data: no step that is right."""
    return packet.proto == PROTO_TCP and bool(packet.payload)


def is_for_many(packet: Packet) -> bool:
    """To an IP multicast group or to all: what a host announces there is no knock, and breaks none."""
    assert packet.dst is not None
    if packet.family is Family.IPV4:
        return packet.dst >> 28 == 0xE or packet.dst == 0xFFFFFFFF
    return packet.dst >> 120 == 0xFF


def windows(rotation: ir.Rotation, now: Instant) -> tuple[int, int, int]:
    """The window before the present one, the present one, and the next."""
    present = now.wall_ns // rotation.every_ns
    return present - 1, present, present + 1


def rotated(rotation: ir.Rotation, window: int) -> ir.Sequence:
    """The sequence of one window of a rotation."""
    digest = hashlib.blake2s((window % (1 << 64)).to_bytes(8), key=rotation.secret).digest()
    low, high = rotation.ports
    steps = []
    for number in range(rotation.length):
        word = int.from_bytes(digest[2 * number : 2 * number + 2])
        steps.append(ir.Step((PROTO_TCP, PROTO_UDP)[number % 2], low + word % (high - low + 1)))
    return ir.Sequence(tuple(steps), rotation.within_ns, rotation.step_ns)
