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
from tests.shapes import SHAPES, shaped
from xdpfw.compiler import ir
from xdpfw.errors import CapacityError
from xdpfw.packet.decode import Invalid, decode
from xdpfw.reference.memory import Source

pytestmark = pytest.mark.needs("privileges", "data plane")


def sources_of(sent: list[Sent]) -> list[Source]:
    packets = [decode(frame) for frame, _, _ in sent]
    return [Source.of(packet) for packet in packets if not isinstance(packet, Invalid) and packet.src is not None]


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
