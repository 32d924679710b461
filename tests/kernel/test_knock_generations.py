# SPDX-License-Identifier: GPL-2.0-or-later
"""What one generation leaves to the next through the maps that both have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.kernel.agreement import Agreement
from tests.knocking import KNOCKER, KNOCKER6, PASSED, SHUT, STEP, S, knock, message, packet_of, sequence, spa_packet
from tests.policies import one, policy, rule
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.ir import ActionKind, Match
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import boot_ns
from xdpfw.knock import rotation as client

pytestmark = pytest.mark.needs("privileges", "data plane")

STEPS = ("7000/tcp", "9000/udp", "8000/tcp")
KEY = bytes(range(32))
SSH = knock("ssh", sequence(" ".join(STEPS)))
ADMIN = knock("admin", ir.Spa(62201, (ir.SpaKey(1, "laptop", KEY),), 30 * S), "443/tcp")
ROTATION = ir.Rotation(bytes(32), 30 * S, ir.Range(10000, 60000), 3, 10 * S, 10 * S)


def dropping(*knocks: ir.Knock, rules: tuple[ir.Rule, ...] = ()) -> ir.Policy:
    return replace(policy(*rules, default=ir.Verdict.DROP), knocks=knocks)


@contextlib.contextmanager
def first(made: ir.Policy) -> Iterator[Agreement]:
    with Generation.load(compile_policy(made), interfaces=[1000, 1001, 1002], targets=[], trace=True) as generation:
        yield Agreement(made, generation)


@contextlib.contextmanager
def followed(both: Agreement, made: ir.Policy) -> Iterator[Agreement]:
    """The next generation, with the state of the one before, in the kernel as in the reference."""
    state = both.generation.state
    image = compile_policy(made)
    with Generation.load(image, interfaces=[1000, 1001, 1002], targets=[], trace=True, state=state) as generation:
        yield Agreement(made, generation, memory=both.memory, now=both.now)


def send(both: Agreement, packet: str) -> str:
    decision = both.run(packet)
    return decision.rule or decision.reason


def knocks(both: Agreement, *steps: str, src: str = KNOCKER) -> None:
    for step in steps:
        assert send(both, packet_of(step, src)) == STEP


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
def test_grants_and_progress_live_on(src: str) -> None:
    with first(dropping(SSH)) as old:
        knocks(old, *STEPS, src=src)
        knocks(old, *STEPS[:2], src="198.51.100.9")
        more = dropping(ADMIN, SSH, rules=(rule(1, Match(proto=one(6), dport=one(80)), ActionKind.PASS),))
        with followed(old, more) as new:
            assert send(new, packet_of("22/tcp", src)) == PASSED
            knocks(new, STEPS[2], src="198.51.100.9")
            assert send(new, packet_of("22/tcp", "198.51.100.9")) == PASSED
            assert send(old, packet_of("22/tcp", "198.51.100.9")) == PASSED, "the old one shares it, too"
            with followed(new, dropping()) as none, followed(new, dropping(SSH)) as last:
                assert none.generation.state is not None
                assert none.generation.state.grants.max_entries == 1
                assert send(last, packet_of("22/tcp", src)) == PASSED
                last.wait(30 * S)
                assert send(last, packet_of("22/tcp", src)) == SHUT


@pytest.mark.parametrize(
    "changed",
    [
        replace(SSH, way=sequence("7000/tcp 9000/udp 8001/tcp")),
        replace(SSH, way=sequence("7000/tcp 9000/udp 8000/tcp 8000/udp")),
        replace(SSH, way=sequence(" ".join(STEPS), within=11 * S)),
        replace(SSH, way=sequence(" ".join(STEPS), step=9 * S)),
        replace(SSH, name="other"),
    ],
)
def test_a_sequence_that_changed_begins_anew(changed: ir.Knock) -> None:
    with first(dropping(SSH)) as old:
        knocks(old, *STEPS[:2])
        with followed(old, dropping(changed)) as new:
            assert isinstance(changed.way, ir.Sequence)
            new.run(packet_of(changed.way.steps[2]))
            assert send(new, packet_of("22/tcp")) == SHUT


def test_a_rotation_goes_on_unless_its_secret_changed() -> None:
    home = knock("home", ROTATION, "8443/tcp")
    other = replace(home, way=replace(ROTATION, secret=bytes(31) + b"\1"))
    for changed, opened in ((home, True), (other, False)):
        with first(dropping(home)) as old:
            found = client.steps(ROTATION.secret, old.now.wall_ns // (30 * S), *ROTATION.ports, ROTATION.length)
            path = [str(step) for step in found]
            knocks(old, *path[:2])
            with followed(old, dropping(SSH, changed)) as new:
                new.run(packet_of(path[2]))
                assert (send(new, packet_of("8443/tcp")) == PASSED) == opened


def test_a_grant_is_for_the_ports_that_it_was_given_for() -> None:
    both_ports = replace(SSH, opens=(ir.Service(6, 22), ir.Service(6, 23)))
    with first(dropping(SSH)) as old:
        knocks(old, *STEPS)
        with followed(old, dropping(both_ports)) as new:
            assert (send(new, packet_of("22/tcp")), send(new, packet_of("23/tcp"))) == (PASSED, SHUT)
            knocks(new, *STEPS)
            assert send(new, packet_of("23/tcp")) == PASSED
            with followed(new, dropping(SSH)) as last:
                assert (send(last, packet_of("22/tcp")), send(last, packet_of("23/tcp"))) == (PASSED, "default")


def test_a_grant_is_of_its_knock_and_its_scope() -> None:
    with first(dropping(SSH)) as old:
        knocks(old, *STEPS)
        for changed in (replace(SSH, name="other"), replace(SSH, scope_v4=24)):
            with followed(old, dropping(changed)) as new:
                assert send(new, packet_of("22/tcp")) == SHUT
        asking = rule(1, Match(proto=one(6), dport=one(80), knocked=("ssh",)), ActionKind.PASS)
        with followed(old, dropping(replace(SSH, opens=(ir.Service(6, 9),)), rules=(asking,))) as new:
            assert send(new, packet_of("80/tcp")) == "r1", "who has knocked has knocked"
            assert send(new, packet_of("9/tcp")) == SHUT


def test_a_message_is_not_accepted_again_by_the_next_generation() -> None:
    with first(dropping(ADMIN)) as old:
        packet = spa_packet(message(old.now), KEY)
        assert send(old, packet) == "knock.spa_accepted"
        assert isinstance(ADMIN.way, ir.Spa)
        fresh = ir.SpaKey(2, "phone", bytes(range(1, 33)))
        renumbered = replace(ADMIN.way, keys=(fresh, replace(ADMIN.way.keys[0], number=9)))
        with followed(old, dropping(SSH, replace(ADMIN, way=renumbered))) as new:
            again = spa_packet(message(old.now, number=9), KEY)
            assert send(new, again) == "knock.spa_replayed", "the key is the same, whatever its number"
            assert send(new, spa_packet(message(old.now, number=2), fresh.key)) == "knock.spa_accepted"


def test_a_key_that_was_not_known_begins_at_the_load() -> None:
    """Outside of test runs: what was recorded before is refused, by the age of the key."""
    with Generation.load(compile_policy(dropping(ADMIN)), interfaces=[1], targets=[]) as generation:
        state = generation.state
        assert state is not None
        before, now_ns = state.list_spa_times()[0], boot_ns()
        assert before.last_wall_ns == 0
        assert 0 < now_ns - before.loaded_ns < 60 * S
        with Generation.load(compile_policy(dropping(ADMIN, SSH)), interfaces=[1], targets=[], state=state):
            assert state.list_spa_times()[0] == before
