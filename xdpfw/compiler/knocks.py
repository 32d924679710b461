# SPDX-License-Identifier: GPL-2.0-or-later
"""Knocks -> rules that the classifier finds like any other, and the tables that these rules' actions go by.

The rules of knocks come before the policy's. So what is a step, an SPA message or a port that a knock opens is found
by the one look-up that every packet has, with ``to`` and ``except``, and costs other packets next to nothing.

Rules of rotations are found as rules that only count are: beside the rule that decides, as most of their packets are
no steps at the time.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from xdpfw.compiler import ir, ranges
from xdpfw.compiler.atoms import asked_knocks
from xdpfw.compiler.blake2s import key_state
from xdpfw.compiler.ir import AddressRanges, Fragment, IcmpMessage, Match, Range, TcpFlags
from xdpfw.errors import CapacityError
from xdpfw.kernel import abi
from xdpfw.kernel.abi import ActionKind, Limit
from xdpfw.knock.keys import fingerprint
from xdpfw.knock.steps import ICMP_TO_ICMPV6
from xdpfw.policy.names import ICMP, ICMPV6, PROTOCOLS, TCP

UDP: Final = PROTOCOLS["udp"]

NS_PER_MS: Final = 1_000_000
TAG_BYTES: Final = 16
ROTATION_BYTES: Final = 32

FIN, SYN, RST, PSH, ACK, URG = (1 << bit for bit in range(6))
BARE_SYN: Final = TcpFlags(set=SYN, clear=FIN | RST | PSH | ACK | URG)
"""ECE and CWR say no more than that the sender knows ECN (RFC 3168, section 6.1.1)."""

WHOLE: Final = (Range(Fragment.NONE, Fragment.NONE),)
_EVERYWHERE: Final = AddressRanges((Range(0, (1 << 32) - 1),), (Range(0, (1 << 128) - 1),))


def identity(text: str) -> int:
    """What a knock or a sequence is known by while numbers change: 32 bits of a digest."""
    return int.from_bytes(hashlib.blake2s(text.encode()).digest()[:4], "little")


@dataclass(frozen=True, slots=True)
class KnockTables:
    """``rules`` come before the policy's, and ``actions`` are theirs. The others are arrays of the structs in abi.h.

    ``fingerprints``: of the SPA key of each element of ``spa_keys``, None where there is no key of that number.
    """

    rules: tuple[ir.Rule, ...] = ()
    actions: tuple[abi.Value, ...] = ()
    knocks: bytes = b""
    sequences: bytes = b""
    tokens: bytes = b""
    guards: bytes = b""
    rotations: bytes = b""
    spa_ports: bytes = b""
    spa_keys: bytes = b""
    fingerprints: tuple[int | None, ...] = ()
    config: dict[str, abi.Value] = field(default_factory=dict)


def compile_knocks(policy: ir.Policy) -> KnockTables:
    """Raises CapacityError where there are too many of something."""
    if not policy.knocks:
        return KnockTables()
    return _Compiler(policy).tables()


class _Sequence(NamedTuple):
    knock: int
    steps: tuple[ir.Step, ...]
    length: int
    within_ns: int
    step_ns: int
    closes: bool
    identity: int


class _Cell(NamedTuple):
    """Messages that all of a policy's steps either match or not."""

    protocol: int  # TCP, UDP, ICMP (in IPv4) or ICMPv6 (in IPv6)
    number: int
    code: Range


class _Use(NamedTuple):
    """A knock's part in something that goes by destination."""

    to: AddressRanges | None
    what: int


