# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies with as many knocks as there can be, which the verifier must take and the program find its way in; and
with one more of something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.kernel.agreement import Agreement, agreement
from tests.knocking import HOST, KNOCKER, KNOCKER6, PASSED, SHUT, STEP, S, knock, message, packet_of, spa_packet
from tests.policies import one, policy, prefix, rule
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.ir import Action, ActionKind, AddressRanges, IcmpMessage, MacMask, Match, TcpFlags
from xdpfw.errors import CapacityError
from xdpfw.kernel.abi import Limit
from xdpfw.knock import rotation as client

pytestmark = pytest.mark.needs("privileges", "data plane")

SHARED = ir.Service(6, 22)


def steps_of(number: int) -> tuple[ir.Step, ...]:
    """Sixteen, most of which are those of other sequences at another place."""
    return tuple(ir.Step((6, 17)[at % 2], 7000 + (at * (number + 1)) % 97) for at in range(Limit.MAX_STEPS))


def services(number: int, shared: bool) -> tuple[ir.Service, ...]:
    own = tuple(ir.Service((6, 17)[at % 2], 20000 + number * 16 + at) for at in range(Limit.MAX_SERVICES - shared))
    return (SHARED, *own) if shared else own


def sequential(number: int, shared: bool = False) -> ir.Knock:
    opening = ir.Sequence(steps_of(number), 60 * S, 60 * S)
    closing = ir.Sequence(tuple(reversed(steps_of(number))), 60 * S, 60 * S)
    return ir.Knock(f"sequence-{number}", opening, services(number, shared), 60 * S, closing)


def rotating(number: int) -> ir.Knock:
    way = ir.Rotation(bytes((number,)) * 32, 30 * S, ir.Range(30000, 60000), Limit.MAX_STEPS, 60 * S, 60 * S)
    return ir.Knock(f"rotation-{number}", way, services(100 + number, False), 60 * S)


def key(number: int) -> ir.SpaKey:
    return ir.SpaKey(number, f"key-{number}", number.to_bytes(2) * 16, nat=number % 2 == 0)


def by_message(number: int, keys: list[int]) -> ir.Knock:
    way = ir.Spa(62201 + number % 3, tuple(map(key, keys)), 30 * S)
    return ir.Knock(f"spa-{number}", way, services(200 + number, False), 60 * S)


def everything() -> tuple[ir.Knock, ...]:
    """64 knocks, of which 12 are sequences with a close and 8 rotate; 4,096 keys; eight open the same port."""
    with_close = (Limit.MAX_SEQUENCES - Limit.MAX_ROTATIONS) // 2
    found = [sequential(number, shared=number < Limit.MAX_OPENERS) for number in range(with_close)]
    found += [rotating(number) for number in range(Limit.MAX_ROTATIONS)]
    rest = Limit.MAX_KNOCKS - len(found)
    keys = range(1, Limit.MAX_SPA_KEYS + 1)
    found += [by_message(number, [*keys[number::rest]]) for number in range(rest)]
    return tuple(found)


def all_fields(names: tuple[str, ...]) -> tuple[ir.Rule, ...]:
    """A rule of each kind, on every field; eight knocks are asked for. None of them decides on IP without vlan 5."""
    tagged = {"vlan": one(5)}
    matches = [
        Match(**tagged, interface=one(0), family=one(1), ethertype=one(0x800), inner_vlan=one(6)),
        Match(**tagged, src_mac=(MacMask(1, 1),), dst_mac=(MacMask(2, 2),)),
        Match(**tagged, src=AddressRanges((prefix(0x0A000000, 8),), (prefix(1 << 120, 8, 128),))),
        Match(**tagged, dst=AddressRanges((prefix(0x0A000000, 8),), (prefix(1 << 120, 8, 128),))),
        Match(**tagged, proto=one(6), sport=one(1, 99), dport=one(2, 98), tcp_flags=(TcpFlags(2, 1),)),
        Match(**tagged, icmp=(IcmpMessage(1, ir.Range(3, 4), ir.Range(0, 3)),), fragment=one(0)),
        Match(**tagged, length=one(60, 99), ttl=one(5, 9), dscp=one(46), ip_options=one(1)),
        *(Match(**tagged, knocked=(name,)) for name in names),
    ]
    kinds = (ActionKind.COUNT, ActionKind.DROP, ActionKind.PASS, ActionKind.TX)
    found = [
        ir.Rule(f"r{at}", match, Action(kinds[at % 4]), Match(ttl=one(77)) if at % 3 else None, log_sample=at % 2)
        for at, match in enumerate(matches)
    ]
    return (
        *found,
        ir.Rule("redirect", Match(**tagged, dport=one(99), proto=one(17)), Action(ActionKind.REDIRECT, "b")),
    )


