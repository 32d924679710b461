# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts of a single interface, of which most are not counted but follow from rules and reasons."""

from __future__ import annotations

import dataclasses
from collections import Counter as Tally

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from tests.strategies import policies_with_frames
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.errors import CapacityError
from xdpfw.kernel import abi
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import ETHERNET_HEADER_BYTES, LOOPBACK
from xdpfw.reference.interpreter import evaluate
from xdpfw.reference.memory import Memory

pytestmark = pytest.mark.needs("privileges", "data plane")

FIRST_IFINDEX = 1000


@settings(max_examples=settings().max_examples // 2, deadline=None)
@given(drawn=policies_with_frames(), data=st.data())
def test_verdicts_are_what_the_reference_decides(
    drawn: tuple[ir.Policy, list[tuple[bytes, int | None]]], data: st.DataObject
) -> None:
    """Packets and bytes, with every action, allowances, rules that log, and frames that are damaged.

    Without limits: such a generation has the machine's time, of which the reference knows nothing.
    """
    whole, frames = drawn
    policy = dataclasses.replace(
        whole,
        interfaces=whole.interfaces[:1],
        rules=tuple(
            dataclasses.replace(rule, log_sample=data.draw(st.sampled_from((0, 0, 1))), limit=None)
            if rule.action.kind is not ir.ActionKind.COUNT
            else rule
            for rule in whole.rules
        ),
    )
    try:
        image = compile_policy(policy)
    except CapacityError:
        reject()
    memory = Memory()
    packets: Tally[str] = Tally()
    octets: Tally[str] = Tally()
    targets = [LOOPBACK] * len(image.targets)
    with Generation.load(image, interfaces=[FIRST_IFINDEX], targets=targets) as generation:
        assert generation._config.derives_verdicts
        for frame, _ in frames:
            verdict = str(evaluate(policy, frame, 0, memory=memory).verdict)
            assert generation.run(frame, 0).verdict == verdict
            if len(frame) >= ETHERNET_HEADER_BYTES:  # no test run takes a shorter one, so that nothing is counted
                packets[verdict] += 1
                octets[verdict] += len(frame)
        only, *others = generation.interface_verdicts()
    found = {verdict.name.lower(): counter for verdict, counter in zip(abi.Verdict, only, strict=True)}
    assert {name: counter.packets for name, counter in found.items() if counter.packets} == packets
    assert {name: counter.bytes for name, counter in found.items() if counter.bytes} == octets
    assert not any(counter.packets for row in others for counter in row)
