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
from xdpfw.kernel.flows import Flow, FlowTable
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import START_BOOT_NS

pytestmark = pytest.mark.needs("privileges", "data plane")

S = 1_000_000_000

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


def flow(generation: Generation) -> Flow:
    assert generation.state is not None
    (found,) = FlowTable(generation.state).live(START_BOOT_NS)
    return found


def state(generation: Generation) -> str:
    return flow(generation).state.name


def rank(generation: Generation) -> str:
    return flow(generation).rank.name


def begin(generation: Generation, ends: Ends, forwarded_from: int = 0) -> None:
    generation.send(ends.sent(flags=SYN), forwarded_from=forwarded_from)
    assert generation.run(ends.received(flags=SYN | ACK, seq=ANSWER)).reason == "allow.established"


def test_an_answer_alone_opens_nothing(generation: Generation, ends: Ends) -> None:
    begin(generation, ends)
    assert state(generation) == abi.FlowState.FLOW_ANSWERED.name
    for flags in (ACK, FIN | ACK, 0):
        assert generation.run(ends.received(flags=flags, seq=ANSWER + 1)).reason == "allow.established"
        assert state(generation) == abi.FlowState.FLOW_ANSWERED.name


def test_an_answer_that_comes_again_does_not_make_it_last(generation: Generation, ends: Ends) -> None:
    """A host behind answers a forged SYN several times."""
    begin(generation, ends)
    before = flow(generation).until_ns
    generation.run(ends.received(flags=SYN | ACK, seq=ANSWER), boot_ns=START_BOOT_NS + 30 * S)
    assert flow(generation).until_ns == before == START_BOOT_NS + 60 * S


def test_the_last_answer_is_to_be_acknowledged(generation: Generation, ends: Ends) -> None:
    begin(generation, ends)
    generation.run(ends.received(flags=SYN | ACK, seq=7))
    generation.send(ends.sent(flags=ACK, ack=ANSWER + 1))
    assert state(generation) == abi.FlowState.FLOW_ANSWERED.name
    generation.send(ends.sent(flags=ACK, ack=8))
    assert state(generation) == abi.FlowState.FLOW_ESTABLISHED.name


@pytest.mark.parametrize("sequence", [0, 0xFFFFFFFE, 0xFFFFFFFF])
def test_every_number_can_be_an_answers(generation: Generation, ends: Ends, sequence: int) -> None:
    generation.send(ends.sent(flags=SYN))
    generation.run(ends.received(flags=SYN | ACK, seq=sequence))
    generation.send(ends.sent(flags=ACK, ack=sequence + 1 & 0xFFFFFFFF))
    assert state(generation) == abi.FlowState.FLOW_ESTABLISHED.name


def test_what_this_host_begins_is_its_own_from_the_first(generation: Generation, ends: Ends) -> None:
    generation.send(ends.sent(flags=SYN))
    assert rank(generation) == abi.FlowRank.FLOW_OWN.name


@pytest.mark.parametrize("end", [0, FIN], ids=["goes on", "ends"])
def test_what_it_forwards_is_when_the_answers_number_was_heard(generation: Generation, ends: Ends, end: int) -> None:
    begin(generation, ends, forwarded_from=1)
    assert rank(generation) == abi.FlowRank.FLOW_ANSWER.name
    for wrong in (ANSWER, ANSWER - 1, 5 << 28):
        generation.send(ends.sent(flags=ACK, ack=wrong), forwarded_from=1)
        assert rank(generation) == abi.FlowRank.FLOW_ANSWER.name
    generation.send(ends.sent(flags=ACK | end, ack=ANSWER + 1), forwarded_from=1)
    assert rank(generation) == abi.FlowRank.FLOW_OWN.name
    expected = abi.FlowState.FLOW_CLOSING if end else abi.FlowState.FLOW_ESTABLISHED
    assert state(generation) == expected.name


def test_a_guess_among_65536_opens_and_raises_nothing(generation: Generation, ends: Ends) -> None:
    """It opens a connection that came with data; a bare acknowledgement of no flow makes as much."""
    begin(generation, ends, forwarded_from=1)
    generation.send(ends.sent(flags=ACK, ack=ANSWER + 2), forwarded_from=1)
    assert state(generation) == abi.FlowState.FLOW_ESTABLISHED.name
    assert rank(generation) == abi.FlowRank.FLOW_ANSWER.name


def test_forged_syns_that_are_forwarded_raise_nothing(generation: Generation, ends: Ends) -> None:
    """Nor does one at a port of this host's own connection, after its end."""
    for flags in (SYN, SYN, SYN | FIN):
        generation.send(ends.sent(flags=flags), forwarded_from=1)
        assert rank(generation) == abi.FlowRank.FLOW_ANSWER.name
    assert state(generation) == abi.FlowState.FLOW_SYN_SENT.name
    begin(generation, ends, forwarded_from=1)
    generation.send(ends.sent(flags=ACK, ack=ANSWER + 1), forwarded_from=1)
    generation.send(ends.sent(flags=FIN | ACK), forwarded_from=1)
    assert rank(generation) == abi.FlowRank.FLOW_OWN.name
    generation.send(ends.sent(flags=SYN), forwarded_from=1)
    assert rank(generation) == abi.FlowRank.FLOW_ANSWER.name


@pytest.mark.parametrize("proto", ["udp", "sctp"])
def test_datagrams_that_are_forwarded_stay_of_the_lower_rank(generation: Generation, ends: Ends, proto: str) -> None:
    for _ in range(2):
        generation.send(ends.sent(proto), forwarded_from=1)
        generation.run(ends.received(proto))
        assert rank(generation) == abi.FlowRank.FLOW_ANSWER.name


def test_so_do_echoes(generation: Generation, ends: Ends) -> None:
    generation.send(ends.echo_sent(), forwarded_from=1)
    assert rank(generation) == abi.FlowRank.FLOW_ANSWER.name


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
    assert state(generation) == abi.FlowState.FLOW_ANSWERED.name


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