@dataclass(slots=True)
class _Compiler:
    policy: ir.Policy
    rules: list[ir.Rule] = field(default_factory=list)
    actions: list[abi.Value] = field(default_factory=list)

    def tables(self) -> KnockTables:
        knocks = self.policy.knocks
        rotations = [(number, knock.way) for number, knock in enumerate(knocks) if isinstance(knock.way, ir.Rotation)]
        sequences = self._sequences()
        _check(len(knocks), Limit.MAX_KNOCKS, "knocks")
        _check(len(rotations), Limit.MAX_ROTATIONS, "knocks that rotate")
        _check(len(sequences), Limit.MAX_SEQUENCES, "sequences, those that close among them")
        for slot, (number, rotation) in enumerate(rotations):
            self._add_rotation(slot, knocks[number], rotation)
        tokens = list(self._add_tokens(sequences))
        spa_ports, spa_keys, fingerprints = self._add_spa()
        guards = list(self._add_guards())
        numbers = {knock.name: number for number, knock in enumerate(knocks)}
        asked = asked_knocks(self.policy)
        _check(len(asked), Limit.MAX_KNOCKED, "knocks that rules ask for by knocked")
        return KnockTables(
            rules=tuple(self.rules),
            actions=tuple(self.actions),
            knocks=abi.pack_array("knock", map(_knock, knocks)),
            sequences=abi.pack_array("sequence", map(_sequence, sequences)),
            tokens=abi.pack_array("token", ([positions] for positions in tokens)),
            guards=abi.pack_array("guard", ([len(found), found] for found in guards)),
            rotations=abi.pack_array("rotation", (_rotation(rotation) for _, rotation in rotations)),
            spa_ports=abi.pack_array("spa_port", spa_ports),
            spa_keys=abi.pack_array("spa_key", spa_keys),
            fingerprints=tuple(fingerprints),
            config={
                "knock_rules": len(self.rules),
                "sequence_count": len(sequences),
                "rotation_count": len(rotations),
                "knock_count": len(knocks),
                "knocked_count": len(asked),
                "knocked": [numbers[name] for name in asked],
            },
        )

    def _sequences(self) -> list[_Sequence]:
        """Those of rotations, which the data plane derives, then the written ones."""
        rotating, written = [], []
        for number, knock in enumerate(self.policy.knocks):
            if isinstance(knock.way, ir.Rotation):
                way = knock.way
                text = f"{knock.name} rotates {way.secret.hex()} {_rotation_text(way)}"
                rotating.append(_Sequence(number, (), way.length, way.within_ns, way.step_ns, False, identity(text)))
            for sequence, closes in ((knock.way, False), (knock.close, True)):
                if isinstance(sequence, ir.Sequence):
                    written.append(_written(number, knock.name, sequence, closes))
        return rotating + written

    def _add(self, name: str, match: Match, kind: ActionKind, target: int, unless: Match | None = None) -> None:
        counts = kind is ActionKind.ACTION_ROTATION
        action = ir.Action(ir.ActionKind.COUNT if counts else ir.ActionKind.DROP)
        self.rules.append(ir.Rule(name, match, action, unless))
        self.actions.append({"kind": kind, "target": target})

    def _add_rotation(self, slot: int, knock: ir.Knock, rotation: ir.Rotation) -> None:
        name = f"knock {knock.name}"
        # Two rules each, even where there is one step: the data plane knows a rotation by the place of its rules.
        for protocol in (TCP, UDP):
            self._add(name, _ports(protocol, rotation.ports, knock.to), ActionKind.ACTION_ROTATION, slot)

    def _add_tokens(self, sequences: Sequence[_Sequence]) -> Iterator[list[int]]:
        """Yields the positions of each token: bit p of the number of a sequence where the token is its step p."""
        uses: dict[_Cell, list[_Use]] = {}
        for cell in _cells(step for sequence in sequences for step in sequence.steps):
            uses[cell] = [
                _Use(self.policy.knocks[sequence.knock].to, number)
                for number, sequence in enumerate(sequences)
                if any(_meets(step, cell) for step in sequence.steps)
            ]
        target = 0
        for cell, users in uses.items():
            for dst, numbers in _by_destination(users):
                positions = [0] * Limit.MAX_SEQUENCES
                for number in numbers:
                    steps = sequences[number].steps
                    positions[number] = sum(1 << p for p, step in enumerate(steps) if _meets(step, cell))
                self._add("a step of a knock", _message(cell, dst), ActionKind.ACTION_STEP, target)
                target += 1
                yield positions

    def _add_spa(self) -> tuple[list[abi.Value], list[abi.Value], list[int | None]]:
        """The elements of spa_ports and spa_keys, and the keys' fingerprints."""
        users: dict[int, list[_Use]] = {}
        for number, knock in enumerate(self.policy.knocks):
            if isinstance(knock.way, ir.Spa):
                users.setdefault(knock.way.port, []).append(_Use(knock.to, number))
        ports: list[abi.Value] = []
        keys: list[abi.Value] = []
        fingerprints: list[int | None] = []
        for port, uses in users.items():
            for dst, numbers in _by_destination(uses):
                ways = {number: self.policy.knocks[number].way for number in numbers}
                found = {
                    key.number: (number, way, key)
                    for number, way in ways.items()
                    if isinstance(way, ir.Spa)
                    for key in way.keys
                }
                count = max(found, default=-1) + 1
                match = Match(proto=(Range(UDP, UDP),), dport=(Range(port, port),), dst=dst)
                self._add("an SPA port", match, ActionKind.ACTION_SPA, len(ports))
                ports.append([len(keys), count])
                for key_number in range(count):
                    if key_number not in found:
                        keys.append({})
                        fingerprints.append(None)
                        continue
                    number, way, key = found[key_number]
                    keys.append(_spa_key(number, way, key))
                    fingerprints.append(fingerprint(key.key))
        _check(len(fingerprints) - fingerprints.count(None), Limit.MAX_SPA_KEYS, "SPA keys")
        return ports, keys, fingerprints

    def _add_guards(self) -> Iterator[list[int]]:
        """Yields the knocks that open a port, for each port and part of the destinations."""
        users: dict[ir.Service, list[_Use]] = {}
        for number, knock in enumerate(self.policy.knocks):
            for service in knock.opens:
                users.setdefault(service, []).append(_Use(knock.to, number))
        target = 0
        for service, uses in users.items():
            for dst, numbers in _by_destination(uses):
                _check(len(numbers), Limit.MAX_OPENERS, f"knocks that open port {service.port}")
                match = Match(
                    proto=(Range(service.protocol, service.protocol),),
                    dport=(Range(service.port, service.port),),
                    dst=dst,
                )
                unless = self.policy.knocks[numbers[0]].unless
                self._add("a port that knocks open", match, ActionKind.ACTION_GUARD, target, unless)
                target += 1
                yield numbers


