# SPDX-License-Identifier: GPL-2.0-or-later
"""Half-done sequences in the kernel: their times, their slots, and what floods do to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests import frames
from tests.kernel.agreement import Agreement, agreement
from tests.kernel.slots import progress_tag, slot, source_hash
from tests.knocking import KNOCKER, KNOCKER6, MS, PASSED, SHUT, STEP, S, knock, packet_of, sequence
from tests.policies import one, policy, rule
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.ir import ActionKind, Match
from xdpfw.kernel import abi
from xdpfw.kernel.program import LOOPBACK, Generation
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.memory import START, Source

pytestmark = pytest.mark.needs("privileges", "data plane")

STEPS = ("7000/tcp", "9000/udp", "8000/tcp")
SSH = knock("ssh", sequence(" ".join(STEPS), within=10 * S, step=5 * S))
FLOOD = 10 * abi.Limit.PROGRESS_SLOTS
MARKER_ROUND_NS = 1 << 28 + abi.Marker.SHIFT
"""After so long the markers' time begins again: 834 days."""


def dropping(*knocks: ir.Knock, rules: tuple[ir.Rule, ...] = ()) -> ir.Policy:
    return replace(policy(*rules, default=ir.Verdict.DROP), knocks=knocks)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Agreement]:
    with agreement(dropping(SSH)) as both:
        yield both


@pytest.fixture
def both(loaded: Agreement) -> Agreement:
    loaded.forget()
    loaded.wait(60 * S)
    return loaded


def send(both: Agreement, packet: str | bytes) -> str:
    decision = both.run(packet)
    return decision.rule or decision.reason


def knocks(both: Agreement, steps: tuple[str, ...] = STEPS, src: str = KNOCKER, gap_ns: int = 0) -> bool:
    """Sends steps, ``gap_ns`` apart, and tells whether the port is open then."""
    for number, step in enumerate(steps):
        if number:
            both.wait(gap_ns)
        assert send(both, packet_of(step, src)) == STEP
    reason = send(both, packet_of("22/tcp", src))
    assert reason in (PASSED, SHUT)
    return reason == PASSED


# --- times ---


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
@pytest.mark.parametrize(
    ("gap_ns", "opened"), [(0, True), (1, True), (5 * S - 1, True), (5 * S, True), (5 * S + 1, False), (9 * S, False)]
)
def test_the_edge_of_a_gap(both: Agreement, gap_ns: int, opened: bool, src: str) -> None:
    assert knocks(both, src=src, gap_ns=gap_ns) == opened


def test_the_edge_of_the_whole() -> None:
    path = ("7000/tcp", "9000/udp", "8000/tcp", "6000/tcp")
    within = knock("ssh", sequence(" ".join(path), within=9 * S, step=5 * S))
    for gap_ns, opened in ((3 * S, True), (3 * S + 1, False)):
        with agreement(dropping(within)) as both:
            assert knocks(both, path, gap_ns=gap_ns) == opened


@pytest.mark.parametrize("start_ns", [1, 5, 1 << 28, (1 << 28) - 1, 1 << 32, (1 << 40) - 1, 1 << 50])
def test_at_any_time_since_boot(both: Agreement, start_ns: int) -> None:
    both.now = both.now._replace(boot_ns=start_ns)
    assert knocks(both, gap_ns=4 * S)
    both.now = START


@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("before_ns", [20 * S, 6 * S, 5 * S, 1, 0, -1, -20 * S])
def test_for_years(both: Agreement, rounds: int, before_ns: int) -> None:
    """Markers have 28 bits for the time, which go round."""
    both.now = both.now._replace(boot_ns=rounds * MARKER_ROUND_NS - before_ns)
    assert knocks(both, gap_ns=4 * S)
    both.wait(30 * S)
    assert not knocks(both, STEPS[:2])
    both.wait(10 * S)
    assert send(both, packet_of("8000/tcp")) == STEP
    assert send(both, packet_of("22/tcp")) == SHUT
    both.now = START


# --- floods of spoofed sources ---


class Flood:
    """Packets of many sources, to the kernel alone: the reference would remember them all."""

    def __init__(self, both: Agreement) -> None:
        self.both = both

    def send(self, *steps: str, count: int = FLOOD) -> None:
        """Each step of each source, one source after the other."""
        heads = [parse_packet(packet_of(step)) for step in steps]
        at = 14 + 12
        parts = [(head[:at], head[at + 4 :]) for head in heads]
        run, now = self.both.generation.run, self.both.now
        for number in range(count):
            source = (0x0B000000 + number * 7).to_bytes(4)
            for before, after in parts:
                run(before + source + after, boot_ns=now.boot_ns, wall_ns=now.wall_ns)

    def reason(self, packet: str) -> str | None:
        now = self.both.now
        return self.both.generation.run(parse_packet(packet), boot_ns=now.boot_ns, wall_ns=now.wall_ns).reason

    def opens(self, src: str, *steps: str) -> bool:
        for step in steps:
            assert self.reason(packet_of(step, src)) == STEP
        return self.reason(packet_of("22/tcp", src)) == PASSED


@pytest.fixture
def flood() -> Iterator[Flood]:
    """A generation of its own: what it has counted and told nobody compares."""
    made = dropping(SSH)
    with Generation.load(compile_policy(made), interfaces=[1000], targets=[], trace=True) as generation:
        yield Flood(Agreement(made, generation))


