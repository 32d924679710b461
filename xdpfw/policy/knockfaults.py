# SPDX-License-Identifier: GPL-2.0-or-later
"""What knocks get wrong although each of their values is right, alone and together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, NamedTuple

from xdpfw.knock.steps import TCP, UDP
from xdpfw.policy import consistency, names
from xdpfw.policy.addresses import V4_BITS, V6_BITS, Addresses
from xdpfw.policy.consistency import Fault, Sets
from xdpfw.policy.knocks import LoadedKnock
from xdpfw.policy.models import DEFAULT_WITHIN_NS, Knock, Match, Rule
from xdpfw.policy.services import Service, overlap
from xdpfw.policy.source import Path
from xdpfw.policy.values import Protocol, SetName, duration_text, quoted

MAX_KNOCKS: Final = 64
MAX_SEQUENCES: Final = 32
MAX_ROTATIONS: Final = 8
MAX_OPENERS: Final = 8
MAX_KNOCKED: Final = 8
MAX_SPA_KEYS: Final = 4096


class KnockFault(NamedTuple):
    knock: LoadedKnock
    fault: Fault


def knock_faults(knocks: Sequence[LoadedKnock], sets: Sets, interfaces: Collection[str] | None) -> Iterator[KnockFault]:
    """All faults of a policy's knocks. ``sets`` and ``interfaces`` are as ``consistency.faults`` has them."""
    for knock in knocks:
        for fault in _own_faults(knock.model, sets, interfaces):
            yield KnockFault(knock, fault)
    listens = _Listening(sets)
    yield from _steps_in_use(knocks, listens)
    yield from _spa_ports_in_use(knocks, listens)
    yield from _same_keys(knocks)
    yield from _other_exceptions(knocks, listens)
    yield from _too_many(knocks)


def knocked_faults(rule: Rule, knocks: Collection[str]) -> Iterator[Fault]:
    """Those of a rule that asks for knocks, of which these exist."""
    for where, match in (("match", rule.match), ("except", rule.unless)):
        for index, name in enumerate((match and match.knocked) or ()):
            if name not in knocks:
                hint = names.suggestion(name, knocks) if knocks else "it has none"
                yield Fault((where, "knocked", index), f"{name} is not a knock of this policy", hint)


def excess_knocked(rules: Sequence[Rule]) -> tuple[int, Fault] | None:
    """The index of the first rule that asks for one knock more than the limit, and the fault."""
    asked: set[str] = set()
    for number, rule in enumerate(rules):
        for where, match in (("match", rule.match), ("except", rule.unless)):
            for index, name in enumerate((match and match.knocked) or ()):
                asked.add(name)
                if len(asked) > MAX_KNOCKED:
                    message = f"{name} is one knock more than the {MAX_KNOCKED} that rules can ask for"
                    return number, Fault(
                        (where, "knocked", index), message, "ask for fewer, or let ports share a knock"
                    )
    return None


def _own_faults(knock: Knock, sets: Sets, interfaces: Collection[str] | None) -> Iterator[Fault]:
    for key, sequence in (("sequence", knock.sequence), ("close", knock.close)):
        for index in range(1, len(sequence or ())):
            assert sequence is not None
            if overlap(sequence[index - 1], sequence[index]):
                yield Fault(
                    (key, index),
                    f"{sequence[index]} follows {sequence[index - 1]}: a repeated packet would be both",
                    "put another step between them",
                )
    if knock.close is not None and knock.close == knock.sequence:
        yield Fault(("close",), "is the sequence that opens", "reverse it, or take other steps")
    yield from _time_faults(knock)
    for index, service in enumerate(knock.opens):
        if service in knock.opens[:index]:
            yield Fault(("opens", index), f"{service} is there twice")
    for index, value in enumerate(knock.to or ()):
        if isinstance(value, SetName) and (fault := consistency.set_fault(("to", index), value, "prefix", sets)):
            yield fault
        if fault := consistency.refused_dynamic(("to", index), value, sets, "a knock"):
            yield fault
    if knock.unless is not None:
        yield from _exception_faults(knock.unless, knock.opens, sets, interfaces)


