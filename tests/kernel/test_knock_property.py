# SPDX-License-Identifier: GPL-2.0-or-later
"""Drawn policies with knocks and what is sent to them: each decision of the kernel is the reference's, and at the end
every counter, event, grant and last time of a key.

``pytest --hypothesis-profile=thorough`` draws many more, and others each time.
"""

from __future__ import annotations

import pytest
from hypothesis import given, reject, settings

from tests.kernel.agreement import agreement
from tests.knock_strategies import Sent, conversations
from tests.knocking import Firewall, knock, packet_of, sequence
from tests.policies import one, rule
from tests.shapes import SHAPES, shaped
from tests.test_knock_property import STEP, WITHIN, Probe, traffic
from xdpfw.compiler import ir
from xdpfw.errors import CapacityError
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.memory import START

pytestmark = pytest.mark.needs("privileges", "data plane")


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=settings().max_examples // 2, deadline=None)
@given(drawn=conversations())
def test_kernel_and_reference_agree(shape: str, drawn: tuple[ir.Policy, list[Sent]]) -> None:
    policy, sent = drawn
    try:
        with shaped(shape), agreement(policy) as both:
            for frame, interface, now in sent:
                both.now = now
                both.run(frame, interface)
    except CapacityError:
        reject()


@settings(deadline=None)
@given(drawn=traffic())
def test_they_agree_on_steps_that_come_thick_and_fast(drawn: tuple[list[tuple[str, ...]], list[Probe]]) -> None:
    """Few steps, so that the same packet goes on with one sequence, breaks another and begins a third."""
    paths, probes = drawn
    policy = Firewall(
        [knock(f"k{at}", sequence(" ".join(path), WITHIN, STEP), "22/tcp") for at, path in enumerate(paths)],
        [rule(0, ir.Match(proto=one(6), dport=one(80)), ir.ActionKind.PASS)],
    ).policy
    sent = [Sent(parse_packet(packet_of(what, src)), 0, START.after(time_ns)) for what, src, time_ns in probes]
    with agreement(policy) as both:
        for frame, interface, now in sent:
            both.now = now
            both.run(frame, interface)
