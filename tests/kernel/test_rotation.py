# SPDX-License-Identifier: GPL-2.0-or-later
"""Rotating sequences in the kernel: which windows count and when, each packet against the reference, too.

In test runs each packet asks for the time. In real time a filter spares that; it has tests of its own, on the real
clock.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.kernel.agreement import Agreement, agreement
from tests.knocking import KNOCKER, KNOCKER6, MS, PASSED, SHUT, STEP, S, end, knock, packet_of, prefixes
from tests.policies import one, policy, rule
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.ir import ActionKind, Match
from xdpfw.kernel import abi
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK
from xdpfw.knock import rotation as client
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.memory import START, Instant

pytestmark = pytest.mark.needs("privileges", "data plane")

EVERY = 30 * S
ROTATION = ir.Rotation(bytes(range(32)), EVERY, ir.Range(10000, 60000), 4, 10 * S, 10 * S)
HOME = knock("home", ROTATION, "8443/tcp")
QUICK = knock("home", replace(ROTATION, every_ns=1 * S), "8443/tcp")
PASS_ALL = rule(1, Match(proto=one(6, 17)), ActionKind.PASS)


def dropping(*knocks: ir.Knock, rules: tuple[ir.Rule, ...] = ()) -> ir.Policy:
    return replace(policy(*rules, default=ir.Verdict.DROP), knocks=knocks)


def steps(window: int, rotation: ir.Rotation = ROTATION) -> list[str]:
    """What a client knocks in a window."""
    found = client.steps(rotation.secret, window, rotation.ports.low, rotation.ports.high, rotation.length)
    return [str(step) for step in found]


def send(both: Agreement, packet: str | bytes) -> str:
    decision = both.run(packet)
    return decision.rule or decision.reason


def knocks(both: Agreement, steps: list[str], src: str = KNOCKER) -> None:
    for step in steps:
        assert send(both, packet_of(step, src)) == STEP, step


def is_open(both: Agreement, src: str = KNOCKER, port: str = "8443/tcp") -> bool:
    reason = send(both, packet_of(port, src))
    assert reason in (PASSED, SHUT)
    return reason == PASSED


def window(both: Agreement, every_ns: int = EVERY) -> int:
    return both.now.wall_ns // every_ns


@pytest.fixture(scope="module")
def loaded() -> Iterator[Agreement]:
    with agreement(dropping(HOME)) as both:
        yield both


@pytest.fixture
def both(loaded: Agreement) -> Agreement:
    loaded.forget()
    return loaded


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
@pytest.mark.parametrize("offset", range(-4, 5))
def test_three_windows_open(both: Agreement, offset: int, src: str) -> None:
    for step in steps(window(both) + offset):
        assert send(both, packet_of(step, src)) == (STEP if abs(offset) <= 1 else "default")
    assert is_open(both, src) == (abs(offset) <= 1)


@pytest.mark.parametrize("length", range(1, 17))
def test_each_length(length: int) -> None:
    rotation = replace(ROTATION, length=length)
    with agreement(dropping(replace(HOME, way=rotation))) as both:
        path = steps(window(both), rotation)
        for at, step in enumerate(path):
            assert not is_open(both) or at == length
            both.memory.progress.clear()  # the closed port has broken it
            knocks(both, path[:at])
            knocks(both, [step])
        assert is_open(both)


@pytest.mark.parametrize(
    "ports", [(1, 65535), (65535, 65535), (7, 7), (1, 2), (1024, 65535), (32768, 60999), (10000, 10015)]
)
def test_each_range_of_ports(ports: tuple[int, int]) -> None:
    """Where there are few, steps are alike, and one may be several."""
    rotation = replace(ROTATION, ports=ir.Range(*ports), length=16)
    with agreement(dropping(knock("home", rotation, "80/tcp"))) as both:
        for offset, src in itertools.product((-1, 0, 1), (KNOCKER, KNOCKER6)):
            for step in steps(window(both) + offset, rotation):
                both.run(packet_of(step, src))
            both.run(packet_of("80/tcp", src))
            both.wait(EVERY)


def test_the_derivation_is_the_client_s_for_numbers_of_any_size() -> None:
    fast = replace(ROTATION, every_ns=1000)
    with agreement(dropping(replace(HOME, way=fast))) as both:
        for number in (1, 2, 3, 4, 255, 1 << 16, (1 << 32) - 1, 1 << 32, 1 << 33, (1 << 54) + 3):
            both.now = Instant(both.now.boot_ns + 2 * S, number * 1000)
            for offset in (-1, 0, 1):
                both.forget()
                knocks(both, steps(number + offset))
                assert is_open(both), (number, offset)


def test_at_the_beginning_of_time(both: Agreement) -> None:
    """The window before the first has a number, too: 2^64 - 1."""
    both.now = START._replace(wall_ns=0)
    for number in (-1, 0, 1):
        both.forget()
        knocks(both, steps(number % (1 << 64)))
        assert is_open(both)
    both.now = START


def test_windows_do_not_mix(both: Agreement) -> None:
    old, new = steps(window(both)), steps(window(both) + 1)
    knocks(both, [*old[:2], *new[2:]])
    assert not is_open(both)


@pytest.mark.parametrize(
    ("wait_ns", "opened"), [(1 * S, True), (2 * S - 1, True), (2 * S, False), (2 * S + 1, False), (3 * S, False)]
)
def test_a_sequence_may_go_on_into_the_next_window_and_no_further(wait_ns: int, opened: bool) -> None:
    with agreement(dropping(QUICK)) as both:
        *first, last = steps(window(both, S))
        knocks(both, first)
        both.wait(wait_ns)
        assert (send(both, packet_of(last)) == STEP) == opened
        assert is_open(both) == opened


def test_each_step_in_another_window_as_long_as_they_count() -> None:
    """Begun with the next window's steps, a nanosecond before the window, it may take two of them."""
    with agreement(dropping(QUICK)) as both:
        both.now = both.now.after(S - 1)
        path = steps(window(both, S) + 1)
        for step in path:
            knocks(both, [step])
            both.wait(660 * MS)
        both.now = both.now.after(-660 * MS)
        assert is_open(both)


