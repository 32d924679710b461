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