@pytest.fixture(scope="module")
def loaded() -> Iterator[Agreement]:
    knocks = everything()
    asked = tuple(each.name for each in knocks[:: len(knocks) // Limit.MAX_KNOCKED][: Limit.MAX_KNOCKED])
    made = replace(policy(*all_fields(asked), default=ir.Verdict.DROP), knocks=knocks)
    with agreement(made) as both:
        yield both


@pytest.fixture
def both(loaded: Agreement) -> Agreement:
    loaded.forget()
    loaded.wait(100 * S)
    return loaded


def opened(both: Agreement, src: str = KNOCKER) -> list[str]:
    """The knocks whose every port the source gets to; the shared port is left out."""
    found = []
    for each in both.policy.knocks:
        ports = [service for service in each.opens if service != SHARED]
        reasons = {both.run(packet_of(ir.Step(*service), src)).reason for service in ports[:: len(ports) - 1]}
        assert reasons in ({PASSED}, {SHUT})
        if reasons == {PASSED}:
            found.append(each.name)
    return found


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
@pytest.mark.parametrize("number", [0, 7, 11])
def test_sequences_work(both: Agreement, number: int, src: str) -> None:
    each = both.policy.knocks[number]
    assert isinstance(each.way, ir.Sequence)
    assert each.close is not None
    for step in each.way.steps:
        assert both.run(packet_of(step, src)).reason == STEP
    assert both.run(packet_of("22/tcp", src)).reason == (PASSED if number < Limit.MAX_OPENERS else SHUT)
    assert opened(both, src) == [each.name]
    for step in each.close.steps:
        both.run(packet_of(step, src))
    assert opened(both, src) == []


@pytest.mark.parametrize("number", range(Limit.MAX_ROTATIONS))
def test_rotations_work(both: Agreement, number: int) -> None:
    way = rotating(number).way
    assert isinstance(way, ir.Rotation)
    for step in client.steps(way.secret, both.now.wall_ns // way.every_ns, *way.ports, way.length):
        assert both.run(packet_of(str(step))).reason == STEP
    assert opened(both) == [f"rotation-{number}"]


def test_every_hundredth_key_works(both: Agreement) -> None:
    knocks = [each for each in both.policy.knocks if isinstance(each.way, ir.Spa)]
    numbers = {held.number: each for each in knocks if isinstance(each.way, ir.Spa) for held in each.way.keys}
    assert len(numbers) == Limit.MAX_SPA_KEYS
    for number in (*range(1, Limit.MAX_SPA_KEYS, 100), Limit.MAX_SPA_KEYS):
        both.wait(2 * S)
        each, held = numbers[number], key(number)
        assert isinstance(each.way, ir.Spa)
        sent = message(both.now, number=number)
        for port in {62201, 62202, 62203} - {each.way.port}:
            assert both.run(spa_packet(sent, held.key, port=port)).reason == "knock.spa_unknown_key"
        assert both.run(spa_packet(sent, held.key, port=each.way.port)).reason == "knock.spa_accepted"
        assert both.run(packet_of(ir.Step(*each.opens[-1]))).reason == PASSED


def test_rules_of_all_kinds_work_beside(both: Agreement) -> None:
    names = [each.name for each in both.policy.knocks]
    first = both.policy.knocks[0]
    assert isinstance(first.way, ir.Sequence)
    for step in first.way.steps:
        both.run(packet_of(step))
    asking = next(each for each in both.policy.rules if each.match.knocked == (names[0],))
    for packet in (
        f"udp {KNOCKER}:1 > {HOST}:5 vlan=5",
        f"udp 198.51.100.9:1 > {HOST}:5 vlan=5",
        f"udp {KNOCKER}:1 > {HOST}:99 vlan=5",
        f"tcp {KNOCKER}:50 > {HOST}:50 S vlan=5",
        f"icmp {KNOCKER} > {HOST} type 3 code 1 vlan=5",
        f"udp {KNOCKER}:1 > {HOST}:5 vlan=5 ttl=7 dscp=46 options length=70",
        "arp 192.0.2.1 > 192.0.2.2",
    ):
        both.run(packet)
    assert both.run(f"gre {KNOCKER} > {HOST} vlan=5 src_mac=02:00:00:00:00:02").rule in (asking.name, "r2", None)


def sequences(count: int) -> list[ir.Knock]:
    return [knock(f"k{number}", f"{1000 + number}/tcp", f"{2000 + number}/tcp") for number in range(count)]


def keyed(count: int) -> list[ir.Knock]:
    return [by_message(0, [*range(1, count + 1)])]


def messages(count: int) -> list[ir.Knock]:
    return [by_message(number, [number + 1]) for number in range(count)]


def openers(count: int) -> list[ir.Knock]:
    return [knock(f"k{number}", f"{1000 + number}/tcp", "22/tcp") for number in range(count)]


def asking(count: int) -> ir.Policy:
    rules = (rule(number, Match(knocked=(f"k{number}",)), ActionKind.PASS) for number in range(count))
    return replace(policy(*rules), knocks=tuple(sequences(count)))


TOO_MANY: dict[str, tuple[Callable[[int], list[ir.Knock]], int, str]] = {
    "knocks": (messages, Limit.MAX_KNOCKS, "65 knocks, of which there can be 64"),
    "sequences": (
        sequences,
        Limit.MAX_SEQUENCES,
        "33 sequences, those that close among them, of which there can be 32",
    ),
    "rotations": (
        lambda count: [rotating(number) for number in range(count)],
        Limit.MAX_ROTATIONS,
        "9 knocks that rotate, of which there can be 8",
    ),
    "keys": (keyed, Limit.MAX_SPA_KEYS, "4,097 SPA keys, of which there can be 4,096"),
    "openers": (openers, Limit.MAX_OPENERS, "9 knocks that open port 22, of which there can be 8"),
}


@pytest.mark.parametrize("what", TOO_MANY)
def test_one_more_is_refused(what: str) -> None:
    make, limit, text = TOO_MANY[what]
    compile_policy(replace(policy(), knocks=tuple(make(limit))))
    with pytest.raises(CapacityError) as caught:
        compile_policy(replace(policy(), knocks=tuple(make(limit + 1))))
    assert text in str(caught.value)


def test_one_more_that_rules_ask_for_is_refused() -> None:
    compile_policy(asking(Limit.MAX_KNOCKED))
    with pytest.raises(CapacityError, match="9 knocks that rules ask for by knocked, of which there can be 8"):
        compile_policy(asking(Limit.MAX_KNOCKED + 1))