def test_a_window_that_is_over_takes_its_progress_with_it() -> None:
    with agreement(dropping(QUICK)) as both:
        knocks(both, steps(window(both, S))[:3])
        both.wait(2 * S)
        told = len(both.told.records)
        assert send(both, packet_of("23/tcp")) == "default"
        assert len(both.told.records) == told


def test_a_wall_clock_that_steps_takes_the_windows_along(both: Agreement) -> None:
    for step_ns in (-3600 * S, 3600 * S, 365 * 86400 * S):
        both.now = both.now._replace(wall_ns=both.now.wall_ns + step_ns)
        both.forget()
        knocks(both, steps(window(both)))
        assert is_open(both)
    both.now = START


def test_any_other_packet_breaks_it(both: Agreement) -> None:
    for other in ("23/tcp", "53/udp", "8443/tcp"):
        knocks(both, steps(window(both))[:3])
        assert send(both, packet_of(other)) in ("default", SHUT)
        knocks(both, steps(window(both))[3:])
        assert not is_open(both)


def test_what_is_no_step_at_the_moment_meets_the_rules() -> None:
    drop = rule(2, Match(proto=one(6), dport=one(20000, 20999)), ActionKind.DROP)
    count = rule(3, Match(), ActionKind.COUNT)
    with agreement(dropping(HOME, rules=(drop, count, PASS_ALL))) as both:
        now = {int(step.split("/")[0]) for offset in (-1, 0, 1) for step in steps(window(both) + offset)}
        for port in range(10000, 60001, 499):
            if port not in now:
                for protocol in ("tcp", "udp"):
                    wanted = "r2" if protocol == "tcp" and 20000 <= port <= 20999 else "r1"
                    assert send(both, packet_of(f"{port}/{protocol}")) == wanted
        knocks(both, steps(window(both)))
        assert is_open(both)
        assert both.counted("r3") > 100


def test_of_another_protocol_or_kind_it_is_no_step(both: Agreement) -> None:
    first, second, *_ = steps(window(both))
    assert send(both, packet_of(first, options="SEW")) == STEP
    assert send(both, packet_of(second, options="payload=00 vlan=7 options")) == STEP
    for flags in ("A", "SA", "F", "R", "FPU", "none", "SF", "SR", "SP", "SU"):
        assert send(both, packet_of(first, options=flags)) == "default"
    assert send(both, packet_of(first, options="S payload=00")) == STEP
    for packet in (
        packet_of(second.replace("udp", "tcp")),
        packet_of(first.replace("tcp", "udp")),
        packet_of(second, options="frag=first"),
        packet_of(second, options="frag=later"),
        f"udplite {end(KNOCKER, 1)} > {end('203.0.113.1', int(second.split('/')[0]))}",
    ):
        assert send(both, packet) == "default"


