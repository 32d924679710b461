# SPDX-License-Identifier: GPL-2.0-or-later
"""Handshakes that this side begins, or forwards the beginning of: open once the answer is acknowledged, and no sooner.

A forged SYN that is forwarded gets an answer from the host behind, but the answer's number gets to nobody.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flow_frames import ACK, FIN, SYN, V4, V6, Ends
from tests.policies import written
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel import abi
from xdpfw.kernel.flows import FlowTable
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import START_BOOT_NS

pytestmark = pytest.mark.needs("privileges", "data plane")

ANSWER = 0xFFFFFFF0
"""The answer's number; what is sent behind it goes round."""


@pytest.fixture(params=[V4, V6], ids=["IPv4", "IPv6"])
def ends(request: pytest.FixtureRequest) -> Ends:
    found: Ends = request.param
    return found


@pytest.fixture
def generation() -> Iterator[Generation]:
    image = compile_policy(written(allow="established"))
    with Generation.load(image, interfaces=[1], targets=[], trace=True) as loaded:
        yield loaded


def state(generation: Generation) -> str:
    assert generation.state is not None
    (flow,) = FlowTable(generation.state).live(START_BOOT_NS)
    return flow.state.name


def begin(generation: Generation, ends: Ends) -> None:
    generation.send(ends.sent(flags=SYN))
    assert generation.run(ends.received(flags=SYN | ACK, seq=ANSWER)).reason == "allow.established"


def test_an_answer_alone_opens_nothing(generation: Generation, ends: Ends) -> None:
    begin(generation, ends)
    assert state(generation) == abi.FlowState.FLOW_SYN_SENT.name
    generation.run(ends.received(flags=ACK, seq=ANSWER + 1))
    assert state(generation) == abi.FlowState.FLOW_SYN_SENT.name


@pytest.mark.parametrize("heard", [1, 0x10000], ids=["at once", "with what came along"])
def test_its_acknowledgement_does(generation: Generation, ends: Ends, heard: int) -> None:
    begin(generation, ends)
    generation.send(ends.sent(flags=ACK, ack=ANSWER + heard & 0xFFFFFFFF))
    assert state(generation) == abi.FlowState.FLOW_ESTABLISHED.name


@pytest.mark.parametrize(
    ("flags", "heard"), [(ACK, 0), (ACK, 0x10001), (ACK, 0x80000000), (0, 1), (FIN, 1), (ACK | FIN, 0)]
)
def test_others_do_not(generation: Generation, ends: Ends, flags: int, heard: int) -> None:
    begin(generation, ends)
    generation.send(ends.sent(flags=flags, ack=ANSWER + heard & 0xFFFFFFFF))
    assert state(generation) == abi.FlowState.FLOW_SYN_SENT.name


def test_nor_do_they_without_an_answer(generation: Generation, ends: Ends) -> None:
    generation.send(ends.sent(flags=SYN))
    generation.send(ends.sent(flags=ACK, ack=0))
    assert state(generation) == abi.FlowState.FLOW_SYN_SENT.name


def test_a_port_that_is_used_again_has_to_be_answered_again(generation: Generation, ends: Ends) -> None:
    begin(generation, ends)
    generation.send(ends.sent(flags=ACK | FIN, ack=ANSWER + 1 & 0xFFFFFFFF))
    assert state(generation) == abi.FlowState.FLOW_CLOSING.name
    generation.send(ends.sent(flags=SYN))
    generation.send(ends.sent(flags=ACK, ack=ANSWER + 1 & 0xFFFFFFFF))
    assert state(generation) == abi.FlowState.FLOW_SYN_SENT.name
