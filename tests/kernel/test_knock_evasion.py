# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports that knocks open, against whatever might slip past them: nothing does without a grant, and with one only what
it is for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests import frames
from tests.kernel.agreement import FIRST_IFINDEX, Agreement, agreement
from tests.kernel.odd_frames import INVALID, VALID
from tests.kernel.test_evasion import FIRST, KINDS, LATER, LIES, PADDING, TINY
from tests.knocking import HOST, HOST6, KNOCKER, KNOCKER6, PASSED, SHUT, STEP, S, end, knock, packet_of, prefixes
from tests.policies import one, policy, prefix, rule
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.ir import ActionKind, Match
from xdpfw.kernel.program import Generation
from xdpfw.packet.decode import Invalid, decode
from xdpfw.packet.notation import parse_packet

pytestmark = pytest.mark.needs("privileges", "data plane")

STEPS = ("7000/tcp", "9000/udp", "8000/tcp")
SSH = knock("ssh", " ".join(STEPS), "22/tcp", lasts=300 * S)
SOURCES = (KNOCKER, KNOCKER6)


def with_knocks(*knocks: ir.Knock, default: ir.Verdict, rules: tuple[ir.Rule, ...] = ()) -> ir.Policy:
    return replace(policy(*rules, default=default), knocks=knocks)


@pytest.fixture(scope="module", params=[ir.Verdict.DROP, ir.Verdict.PASS])
def loaded(request: pytest.FixtureRequest) -> Iterator[Agreement]:
    other = knock("other", "1000/tcp 1001/udp", "23/tcp 22/udp")
    with agreement(with_knocks(SSH, other, default=request.param)) as both:
        yield both


@pytest.fixture
def both(loaded: Agreement) -> Agreement:
    loaded.forget()
    loaded.wait(400 * S)
    return loaded


def knocks(both: Agreement, src: str = KNOCKER, steps: tuple[str, ...] = STEPS) -> None:
    for step in steps:
        assert both.run(packet_of(step, src)).reason == STEP


def odd() -> list[bytes]:
    """Frames of the knockers to port 22, and what looks like that."""
    found = [frame for kind in INVALID.values() for frame in kind]
    found += [frame for frame, _ in (*FIRST, *LATER, *LIES.values())]
    found += [*TINY, *(each if isinstance(each, bytes) else each[0] for each in VALID)]
    found += [frames.v4_frame(frames.tcp()) + padding for padding in PADDING]
    found += [frames.v6_frame(*frames.extended([kind], frames.tcp())) for kind in KINDS]
    found += [frames.v4_frame(frames.tcp(flags=flags)) for flags in range(256)]
    found += [frames.v4_frame(frames.tcp(), options=bytes(4 * words)) for words in range(11)]
    tags = [(frames.VLAN, 1), (frames.QINQ, 2), (frames.VLAN, 3), (frames.QINQ, 4), (frames.VLAN, 5)]
    found += [frames.ethernet(frames.IPV4, frames.ipv4(frames.tcp()), tags=tags[:count]) for count in range(6)]
    return found


def is_to_the_port(frame: bytes) -> bool:
    packet = decode(frame)
    return not isinstance(packet, Invalid) and (packet.proto, packet.dport) == (frames.TCP, 22)


def test_odd_frames_do_not_pass_without_a_grant(both: Agreement) -> None:
    to_the_port = 0
    for frame in odd():
        decision = both.run(frame)
        if is_to_the_port(frame):
            to_the_port += 1
            assert (decision.verdict, decision.reason) == ("drop", SHUT)
        else:
            assert decision.verdict == "drop" or decision.reason == "default"
    assert to_the_port > 280


def test_odd_frames_with_a_grant_pass_where_the_plain_packet_does(both: Agreement) -> None:
    for src in SOURCES:
        knocks(both, src)
    for frame in odd():
        decision = both.run(frame)
        assert (decision.reason == PASSED) == is_to_the_port(frame)


@pytest.mark.parametrize("src", SOURCES)
def test_a_grant_is_for_one_port_of_one_protocol(src: str) -> None:
    """All ports, in the kernel alone."""
    other = knock("other", "1000/tcp 1001/udp", "23/tcp 22/udp")
    image = compile_policy(with_knocks(SSH, other, default=ir.Verdict.DROP))
    with Generation.load(image, interfaces=[FIRST_IFINDEX], targets=[], trace=True) as generation:
        for step in STEPS:
            assert generation.run(parse_packet(packet_of(step, src))).reason == STEP
        for protocol, passed in (("tcp", {22}), ("udp", set[int]())):
            frame = parse_packet(packet_of(f"1/{protocol}", src, options="A" if protocol == "tcp" else ""))
            at = 14 + (40 if ":" in src else 20) + 2
            frames_by_port = ((port, frame[:at] + port.to_bytes(2) + frame[at + 2 :]) for port in range(1 << 16))
            assert {port for port, each in frames_by_port if generation.run(each).verdict == "pass"} == passed