@pytest.mark.parametrize("group", ["224.0.0.251", "255.255.255.255", "ff02::fb"])
def test_announcements_neither_knock_nor_break(both: Agreement, group: str) -> None:
    src = KNOCKER6 if ":" in group else KNOCKER
    for step in steps(window(both)):
        assert send(both, packet_of(step, src, group)) == STEP
        assert send(both, packet_of("5353/udp", src, group)) == "default"
        knocks(both, [step], src)
    assert is_open(both, src)


def test_eight_rotations_over_the_same_ports_with_sequences_within() -> None:
    """Each opens its own port; a step of one is wrong for all others; written steps lie in the range."""
    rotating = [
        knock(f"k{n}", replace(ROTATION, secret=bytes((n,) * 32), length=3, ports=ir.Range(10000, 10000 + 6900 * n)),
              f"{100 + n}/tcp")
        for n in range(1, 9)
    ]  # fmt: skip
    opened = [99, *range(101, 109)]
    written = knock("written", "10001/tcp 10002/udp 10003/tcp", "99/tcp", close="10003/tcp 10001/tcp")
    with agreement(dropping(*rotating[:4], written, *rotating[4:])) as both:
        for n, each in enumerate(rotating, 1):
            assert isinstance(each.way, ir.Rotation)
            knocks(both, steps(window(both), each.way))
            assert [p for p in opened if is_open(both, port=f"{p}/tcp")] == [*range(101, 101 + n)]
        knocks(both, ["10001/tcp", "10002/udp", "10003/tcp"])
        assert is_open(both, port="99/tcp")
        paths = [steps(window(both), each.way) for each in rotating if isinstance(each.way, ir.Rotation)]
        both.forget()
        for at, turn in enumerate(zip(*paths, strict=True)):
            both.wait(2 * S)
            for step in turn:
                knocks(both, [step])
            assert at < 3
        assert [p for p in opened if is_open(both, port=f"{p}/tcp")] == []


def test_two_rotations_of_the_same_secret() -> None:
    """Whoever has one has both."""
    other = replace(HOME, name="other", opens=(ir.Service(6, 9443),))
    with agreement(dropping(HOME, other)) as both:
        knocks(both, steps(window(both)))
        assert (is_open(both), is_open(both, port="9443/tcp")) == (True, True)


def test_destinations() -> None:
    here = replace(HOME, to=prefixes("203.0.113.1", "2001:db8::1"))
    with agreement(dropping(here, rules=(PASS_ALL,))) as both:
        for step in steps(window(both)):
            assert send(both, packet_of(step, dst="203.0.113.2")) == "r1"
            knocks(both, [step])
        assert send(both, packet_of("8443/tcp", dst="203.0.113.2")) == "r1"
        assert is_open(both)


def test_an_opened_port_an_spa_port_and_a_rule_within_the_range() -> None:
    spa = knock("spa", ir.Spa(20000, (ir.SpaKey(1, "laptop", bytes(range(32))),), 30 * S), "30000/tcp")
    inside = replace(HOME, opens=(ir.Service(6, 40000),))
    with agreement(dropping(inside, spa)) as both:
        assert send(both, packet_of("20000/udp")) == "knock.spa_malformed"
        assert send(both, packet_of("20000/tcp")) == "default"
        assert send(both, packet_of("30000/tcp")) == SHUT
        knocks(both, steps(window(both)))
        assert is_open(both, port="40000/tcp")
        assert not is_open(both, port="30000/tcp")


# --- in real time, where a filter spares most packets the question for the time ---


