# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a few hosts send each other, and whenever: kernel and reference follow the same flows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.flow_frames import ACK, FIN, RST, SYN, V4, V6, Ends, datagram
from tests.kernel.agreement import Agreement, agreement
from tests.policies import written

pytestmark = pytest.mark.needs("privileges", "data plane")

S = 1_000_000_000

FLAGS = st.one_of(
    st.sampled_from([SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST, RST | ACK]), st.integers(min_value=0, max_value=255)
)
NUMBERS = st.sampled_from([0, 1, 2, 0xFFFFFFFF])
NEIGHBOURS = (V4._replace(here_port=1), V4._replace(there=V4.there + 1), V6)
ENDS = st.one_of(st.just(V4), st.just(V4), st.sampled_from(NEIGHBOURS))
WAITS = st.one_of(
    st.sampled_from([1, S - 1, S, 10 * S - 1, 10 * S, 30 * S, 59 * S, 60 * S, 120 * S, 180 * S, 432000 * S]),
    st.integers(min_value=0, max_value=200 * S),
)


@st.composite
def packets(draw: st.DrawFn, *, is_sent: bool, ends: Ends | None = None) -> bytes:
    ends = draw(ENDS) if ends is None else ends
    proto = draw(st.sampled_from(["tcp", "tcp", "tcp", "udp", "sctp", "echo"]))
    if proto == "echo":
        return (ends.echo_sent if is_sent else ends.echo_received)(is_reply=draw(st.booleans()))
    make = ends.sent if is_sent else ends.received
    return make(proto, draw(FLAGS), seq=draw(NUMBERS), ack=draw(NUMBERS))


@st.composite
def errors(draw: st.DrawFn) -> bytes:
    """Messages about packets of flows, and about damaged ones."""
    ends: Ends = draw(ENDS)
    quoted = bytearray(
        datagram(draw(packets(is_sent=True, ends=ends)), draw(st.sampled_from([28, 48, 48, 70, 20, 27, 47, 0])))
    )
    if quoted and draw(st.integers(min_value=0, max_value=3)) == 0:
        at = draw(st.integers(min_value=0, max_value=len(quoted) - 1))
        quoted[at] = draw(st.integers(min_value=0, max_value=255))
    return ends.error(bytes(quoted), type=draw(st.sampled_from([None, None, 2, 4, 11, 12])))


SENT = st.tuples(st.just("send"), packets(is_sent=True))
RECEIVED = st.tuples(st.just("receive"), packets(is_sent=False))
ERRORS = st.tuples(st.just("receive"), errors())
COURSES = st.lists(st.one_of(SENT, SENT, RECEIVED, RECEIVED, ERRORS, st.tuples(st.just("wait"), WAITS)), max_size=40)


@pytest.fixture(scope="module")
def both() -> Iterator[Agreement]:
    with agreement(written(default="drop", allow="established")) as running:
        yield running


@settings(max_examples=4 * settings().max_examples, deadline=None, suppress_health_check=list(HealthCheck))
@given(COURSES)
def test_kernel_and_reference_follow_the_same_flows(both: Agreement, course: list[tuple[str, bytes | int]]) -> None:
    both.forget()
    for what, subject in course:
        if isinstance(subject, int):
            both.wait(subject)
        elif what == "send":
            both.send(subject)
        else:
            both.run(subject)
    both.check_flows()