def _time_faults(knock: Knock) -> Iterator[Fault]:
    if knock.sequence is None and knock.rotate is None and knock.close is None:
        for key in ("within", "step"):
            if getattr(knock, key) is not None:
                yield Fault((key,), "is about sequences, and the knock has none", "leave it out")
        return
    within = knock.within or DEFAULT_WITHIN_NS
    if knock.step is not None and knock.step > within:
        message = f"{duration_text(knock.step)} is longer than within, which is {duration_text(within)}"
        yield Fault(("step",), message, "step bounds each gap, within all of them together")


def _exception_faults(
    unless: Match, opens: tuple[Service, ...], sets: Sets, interfaces: Collection[str] | None
) -> Iterator[Fault]:
    if not unless.model_fields_set:
        yield Fault(("except",), "is empty: it holds for every packet, so nobody would have to knock", "leave it out")
    if unless.knocked is not None:
        hint = "rules can ask for a knock: write its condition there"
        yield Fault(("except", "knocked"), "cannot be asked for where a knock decides", hint)
    if unless.state is not None:
        hint = "leave it out: what belongs to open connections is passed by allow.established before any knock"
        yield Fault(("except", "state"), "cannot be asked for where a knock decides", hint)
    for field in ("src", "dst"):
        for index, value in enumerate(getattr(unless, field) or ()):
            if fault := consistency.refused_dynamic(("except", field, index), value, sets, "a knock"):
                yield fault
    protocols = consistency.protocols_of(unless)
    if protocols is None:
        protocols = tuple(Protocol(number, named=True) for number in sorted({service.protocol for service in opens}))
    elif not {service.protocol for service in opens} & {protocol.number for protocol in protocols}:
        field = "tcp_flags" if unless.proto is None else "proto"
        shown = ", ".join(map(str, opens))
        yield Fault(("except", field), f"holds for none of the packets to {shown}", "leave it out")
    yield from consistency.match_faults("except", unless, protocols, sets, interfaces)


Spans = list[tuple[int, int]]


class _Listening:
    """Whether two knocks have a destination in common."""

    def __init__(self, sets: Sets) -> None:
        self._sets = sets
        self._spans: dict[str, tuple[Spans, Spans]] = {}

    def meet(self, one: LoadedKnock, other: LoadedKnock) -> bool:
        if one is other or one.model.to is None or other.model.to is None:
            return True
        mine, theirs = self._of(one, one.model.to), self._of(other, other.model.to)
        return any(_overlap(a, b) for a, b in zip(mine, theirs, strict=True))

    def _of(self, knock: LoadedKnock, to: tuple[Addresses | SetName, ...]) -> tuple[Spans, Spans]:
        """IPv4's and IPv6's, in order of their lower ends."""
        if knock.name not in self._spans:
            v4: Spans = []
            v6: Spans = []
            for each in to:
                if isinstance(each, Addresses):
                    (v4 if each.bits == V4_BITS else v6).append((each.low, each.high))
                elif found := self._sets.get(each):
                    v4 += found.prefixes.table.spans(V4_BITS)
                    v6 += found.prefixes.table.spans(V6_BITS)
            self._spans[knock.name] = sorted(v4), sorted(v6)
        return self._spans[knock.name]


def _overlap(one: Spans, other: Spans) -> bool:
    """One sweep over both: of two that overlap, the later one begins before the furthest end so far."""
    reach = [-1, -1]
    for low, high, side in sorted([*((*span, 0) for span in one), *((*span, 1) for span in other)]):
        if low <= reach[1 - side]:
            return True
        reach[side] = max(reach[side], high)
    return False


def _steps_in_use(knocks: Sequence[LoadedKnock], listens: _Listening) -> Iterator[KnockFault]:
    """Opened ports that are steps: their packets would be taken for the step, and never get through."""
    for knock in knocks:
        for index, service in enumerate(knock.model.opens):
            for other in knocks:
                if (what := _taken_as_step(service, other)) and listens.meet(knock, other):
                    whose = "this knock" if other is knock else f"knock {quoted(other.name)}"
                    message = f"{service} is {what} of {whose}, so that packets to it would not get through"
                    yield KnockFault(knock, Fault(("opens", index), message, _remedy(what)))
                    break


