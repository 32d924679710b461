# SPDX-License-Identifier: GPL-2.0-or-later
"""Drawn policies in the kernel against the reference: verdict, reason, rule, frame of each packet; then all counters.

``pytest --hypothesis-profile=thorough`` draws many more, and others each time.
"""

from __future__ import annotations

import pytest
from hypothesis import given, reject, settings

from tests.kernel.agreement import agreement
from tests.shapes import SHAPES, shaped
from tests.strategies import policies_with_frames
from xdpfw.compiler import ir
from xdpfw.errors import CapacityError

pytestmark = pytest.mark.needs("privileges", "data plane")


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=settings().max_examples // 2, deadline=None)
@given(drawn=policies_with_frames())
def test_kernel_and_reference_agree(shape: str, drawn: tuple[ir.Policy, list[tuple[bytes, int | None]]]) -> None:
    policy, frames = drawn
    try:
        with shaped(shape), agreement(policy) as both:
            for frame, interface in frames:
                both.run(frame, interface)
    except CapacityError:
        reject()