def _written(number: int, name: str, sequence: ir.Sequence, closes: bool) -> _Sequence:
    steps, within_ns, step_ns = sequence.steps, sequence.within_ns, sequence.step_ns
    words = " ".join(f"{step.protocol}:{step.number}:{step.code}" for step in steps)
    text = f"{name} {'closes' if closes else 'opens'} {words} {within_ns} {step_ns}"
    return _Sequence(number, steps, len(steps), within_ns, step_ns, closes, identity(text))


def _rotation_text(rotation: ir.Rotation) -> str:
    low, high = rotation.ports
    return f"{rotation.every_ns} {low} {high} {rotation.length} {rotation.within_ns} {rotation.step_ns}"


def _check(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise CapacityError(f"{count:,} {what}, of which there can be {limit:,}")


def _cells(steps: Iterable[ir.Step]) -> list[_Cell]:
    """Disjoint, and such that each step is some of them."""
    codes: dict[tuple[int, int], set[int | None]] = {}
    for step in steps:
        for protocol, number in _messages(step):
            codes.setdefault((protocol, number), set()).add(step.code)
    cells = []
    for (protocol, number), found in codes.items():
        single = sorted(code for code in found if code is not None)
        spans = [Range(code, code) for code in single]
        if None in found:
            spans += ranges.complement(ranges.merge(spans), 255)
        cells += [_Cell(protocol, number, span) for span in spans]
    return cells


def _messages(step: ir.Step) -> list[tuple[int, int]]:
    """Protocol and number; an ICMP step is met in both families."""
    found = [(step.protocol, step.number)]
    if step.protocol == ICMP and step.number in ICMP_TO_ICMPV6:
        found.append((ICMPV6, ICMP_TO_ICMPV6[step.number]))
    return found


def _meets(step: ir.Step, cell: _Cell) -> bool:
    code_meets = step.code is None or cell.code == (step.code, step.code)
    return (cell.protocol, cell.number) in _messages(step) and code_meets


def _message(cell: _Cell, dst: AddressRanges | None) -> Match:
    if cell.protocol in (ICMP, ICMPV6):
        message = IcmpMessage(cell.protocol, Range(cell.number, cell.number), cell.code)
        return Match(icmp=(message,), proto=(Range(cell.protocol, cell.protocol),), fragment=WHOLE, dst=dst)
    return _ports(cell.protocol, Range(cell.number, cell.number), dst)


def _ports(protocol: int, ports: Range, dst: AddressRanges | None) -> Match:
    flags = (BARE_SYN,) if protocol == TCP else None
    return Match(proto=(Range(protocol, protocol),), dport=(ports,), tcp_flags=flags, fragment=WHOLE, dst=dst)


def _by_destination(uses: Iterable[_Use]) -> Iterator[tuple[AddressRanges | None, list[int]]]:
    """Divides the destinations such that in each part the same users listen; parts where none does are left out."""
    parts: list[tuple[AddressRanges, list[int]]] = [(_EVERYWHERE, [])]
    for to, what in uses:
        if to is None:
            parts = [(part, [*users, what]) for part, users in parts]
            continue
        inside = [(_intersect(part, to), [*users, what]) for part, users in parts]
        outside = [(_without(part, to), users) for part, users in parts]
        parts = [(part, users) for part, users in inside + outside if any(part)]
    for part, users in parts:
        if users:
            yield None if part == _EVERYWHERE else part, users


def _intersect(a: AddressRanges, b: AddressRanges) -> AddressRanges:
    return AddressRanges(ranges.intersect(a.v4, b.v4), ranges.intersect(a.v6, b.v6))


def _without(a: AddressRanges, b: AddressRanges) -> AddressRanges:
    v4, v6 = _EVERYWHERE.v4[0].high, _EVERYWHERE.v6[0].high
    return _intersect(a, AddressRanges(ranges.complement(b.v4, v4), ranges.complement(b.v6, v6)))


def _knock(knock: ir.Knock) -> abi.Value:
    return {
        "id": identity(knock.name),
        "service_count": len(knock.opens),
        "for_ns": knock.for_ns,
        "scope_v4": knock.scope_v4,
        "scope_v6": knock.scope_v6,
        "services": [service.protocol << 16 | service.port for service in knock.opens],
    }


def _sequence(sequence: _Sequence) -> abi.Value:
    return {
        "id": sequence.identity,
        "knock": sequence.knock,
        "length": sequence.length,
        "closes": sequence.closes,
        "within_ms": sequence.within_ns // NS_PER_MS,
        "step_ms": sequence.step_ns // NS_PER_MS,
    }


def _rotation(rotation: ir.Rotation) -> abi.Value:
    return {
        "state": key_state(rotation.secret, ROTATION_BYTES),
        "every_ns": rotation.every_ns,
        "port_low": rotation.ports.low,
        "port_span": rotation.ports.high - rotation.ports.low + 1,
    }


def _spa_key(knock: int, way: ir.Spa, key: ir.SpaKey) -> abi.Value:
    return {
        "state": key_state(key.key, TAG_BYTES),
        "window_ns": way.window_ns,
        "knock": knock,
        "used": 1,
        "nat": key.nat,
    }


def with_rules(policy: ir.Policy, tables: KnockTables) -> ir.Policy:
    """The policy as the classifier sees it: the rules of knocks before its own."""
    return dataclasses.replace(policy, rules=tables.rules + policy.rules)
