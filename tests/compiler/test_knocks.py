# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of knocks: rules that find their packets, and tables that say what these are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.knocking import HOST, KNOCKER6, S, knock, packet_of, prefixes, sequence
from tests.policies import policy
from xdpfw.compiler import ir
from xdpfw.compiler.knocks import KnockTables, compile_knocks, identity
from xdpfw.kernel import abi
from xdpfw.kernel.abi import ActionKind, Limit
from xdpfw.knock.keys import fingerprint
from xdpfw.packet.decode import Packet, decode
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.matching import observe, unmet

SSH = knock("ssh", "7000/tcp 9000/udp 8/icmp")
KEYS = tuple(ir.SpaKey(number, f"key-{number}", bytes((number,)) * 32) for number in (1, 4, 7))


def compiled(*knocks: ir.Knock) -> KnockTables:
    return compile_knocks(replace(policy(), knocks=knocks))


def elements(data: bytes, struct: str) -> Iterator[Any]:
    size = abi.size_of(struct)
    return (abi.unpack(struct, data[at : at + size]) for at in range(0, len(data), size))


def found(tables: KnockTables, packet: str) -> tuple[int, int] | None:
    """Kind and target of the first rule that a packet meets, rotations apart."""
    taken = decode(parse_packet(packet))
    assert isinstance(taken, Packet)
    observation = observe(taken, 0)
    for rule, action in zip(tables.rules, tables.actions, strict=True):
        assert isinstance(action, dict)
        excepted = rule.unless is not None and unmet(rule.unless, taken, observation) is None
        met = unmet(rule.match, taken, observation) is None and not excepted
        if met and action["kind"] != ActionKind.ACTION_ROTATION:
            return action["kind"], action["target"]
    return None


def positions(tables: KnockTables, packet: str) -> dict[int, list[int]] | None:
    """Which steps of which sequences a packet is; None if it is no step."""
    hit = found(tables, packet)
    if hit is None or hit[0] != ActionKind.ACTION_STEP:
        return None
    bits = [*elements(tables.tokens, "token")][hit[1]].positions
    return {
        number: [at for at in range(Limit.MAX_STEPS) if bits[number] >> at & 1]
        for number in range(Limit.MAX_SEQUENCES)
        if bits[number]
    }


def test_without_knocks_there_is_nothing() -> None:
    assert compiled() == KnockTables()


def test_steps_are_tokens() -> None:
    other = knock("other", "9000/udp 7000/tcp 9000/udp", close="8/icmp 7000/tcp")
    tables = compiled(SSH, other)
    assert positions(tables, packet_of("7000/tcp")) == {0: [0], 1: [1], 2: [1]}
    assert positions(tables, packet_of("9000/udp")) == {0: [1], 1: [0, 2]}
    assert positions(tables, packet_of("8/icmp")) == {0: [2], 2: [0]}
    assert positions(tables, packet_of("8/icmp", KNOCKER6)) == {0: [2], 2: [0]}
    assert positions(tables, packet_of("7000/udp")) is None
    assert [each.closes for each in elements(tables.sequences, "sequence")] == [0, 0, 1]


def test_codes_of_icmp_are_kept_apart() -> None:
    tables = compiled(knock("a", "8/icmp 8.3/icmp 128.4/icmpv6"), knock("b", "8.5/icmp"))
    v4, v6 = "icmp 198.51.100.7 > 203.0.113.1 type 8", f"icmpv6 {KNOCKER6} > 2001:db8::1 type 128"
    wanted = {0: {0: [0]}, 3: {0: [0, 1]}, 4: {0: [0]}, 5: {0: [0], 1: [0]}, 255: {0: [0]}}
    for code, steps in wanted.items():
        assert positions(tables, f"{v4} code {code}") == steps
        assert positions(tables, f"{v6} code {code}") == ({0: [0, 2]} if code == 4 else steps)


def test_destinations_have_tokens_of_their_own() -> None:
    here = knock("here", "7000/tcp", to=prefixes(HOST, "203.0.113.2"))
    there = knock("there", "7000/tcp", to=prefixes("203.0.113.2", "203.0.113.3"))
    tables = compiled(here, there)
    hosts = {HOST: {0: [0]}, "203.0.113.2": {0: [0], 1: [0]}, "203.0.113.3": {1: [0]}, "203.0.113.4": None}
    assert {dst: positions(tables, packet_of("7000/tcp", dst=dst)) for dst in hosts} == hosts
    assert positions(tables, packet_of("7000/tcp", KNOCKER6)) is None