@pytest.mark.parametrize("spoofed", [STEPS[:1], STEPS[:2]])
def test_a_flood_breaks_no_sequence_and_evicts_no_grant(flood: Flood, spoofed: tuple[str, ...]) -> None:
    """Ten times the size of a step's table, before, between and after the steps of one who knocks."""
    holders = [f"192.0.2.{number}" for number in range(100)]
    assert all(flood.opens(holder, *STEPS) for holder in holders)
    for src in (KNOCKER, KNOCKER6):
        for step in STEPS:
            flood.send(*spoofed)
            flood.both.wait(1 * S)
            assert flood.reason(packet_of(step, src)) == STEP
        assert flood.reason(packet_of("22/tcp", src)) == PASSED
    flood.send(*spoofed)
    assert all(flood.reason(packet_of("22/tcp", src)) == PASSED for src in (*holders, KNOCKER, KNOCKER6))
    assert flood.both.generation.state is not None
    assert len(flood.both.generation.state.list_grants()) == 2 * len(holders) + 4


def test_a_flood_gives_nobody_a_step_that_it_had_not_got_right(flood: Flood) -> None:
    """Whoever falls into a slot that it has taken counts as having come as far as the flood, and no further."""
    flood.send(STEPS[0])
    assert not flood.opens("192.0.2.1", "8000/tcp")
    assert not flood.opens("192.0.2.2", "9000/udp")
    assert not flood.opens("192.0.2.3", "8000/tcp", "9000/udp")
    flood.both.wait(5 * S + 1)
    assert not flood.opens("192.0.2.4", "9000/udp", "8000/tcp"), "what the flood had done is over"


def test_a_flood_of_wrong_packets_takes_no_slot(flood: Flood) -> None:
    assert flood.reason(packet_of("7000/tcp")) == STEP
    flood.send("9000/udp", "8000/tcp", "23/tcp", count=20000)
    assert flood.both.generation.state is not None
    assert flood.both.generation.state.half_done(flood.both.now.boot_ns) == 1
    assert flood.opens(KNOCKER, *STEPS[1:])


# --- sources that share slots ---


def neighbour(of: str, step: ir.Knock = SSH) -> str:
    """A source that has the slot of another in the tables of steps, and another marker."""
    image = compile_policy(dropping(step))
    identity = abi.unpack("sequence", image.knocks.sequences).id
    own = Source(ir.Family.IPV4, frames.SRC_V4)
    assert of == KNOCKER
    wanted = slot(progress_tag(own, identity))
    for address in range(0x0B000000, 0x0C000000):
        other = Source(ir.Family.IPV4, address)
        shares_marker = source_hash(other) >> 48 == source_hash(own) >> 48
        if slot(progress_tag(other, identity)) == wanted and not shares_marker:
            return ".".join(map(str, address.to_bytes(4)))
    raise AssertionError("none of 16 million")


def test_neighbours_in_a_slot_both_get_through(flood: Flood) -> None:
    other = neighbour(KNOCKER)
    for step in STEPS:
        for src in (KNOCKER, other):
            assert flood.reason(packet_of(step, src)) == STEP
    assert [flood.reason(packet_of("22/tcp", src)) for src in (KNOCKER, other)] == [PASSED] * 2


def test_a_neighbour_s_wrong_packets_break_only_its_own(flood: Flood) -> None:
    other = neighbour(KNOCKER)
    assert flood.reason(packet_of("7000/tcp")) == STEP
    for packet in ("8000/tcp", "23/tcp", "22/tcp"):
        assert flood.reason(packet_of(packet, other)) in (STEP, "default", SHUT)
    assert flood.opens(KNOCKER, *STEPS[1:])


# --- in real time ---


def test_without_trace_on_the_real_clock() -> None:
    passing = rule(1, Match(proto=one(6), dport=one(80)), ActionKind.PASS)
    quick = knock("ssh", sequence(" ".join(STEPS), within=10 * S, step=10 * S), lasts=200 * MS)
    image = compile_policy(dropping(quick, rules=(passing,)))
    with Generation.load(image, interfaces=[LOOPBACK], targets=[]) as generation:

        def passes(packet: str, src: str = KNOCKER) -> bool:
            return generation.run(parse_packet(packet_of(packet, src))).verdict == "pass"

        assert [passes(step) for step in ("7000/tcp", "80/tcp", "9000/udp", "9000/udp", "8000/tcp")] == [
            *(False, True, False, False, False)
        ]
        assert passes("22/tcp")
        assert not passes("22/tcp", "198.51.100.8")
        while passes("22/tcp"):
            pass  # until the grant is over
        assert [passes(step) for step in ("7000/tcp", "23/tcp", "9000/udp", "8000/tcp", "22/tcp")] == [False] * 5


def test_floods_are_told_of_by_number_only() -> None:
    """On the real clock, where it is the ticks that say until when no more need be told."""
    image = compile_policy(dropping(SSH))
    with Generation.load(image, interfaces=[LOOPBACK], targets=[]) as generation:
        state = generation.state
        assert state is not None
        frame = parse_packet(packet_of("7000/tcp"))
        sent = 3000
        for number in range(sent):
            generation.run(frame[:26] + (0x0B000000 + number).to_bytes(4) + frame[30:])
        kind = int(abi.EventKind.EVENT_STEP)
        with state.kernel_ring() as ring:
            told = [record for record in ring.read(0).records if record.kind == kind]
        assert abi.Limit.EVENTS_PER_SECOND <= len(told) < sent
        assert len(told) + sum(record.suppressed for record in told) + state.suppressed()[kind] == sent
        limit = abi.unpack("event_limit", state.event_limits.read(kind))
        assert limit.full_until_tick > 0