class Real:
    """A generation that does not trace: the kernel's own clocks, and verdicts alone."""

    def __init__(self, generation: Generation, rotation: ir.Rotation) -> None:
        self.generation = generation
        self.rotation = rotation

    def window(self) -> int:
        return time.time_ns() // self.rotation.every_ns

    def passes(self, packet: str) -> bool:
        return self.generation.run(parse_packet(packet)).verdict == "pass"

    def ports(self, number: int) -> list[int]:
        found = client.steps(self.rotation.secret, number, *self.rotation.ports, self.rotation.length)
        return [step.number for step in found]

    def filter(self) -> tuple[int, set[int]]:
        """Until which tick it holds, and the bits that are set."""
        value = abi.unpack("filter", self.generation.maps.filters.read(0))
        return value.valid_until_tick, {at for at in range(1024) if value.bits[at // 64] >> at % 64 & 1}


def filter_bit(port: int, is_udp: bool) -> int:
    return ((port << 1 | is_udp) * 0x9E3779B1 & 0xFFFFFFFF) >> 22


TICK_NS = 10 * MS
"""The longest there is. The kernel asks for the time once a tick."""


def test_in_real_time_each_window_opens_while_it_counts() -> None:
    """Over several windows: the filter is renewed again and again, by packets that are no steps and by steps."""
    rotation = replace(ROTATION, every_ns=300 * MS, length=3)
    rules = (PASS_ALL,)
    image = compile_policy(dropping(knock("home", rotation, "8443/tcp", lasts=50 * MS), rules=rules))
    seen: dict[int, set[int]] = {}
    with Generation.load(image, interfaces=[LOOPBACK], targets=[]) as generation:
        real = Real(generation, rotation)
        first = real.window()
        for turn in itertools.count():
            before = real.window()
            offset = (-1, 0, 1)[turn % 3]
            src = f"198.51.100.{turn % 200 + 1}"
            step_ports = {port for number in (-1, 0, 1) for port in real.ports(before + number)}
            stray = next(port for port in range(10000 + turn, 60000) if port not in step_ports)
            stray_passed = real.passes(packet_of(f"{stray}/tcp", src))
            path = [
                packet_of(f"{port}/{('tcp', 'udp')[at % 2]}", src)
                for at, port in enumerate(real.ports(before + offset))
            ]
            steps_passed = [real.passes(packet) for packet in path]
            opened = real.passes(packet_of("8443/tcp", src))
            if real.window() != before or (time.time_ns() - TICK_NS) // rotation.every_ns != before:
                continue  # what counted has changed meanwhile, or only just
            assert stray_passed
            assert not any(steps_passed)
            assert opened
            generation.forget()
            seen.setdefault(before, set()).add(offset)
            if before >= first + 8 and len(seen[before]) == 3:
                break
    assert sum(offsets == {-1, 0, 1} for offsets in seen.values()) >= 3


@pytest.mark.parametrize("length", [3, 16])
def test_in_real_time_the_filter_has_the_steps_of_all_three_windows(length: int) -> None:
    rotation = replace(ROTATION, every_ns=3600 * S, length=length)
    image = compile_policy(dropping(replace(HOME, way=rotation), rules=(PASS_ALL,)))
    while True:
        with Generation.load(image, interfaces=[LOOPBACK], targets=[]) as generation:
            real = Real(generation, rotation)
            before = (time.time_ns() - TICK_NS) // rotation.every_ns
            ports = [(port, at % 2) for number in (-1, 0, 1) for at, port in enumerate(real.ports(before + number))]
            wanted = {filter_bit(port, is_udp == 1) for port, is_udp in ports}
            assert real.filter() == (0, set())
            assert real.passes(packet_of("9999/tcp")), "out of the range, nobody asks"
            assert real.filter() == (0, set())
            stray, other = (
                next(port for port in range(10000, 60000) if filter_bit(port, is_udp) not in wanted)
                for is_udp in (False, True)
            )
            assert real.passes(packet_of(f"{stray}/tcp"))
            until, bits = real.filter()
            assert real.passes(packet_of(f"{other}/udp"))
            first_passed = real.passes(packet_of(f"{ports[0][0]}/tcp"))
            again = real.filter()
            alike = next(
                port
                for port in range(10000, 60000)
                if filter_bit(port, False) == filter_bit(ports[0][0], False) and (port, 0) not in ports
            )
            alike_passed = real.passes(packet_of(f"{alike}/tcp"))
            if real.window() != before:
                continue
        assert until > 0
        assert bits == wanted
        assert not first_passed
        assert again == (until, bits), "it still holds"
        assert alike_passed, "what only looks like a step meets the rules"
        break