def _spa_ports_in_use(knocks: Sequence[LoadedKnock], listens: _Listening) -> Iterator[KnockFault]:
    for knock in knocks:
        if knock.model.spa is None:
            continue
        port = Service(UDP, knock.model.spa.port)
        for other in knocks:
            if not listens.meet(knock, other):
                continue
            whose = "this knock" if other is knock else f"knock {quoted(other.name)}"
            if what := _taken_as_step(port, other):
                message = f"{port} is {what} of {whose}, so that messages would not get through"
                yield KnockFault(knock, Fault(("spa", "port"), message, _remedy(what)))
            if port in other.model.opens:
                message = f"{port} is a port that {whose} opens, and packets to it would be taken for messages"
                yield KnockFault(knock, Fault(("spa", "port"), message, "choose another port"))


def _taken_as_step(service: Service, knock: LoadedKnock) -> str | None:
    """What the packets to a port are to a knock that takes them as steps."""
    if any((step.protocol, step.number) == service for _, step in knock.steps):
        return "a step"
    rotate = knock.model.rotate
    if rotate is None or not rotate.ports.low <= service.port <= rotate.ports.high:
        return None
    return "in the range of steps" if service.protocol == TCP or rotate.length > 1 else None


def _remedy(what: str) -> str:
    return "choose another step" if what == "a step" else "narrow rotate ports, so that it is outside"


def _same_keys(knocks: Sequence[LoadedKnock]) -> Iterator[KnockFault]:
    """Keys that a message to one port cannot tell apart."""
    owners: dict[tuple[int, int], LoadedKnock] = {}
    for knock in knocks:
        if knock.model.spa is None or knock.keys is None:
            continue
        for key in knock.keys.keys:
            first = owners.setdefault((knock.model.spa.port, key.number), knock)
            if first is not knock:
                message = (
                    f"{knock.model.spa.keys} has a key {key.number}, and so has knock {quoted(first.name)} "
                    f"on the same port"
                )
                hint = "give one of the knocks another port, or the key another number"
                yield KnockFault(knock, Fault(("spa", "keys"), message, hint))
                break


def _other_exceptions(knocks: Sequence[LoadedKnock], listens: _Listening) -> Iterator[KnockFault]:
    openers: dict[Service, list[LoadedKnock]] = defaultdict(list)
    for knock in knocks:
        for index, service in enumerate(knock.model.opens):
            if knock in openers[service]:
                continue
            for other in openers[service]:
                if other.model.unless != knock.model.unless and listens.meet(knock, other):
                    message = f"{service} is opened by knock {quoted(other.name)} too, which has another except"
                    hint = "write the same except in both: who need not knock is a matter of the port"
                    yield KnockFault(knock, Fault(("opens", index), message, hint))
                    break
            openers[service].append(knock)
            if len(openers[service]) == MAX_OPENERS + 1:
                message = f"{service} is opened by more than {MAX_OPENERS} knocks"
                yield KnockFault(knock, Fault(("opens", index), message, "let devices share a knock: one with spa"))


def _too_many(knocks: Sequence[LoadedKnock]) -> Iterator[KnockFault]:
    """The first knock above each limit."""
    limits: list[tuple[int, str, str, Callable[[LoadedKnock], int], Path]] = [
        (MAX_KNOCKS, "knocks", "let several ports be opened by one", lambda knock: 1, ()),
        (MAX_SEQUENCES, "sequences, each close being one", "let ports share a knock, or use spa", _sequences, ()),
        (MAX_ROTATIONS, "rotations", "let ports share a knock", lambda knock: knock.model.rotate is not None, ()),
        (MAX_SPA_KEYS, "SPA keys", "remove keys that are not used", _keys, ("spa", "keys")),
    ]
    counts: Counter[str] = Counter()
    for knock in knocks:
        for limit, what, hint, count, path in limits:
            before = counts[what]
            counts[what] += count(knock)
            if before <= limit < counts[what]:
                yield KnockFault(knock, Fault(path, f"makes {counts[what]} {what}, and {limit} are the most", hint))


def _sequences(knock: LoadedKnock) -> int:
    return (knock.model.sequence is not None) + (knock.model.close is not None)


def _keys(knock: LoadedKnock) -> int:
    return 0 if knock.keys is None else len(knock.keys.keys)
