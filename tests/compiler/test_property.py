# SPDX-License-Identifier: GPL-2.0-or-later
"""Drawn policies: what a look-up in the compiled tables finds against the reference."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, reject, settings

from tests.compiler.walk import Walk
from tests.policies import NOTHING_ALLOWED
from tests.shapes import SHAPES, shaped
from tests.strategies import policies_with_frames
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.errors import CapacityError
from xdpfw.packet.decode import Packet, decode
from xdpfw.reference.interpreter import evaluate


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=settings().max_examples, deadline=None)
@given(drawn=policies_with_frames())
def test_tables_and_reference_agree(shape: str, drawn: tuple[ir.Policy, list[tuple[bytes, int | None]]]) -> None:
    policy, frames = drawn
    policy = dataclasses.replace(policy, allow=NOTHING_ALLOWED)
    try:
        with shaped(shape):
            walk = Walk(compile_policy(policy))
    except CapacityError:
        reject()
    for frame, interface in frames:
        packet = decode(frame)
        if not isinstance(packet, Packet):
            continue
        expected = evaluate(policy, frame, interface)
        found = walk.classify(packet, interface)
        rule = None if found.rule is None else policy.rules[found.rule].name
        assert (rule, tuple(policy.rules[i].name for i in found.counted)) == (expected.rule, expected.counted), packet