def test_identities_stay_while_what_they_are_of_does() -> None:
    plain = [each.id for each in elements(compiled(SSH).sequences, "sequence")]
    moved = [each.id for each in elements(compiled(knock("first", "1/tcp"), SSH).sequences, "sequence")]
    assert moved[1] == plain[0]
    changes = (
        replace(SSH, name="other"),
        replace(SSH, way=sequence("7000/tcp 9000/udp 8.0/icmp")),
        replace(SSH, way=sequence("7000/tcp 9000/udp 8/icmp", within=9 * S)),
        replace(SSH, way=sequence("7000/tcp 9000/udp 8/icmp", step=9 * S)),
    )
    others = {each.id for changed in changes for each in elements(compiled(changed).sequences, "sequence")}
    assert len(others - set(plain)) == len(changes)
    with_close = compiled(replace(SSH, close=SSH.way if isinstance(SSH.way, ir.Sequence) else None))
    assert len({each.id for each in elements(with_close.sequences, "sequence")}) == 2
    assert next(elements(compiled(SSH).knocks, "knock")).id == identity("ssh")


@pytest.mark.parametrize(("low", "high", "span"), [(1, 65535, 65535), (7, 7, 1), (10000, 60000, 50001)])
def test_a_rotation(low: int, high: int, span: int) -> None:
    rotation = ir.Rotation(bytes(32), 30 * S, ir.Range(low, high), 4, 10 * S, 9 * S)
    tables = compiled(SSH, knock("home", rotation, "8443/tcp"))
    (value,) = elements(tables.rotations, "rotation")
    assert (value.port_low, value.port_span, value.every_ns) == (low, span, 30 * S)
    first, second = elements(tables.sequences, "sequence")
    assert (first.knock, first.length, first.step_ms, second.knock) == (1, 4, 9000, 0), "rotations come first"
    kinds = [action["kind"] for action in tables.actions if isinstance(action, dict)]
    assert kinds[:2] == [ActionKind.ACTION_ROTATION] * 2
    assert ActionKind.ACTION_ROTATION not in kinds[2:]


def test_keys_of_a_port_lie_by_number() -> None:
    a, b = (knock(name, ir.Spa(62201, keys, 30 * S), "22/tcp") for name, keys in (("a", KEYS[:2]), ("b", KEYS[2:])))
    tables = compiled(a, b)
    (port,) = elements(tables.spa_ports, "spa_port")
    assert (port.first_key, port.key_count) == (0, 8)
    keys = [*elements(tables.spa_keys, "spa_key")]
    assert [(at, key.knock) for at, key in enumerate(keys) if key.used] == [(1, 0), (4, 0), (7, 1)]
    wanted = [None] * 8
    for key in KEYS:
        wanted[key.number] = fingerprint(key.key)  # type: ignore[call-overload]
    assert [*tables.fingerprints] == wanted


def test_a_key_is_found_only_where_its_knock_listens() -> None:
    here = knock("here", ir.Spa(62201, KEYS[:1], 30 * S), "22/tcp", to=prefixes(HOST))
    everywhere = knock("everywhere", ir.Spa(62201, KEYS[1:2], 30 * S), "23/tcp")
    tables = compiled(here, everywhere)
    ports, keys = [*elements(tables.spa_ports, "spa_port")], [*elements(tables.spa_keys, "spa_key")]
    for dst, wanted in ((HOST, [1, 4]), ("203.0.113.2", [4])):
        hit = found(tables, packet_of("62201/udp", dst=dst))
        assert hit is not None
        assert hit[0] == ActionKind.ACTION_SPA
        port = ports[hit[1]]
        used = keys[port.first_key : port.first_key + port.key_count]
        assert [number for number, key in enumerate(used) if key.used] == wanted


def test_guards_name_the_knocks_that_open_a_port() -> None:
    except_it = ir.Match(src=prefixes("192.0.2.7"))
    a = knock("a", "1/tcp", "22/tcp 53/udp", to=prefixes(HOST), unless=except_it)
    b = knock("b", "2/tcp", "22/tcp", unless=except_it)
    tables = compiled(a, b)
    guards = [[*each.knocks][: each.knock_count] for each in elements(tables.guards, "guard")]

    def openers(packet: str) -> list[int] | None:
        hit = found(tables, packet)
        return guards[hit[1]] if hit and hit[0] == ActionKind.ACTION_GUARD else None

    assert openers(packet_of("22/tcp")) == [0, 1]
    assert openers(packet_of("22/tcp", options="A")) == [0, 1]
    assert openers(packet_of("22/tcp", options="frag=first")) == [0, 1]
    assert openers(packet_of("22/tcp", dst="203.0.113.2")) == [1]
    assert openers(packet_of("53/udp")) == [0]
    assert openers(packet_of("53/udp", dst="203.0.113.2")) is None
    assert openers(packet_of("22/tcp", "192.0.2.7")) is None
    assert openers("udplite 198.51.100.7:1 > 203.0.113.1:53") is None
