# SPDX-License-Identifier: GPL-2.0-or-later
"""Half-done sequences in the kernel: their times, their slots, and what floods do to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.kernel.agreement import Agreement, agreement
from tests.knocking import KNOCKER, KNOCKER6, MS, PASSED, SHUT, STEP, S, knock, packet_of, sequence
from tests.policies import one, policy, rule
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.ir import ActionKind, Match
from xdpfw.kernel import abi
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.memory import START

pytestmark = pytest.mark.needs("privileges", "data plane")

STEPS = ("7000/tcp", "9000/udp", "8000/tcp")
SSH = knock("ssh", sequence(" ".join(STEPS), within=10 * S, step=5 * S))
BEGINNINGS = abi.Limit.BEGINNING_BUCKETS
PROGRESS = abi.Limit.PROGRESS_BUCKETS
"""So many sources at once have one in each bucket, of eight places, on average."""

MS_ROUND_NS = (1 << 32) * MS
"""After so long the milliseconds of half-done sequences begin again: 49 days."""


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
    ("gap_ns", "opened"), [(0, True), (1, True), (5 * S - 1, True), (5 * S, True), (5 * S + MS, False), (9 * S, False)]
)
def test_the_edge_of_a_gap(both: Agreement, gap_ns: int, opened: bool, src: str) -> None:
    assert knocks(both, src=src, gap_ns=gap_ns) == opened


def test_the_edge_of_the_whole() -> None:
    path = ("7000/tcp", "9000/udp", "8000/tcp", "6000/tcp")
    within = knock("ssh", sequence(" ".join(path), within=9 * S, step=5 * S))
    for gap_ns, opened in ((3 * S, True), (3 * S + MS, False)):
        with agreement(dropping(within)) as both:
            assert knocks(both, path, gap_ns=gap_ns) == opened


@pytest.mark.parametrize("start_ns", [1, 5, 1 << 28, (1 << 28) - 1, 1 << 32, (1 << 40) - 1, 1 << 50])
def test_at_any_time_since_boot(both: Agreement, start_ns: int) -> None:
    both.now = both.now._replace(boot_ns=start_ns)
    assert knocks(both, gap_ns=4 * S)
    both.now = START


@pytest.mark.parametrize("rounds", [1, 17, 200])
@pytest.mark.parametrize("before_ns", [20 * S, 6 * S, 5 * S, 1, 0, -1, -20 * S])
def test_for_years(both: Agreement, rounds: int, before_ns: int) -> None:
    """Of half-done sequences, 32 bits of the milliseconds are kept, which go round."""
    both.now = both.now._replace(boot_ns=rounds * MS_ROUND_NS - before_ns)
    assert knocks(both, gap_ns=4 * S)
    both.wait(30 * S)
    assert not knocks(both, STEPS[:2])
    both.wait(10 * S)
    assert send(both, packet_of("8000/tcp")) == STEP
    assert send(both, packet_of("22/tcp")) == SHUT
    both.now = START


def test_the_first_step_begins_anew_wherever_one_is(both: Agreement) -> None:
    for before in (("7000/tcp", "9000/udp"), ("7000/tcp", "8000/tcp"), ("9000/udp",)):
        for step in before:
            assert send(both, packet_of(step)) == STEP
        assert knocks(both, gap_ns=4 * S)
        both.wait(60 * S)


# --- floods of spoofed sources ---


class Flood:
    """Packets of many sources, to the kernel alone: the reference would remember them all."""

    def __init__(self, both: Agreement) -> None:
        self.both = both
        self.first = 0x0B000000

    def send(self, *steps: str, count: int) -> None:
        """Each step of each source, one source after the other."""
        heads = [parse_packet(packet_of(step)) for step in steps]
        at = 14 + 12
        parts = [(head[:at], head[at + 4 :]) for head in heads]
        run, now = self.both.generation.run, self.both.now
        for number in range(count):
            source = (self.first + number * 7).to_bytes(4)
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
    with Generation.load(compile_policy(made), interfaces=[1000], targets=[], trace=True, full_size=True) as generation:
        yield Flood(Agreement(made, generation))


@pytest.mark.parametrize(
    ("spoofed", "count"),
    [
        pytest.param(STEPS[:1], BEGINNINGS, id="first steps"),
        pytest.param((STEPS[0], "23/tcp"), BEGINNINGS // 2, id="first steps, given up"),
        pytest.param(STEPS[:2], PROGRESS, id="two steps"),
        pytest.param((*STEPS[:2], "23/tcp"), PROGRESS // 2, id="two steps, given up"),
        pytest.param(STEPS, 20000, id="whole knocks"),
    ],
)
def test_a_flood_breaks_no_sequence_and_evicts_no_grant(flood: Flood, spoofed: tuple[str, ...], count: int) -> None:
    """Before each of the steps of one who knocks, and at last."""
    holders = [f"192.0.2.{number}" for number in range(20)]
    assert all(flood.opens(holder, *STEPS) for holder in holders)
    for number, step in enumerate(STEPS):
        flood.send(*spoofed, count=count // (number + 1))
        flood.both.wait(1 * S)
        assert [flood.reason(packet_of(step, src)) for src in (KNOCKER, KNOCKER6)] == [STEP] * 2
    flood.send(*spoofed, count=1000)
    assert [flood.reason(packet_of("22/tcp", src)) for src in (*holders, KNOCKER, KNOCKER6)] == [PASSED] * 22


def test_a_flood_gives_nobody_a_step(flood: Flood) -> None:
    """Each source has what it has done itself, whoever shares its bucket."""
    flood.send(STEPS[0], count=BEGINNINGS)
    flood.send(*STEPS[:2], count=PROGRESS)
    for number in range(200):
        assert not flood.opens(f"192.0.2.{number}", "8000/tcp")
        assert not flood.opens(f"192.0.3.{number}", "9000/udp", "8000/tcp")


def test_a_sweep_by_many_sources_opens_nothing(flood: Flood) -> None:
    """A packet each, over the ports of the knock, again and again."""
    for _ in STEPS:
        for step in ("7000/tcp", "8000/tcp", "9000/udp"):
            flood.send(step, count=20000)
            # Others each time: the next sources' packets are not the next steps of these.
            flood.first += 20000 * 7
    assert flood.both.generation.state is not None
    assert flood.both.generation.state.list_grants() == []


def test_who_knows_one_knock_rides_on_nothing_to_another(flood: Flood) -> None:
    other = knock("other", sequence("7123/tcp 9456/tcp 8789/tcp"), opens="8443/tcp")
    made = dropping(SSH, other)
    with Generation.load(compile_policy(made), interfaces=[1000], targets=[], trace=True, full_size=True) as generation:
        both = Flood(Agreement(made, generation))
        both.send(*STEPS[:2], count=PROGRESS)
        for number in range(200):
            assert both.reason(packet_of("8789/tcp", f"192.0.2.{number}")) == STEP
            assert both.reason(packet_of("8443/tcp", f"192.0.2.{number}")) == SHUT


@pytest.mark.parametrize("twin", ["2a01:203::", "2a01:203::3"])
def test_the_families_are_apart(flood: Flood, twin: str) -> None:
    """42.1.2.3 and its twin have the same bits in the same places."""
    assert [flood.reason(packet_of(step, "42.1.2.3")) for step in STEPS[:2]] == [STEP] * 2
    assert not flood.opens(twin, "8000/tcp")
    assert flood.reason(packet_of("23/tcp", twin)) == "default"
    assert flood.opens("42.1.2.3", "8000/tcp")


@pytest.mark.parametrize("done", [1, 2])
def test_where_a_table_is_full_the_oldest_make_room(done: int) -> None:
    """The tables of test runs have places for 8192 sources."""
    made = dropping(SSH)
    with Generation.load(compile_policy(made), interfaces=[1000], targets=[], trace=True) as generation:
        flood = Flood(Agreement(made, generation))
        flood.send(*STEPS[:done], count=40000)
        flood.both.wait(10 * MS)
        knockers = [f"192.0.2.{number}" for number in range(100)]
        for src in knockers:
            assert [flood.reason(packet_of(step, src)) for step in STEPS[:done]] == [STEP] * done
        flood.both.wait(10 * MS)
        flood.first += 40000 * 7
        flood.send(*STEPS[:done], count=1000)
        assert all(flood.opens(src, *STEPS[done:]) for src in knockers)


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