@pytest.mark.parametrize("src", SOURCES)
def test_other_protocols_do_not_ride_on_a_grant(both: Agreement, src: str) -> None:
    knocks(both, src)
    dst = HOST6 if ":" in src else HOST
    for name in ("udp", "udplite", "sctp", "dccp"):
        assert both.run(f"{name} {end(src, 40000)} > {end(dst, 22)}").reason in (SHUT, "default")
    for protocol in range(256):
        if protocol not in (frames.TCP, frames.HOP_BY_HOP, *KINDS):
            frame = (frames.v6_frame if ":" in src else frames.v4_frame)(frames.tcp(), protocol)
            assert both.run(frame).reason != PASSED
    assert both.run(packet_of("22/tcp", src)).reason == PASSED


def test_other_sources_do_not_either(both: Agreement) -> None:
    knocks(both)
    knocks(both, KNOCKER6)
    for bit in range(32):
        source = frames.SRC_V4 ^ 1 << bit
        assert both.run(frames.v4_frame(frames.tcp(), src=source)).reason == SHUT
    for bit in range(128):
        assert both.run(frames.v6_frame(frames.tcp(), src=frames.SRC_V6 ^ 1 << bit)).reason == SHUT
    for source in (frames.SRC_V4, frames.SRC_V4 << 96, frames.SRC_V4 << 64, 0xFFFF << 32 | frames.SRC_V4):
        assert both.run(frames.v6_frame(frames.tcp(), src=source)).reason == SHUT
    assert both.run(packet_of("23/tcp")).reason == SHUT


@pytest.mark.parametrize("bits", [1, 8, 23, 24, 25, 31, 32])
def test_the_edges_of_a_scope_in_ipv4(bits: int) -> None:
    own = prefix(frames.SRC_V4, bits)
    with agreement(with_knocks(replace(SSH, scope_v4=bits), default=ir.Verdict.DROP)) as both:
        knocks(both)
        for source in {own.low - 1, own.low, own.high, own.high + 1, frames.SRC_V4 ^ 1, frames.SRC_V4}:
            if 0 <= source < 1 << 32:
                passed = both.run(frames.v4_frame(frames.tcp(), src=source)).reason == PASSED
                assert passed == (own.low <= source <= own.high)


@pytest.mark.parametrize("bits", [1, 48, 63, 64, 65, 127, 128])
def test_the_edges_of_a_scope_in_ipv6(bits: int) -> None:
    own = prefix(frames.SRC_V6, bits, 128)
    with agreement(with_knocks(replace(SSH, scope_v6=bits), default=ir.Verdict.DROP)) as both:
        knocks(both, KNOCKER6)
        for source in {own.low - 1, own.low, own.high, own.high + 1, frames.SRC_V6 ^ 1, frames.SRC_V6}:
            if 0 <= source < 1 << 128:
                passed = both.run(frames.v6_frame(frames.tcp(), src=source)).reason == PASSED
                assert passed == (own.low <= source <= own.high)


def test_other_destinations_meet_the_rules() -> None:
    here = replace(SSH, to=prefixes(HOST, HOST6))
    passing = rule(1, Match(proto=one(6), dport=one(22)), ActionKind.PASS)
    with agreement(with_knocks(here, default=ir.Verdict.DROP, rules=(passing,))) as both:
        for bit in range(32):
            assert both.run(frames.v4_frame(frames.tcp(), dst=frames.DST_V4 ^ 1 << bit)).rule == "r1"
        for bit in range(128):
            assert both.run(frames.v6_frame(frames.tcp(), dst=frames.DST_V6 ^ 1 << bit)).rule == "r1"
        assert both.run(frames.v4_frame(frames.tcp())).reason == SHUT
        assert both.run(frames.v6_frame(frames.tcp())).reason == SHUT


STEP_FORMS = {
    "SYN": (frames.tcp(dport=7000), True),
    "SYN with ECN": (frames.tcp(dport=7000, flags=0xC2), True),
    "SYN with options": (frames.tcp(dport=7000, options=bytes(40)), True),
    **{f"flags {flags:#x}": (frames.tcp(dport=7000, flags=flags), False) for flags in (0, 1, 4, 0x10, 0x12, 0x29, 3)},
    "SYN with data": (frames.tcp(dport=7000) + b"x", None),
}


@pytest.mark.parametrize("form", STEP_FORMS)
def test_what_a_step_looks_like(form: str) -> None:
    """A SYN with data is dropped as a step, and is none."""
    segment, is_right = STEP_FORMS[form]
    with agreement(with_knocks(SSH, default=ir.Verdict.DROP)) as both:
        for src, frame in ((KNOCKER, frames.v4_frame(segment)), (KNOCKER6, frames.v6_frame(segment))):
            assert (both.run(frame + bytes(6)).reason == STEP) == (is_right is not False)
            for step in STEPS[1:]:
                both.run(packet_of(step, src))
            assert (both.run(packet_of("22/tcp", src)).reason == PASSED) == (is_right is True)
