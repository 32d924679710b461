# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows in the kernel, beside the reference: what belongs to what this side has sent, and for how long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import frames
from tests.flow_frames import ACK, FIN, RST, SYN, V4, V6, Ends
from tests.kernel.agreement import Agreement, agreement
from tests.policies import one, policy, rule, written
from xdpfw.compiler import ir

pytestmark = pytest.mark.needs("privileges", "data plane")

S = 1_000_000_000
DAY = 86400 * S


@pytest.fixture
def both() -> Iterator[Agreement]:
    """Drops what belongs to no flow."""
    with agreement(written(default="drop", allow="established")) as running:
        yield running


@pytest.fixture(params=[V4, V6], ids=["IPv4", "IPv6"])
def ends(request: pytest.FixtureRequest) -> Ends:
    found: Ends = request.param
    return found


def passes(both: Agreement, frame: bytes) -> bool:
    decision = both.run(frame)
    assert decision.reason in ("allow.established", "default")
    return decision.reason == "allow.established"


def open_connection(both: Agreement, ends: Ends) -> None:
    """One that this side begins."""
    both.send(ends.sent(flags=SYN, seq=100))
    assert passes(both, ends.received(flags=SYN | ACK, seq=500, ack=101))
    both.send(ends.sent(flags=ACK, seq=101, ack=501))


def answer(both: Agreement, ends: Ends, seq: int = 700) -> None:
    """This side answers the SYN of a connection that the other one begins."""
    assert not passes(both, ends.received(flags=SYN, seq=200))
    both.send(ends.sent(flags=SYN | ACK, seq=seq, ack=201))


def test_what_is_sent_lets_the_answer_in(both: Agreement, ends: Ends) -> None:
    assert not passes(both, ends.received(flags=ACK))
    open_connection(both, ends)
    assert passes(both, ends.received(flags=ACK))
    for other in (
        ends._replace(there=ends.there + 1),
        ends._replace(here=ends.here + 1),
        ends._replace(there_port=ends.there_port + 1),
        ends._replace(here_port=ends.here_port + 1),
    ):
        assert not passes(both, other.received(flags=ACK))
    assert not passes(both, ends.received("udp"))


def test_a_syn_is_always_new(both: Agreement, ends: Ends) -> None:
    open_connection(both, ends)
    for flags in (SYN, SYN | FIN, SYN | RST):
        assert not passes(both, ends.received(flags=flags))
    assert passes(both, ends.received(flags=ACK))


def test_a_syn_that_nobody_answers_is_forgotten(both: Agreement, ends: Ends) -> None:
    both.send(ends.sent(flags=SYN))
    both.wait(120 * S - 1)
    assert passes(both, ends.received(flags=SYN | ACK))
    both.send(ends._replace(here_port=1).sent(flags=SYN))
    both.wait(120 * S)
    assert not passes(both, ends._replace(here_port=1).received(flags=SYN | ACK))


def test_an_idle_connection_lasts_for_days(both: Agreement, ends: Ends) -> None:
    open_connection(both, ends)
    for _ in range(2):
        both.wait(5 * DAY - 1)
        assert passes(both, ends.received(flags=ACK))
    both.wait(5 * DAY)
    assert not passes(both, ends.received(flags=ACK))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_connection_that_both_sides_end_is_forgotten_soon(both: Agreement, ends: Ends, is_first: bool) -> None:
    open_connection(both, ends)
    if is_first:
        both.send(ends.sent(flags=FIN | ACK))
        assert passes(both, ends.received(flags=FIN | ACK))
    else:
        assert passes(both, ends.received(flags=FIN | ACK))
        both.send(ends.sent(flags=FIN | ACK))
    both.wait(120 * S - 1)
    assert passes(both, ends.received(flags=ACK))
    both.wait(120 * S)
    assert not passes(both, ends.received(flags=ACK))


def test_a_reset_ends_a_connection(both: Agreement, ends: Ends) -> None:
    open_connection(both, ends)
    assert passes(both, ends.received(flags=RST))
    both.wait(10 * S - 1)
    assert passes(both, ends.received(flags=ACK))
    both.wait(1)
    assert not passes(both, ends.received(flags=ACK))


def test_a_forged_reset_ends_none_that_goes_on(both: Agreement, ends: Ends) -> None:
    open_connection(both, ends)
    assert passes(both, ends.received(flags=RST))
    both.send(ends.sent(flags=ACK))
    both.wait(DAY)
    assert passes(both, ends.received(flags=ACK))


def test_a_reset_that_is_sent_begins_nothing_and_keeps_nothing_alive(both: Agreement, ends: Ends) -> None:
    both.send(ends.sent(flags=RST | ACK))
    assert not passes(both, ends.received(flags=ACK))
    open_connection(both, ends)
    both.send(ends.sent(flags=RST))
    for _ in range(4):
        both.wait(5 * S // 2)
        both.run(ends.received(flags=ACK))
        both.send(ends.sent(flags=RST))
    assert not passes(both, ends.received(flags=ACK))


def test_a_connection_that_was_open_before_goes_on(both: Agreement, ends: Ends) -> None:
    both.send(ends.sent(flags=ACK))
    both.wait(DAY)
    assert passes(both, ends.received(flags=ACK))
    other = ends._replace(here_port=1)
    both.send(other.sent(flags=FIN | ACK))
    both.wait(120 * S)
    assert not passes(both, other.received(flags=ACK))


def test_only_the_right_acknowledgement_opens_what_was_answered(both: Agreement, ends: Ends) -> None:
    answer(both, ends, seq=700)
    for flags, ack in ((ACK, 700), (ACK, 702), (ACK, 0), (0, 701), (FIN, 701), (SYN | ACK, 700), (FIN | ACK, 1)):
        assert not passes(both, ends.received(flags=flags, ack=ack))
    assert passes(both, ends.received(flags=ACK, ack=701))
    both.wait(DAY)
    assert passes(both, ends.received(flags=ACK, ack=9))


def test_the_acknowledgement_of_the_highest_number_is_0(both: Agreement, ends: Ends) -> None:
    answer(both, ends, seq=0xFFFFFFFF)
    assert not passes(both, ends.received(flags=ACK, ack=0xFFFFFFFF))
    assert passes(both, ends.received(flags=ACK, ack=0))


def test_half_open_it_lasts_a_minute_from_the_last_answer(both: Agreement, ends: Ends) -> None:
    answer(both, ends)
    both.wait(59 * S)
    both.send(ends.sent(flags=SYN | ACK, seq=700))
    both.wait(59 * S)
    both.send(ends.sent(flags=ACK, seq=701))  # data before the acknowledgement keeps nothing open
    both.wait(S)
    assert not passes(both, ends.received(flags=ACK, ack=701))


def test_another_answer_expects_another_acknowledgement(both: Agreement, ends: Ends) -> None:
    answer(both, ends, seq=700)
    both.send(ends.sent(flags=SYN | ACK, seq=900))
    assert not passes(both, ends.received(flags=ACK, ack=701))
    assert passes(both, ends.received(flags=ACK, ack=901))


def test_an_answer_to_a_syn_breaks_no_open_connection(both: Agreement, ends: Ends) -> None:
    open_connection(both, ends)
    both.send(ends.sent(flags=SYN | ACK, seq=900))
    assert passes(both, ends.received(flags=ACK, ack=5))


def test_a_refused_syn_leaves_little(both: Agreement, ends: Ends) -> None:
    both.send(ends.sent(flags=SYN))
    assert passes(both, ends.received(flags=RST | ACK))
    both.wait(10 * S)
    assert not passes(both, ends.received(flags=SYN | ACK))


def test_the_ports_of_a_connection_can_be_used_again(both: Agreement, ends: Ends) -> None:
    open_connection(both, ends)
    both.send(ends.sent(flags=FIN | ACK))
    assert passes(both, ends.received(flags=FIN | ACK))
    open_connection(both, ends)
    both.wait(DAY)
    assert passes(both, ends.received(flags=ACK))
    both.send(ends.sent(flags=RST))
    both.send(ends.sent(flags=SYN | ACK, seq=40))
    assert not passes(both, ends.received(flags=ACK, ack=40))
    assert passes(both, ends.received(flags=ACK, ack=41))


@pytest.mark.parametrize("proto", ["udp", "sctp"])
def test_datagrams_last_longer_once_both_sides_have_sent(both: Agreement, ends: Ends, proto: str) -> None:
    assert not passes(both, ends.received(proto))
    both.send(ends.sent(proto))
    both.wait(30 * S - 1)
    assert passes(both, ends.received(proto))
    both.wait(180 * S - 1)
    both.send(ends.sent(proto))
    both.wait(180 * S - 1)
    assert passes(both, ends.received(proto))
    both.wait(180 * S)
    assert not passes(both, ends.received(proto))
    both.send(ends.sent(proto))
    both.wait(30 * S)
    assert not passes(both, ends.received(proto))


def test_an_echo_lets_its_reply_in_and_no_request(both: Agreement, ends: Ends) -> None:
    assert not passes(both, ends.echo_received(is_reply=True))
    both.send(ends.echo_sent())
    both.wait(30 * S - 1)
    assert passes(both, ends.echo_received(is_reply=True))
    assert not passes(both, ends.echo_received())
    assert not passes(both, ends._replace(here_port=2).echo_received(is_reply=True))
    both.wait(30 * S)
    assert not passes(both, ends.echo_received(is_reply=True))


def test_an_answered_echo_lets_further_requests_in_and_no_reply(both: Agreement, ends: Ends) -> None:
    both.send(ends.echo_sent(is_reply=True))
    assert passes(both, ends.echo_received())
    assert not passes(both, ends.echo_received(is_reply=True))


def test_a_flow_is_not_refreshed_for_less_than_a_second(both: Agreement) -> None:
    both.send(V4.sent("udp"))
    both.wait(S - 1)
    both.send(V4.sent("udp"))
    both.wait(30 * S - (S - 1))
    assert not passes(both, V4.received("udp"))
    both.send(V4.sent("udp"))
    both.wait(S)
    both.send(V4.sent("udp"))
    both.wait(29 * S)
    assert passes(both, V4.received("udp"))


@pytest.mark.parametrize(
    "frame",
    [
        frames.v4_frame(frames.udp(), frames.UDPLITE),
        frames.v4_frame(frames.sctp(), frames.DCCP),
        frames.v4_frame(bytes(8), frames.GRE),
        frames.v4_frame(frames.icmp(13), frames.ICMP),
        frames.v4_frame(frames.icmp(128), frames.ICMP),
        frames.v6_frame(frames.icmp(8), frames.ICMPV6),
        frames.v6_frame(frames.icmp(8), frames.ICMP),
        frames.v4_frame(frames.icmp(128), frames.ICMPV6),
        frames.v4_frame(frames.udp(), frames.UDP, fragment=1),
        frames.v4_frame(b"", frames.TCP, fragment=1),
        frames.ethernet(frames.ARP, bytes(28)),
        frames.ethernet(0x88B5, bytes(46)),
    ],
    ids=repr,
)
def test_other_packets_have_no_flows(both: Agreement, frame: bytes) -> None:
    both.send(frame)
    both.run(frame)
    assert both.generation.flow_counter().created == 0


@pytest.mark.parametrize("tags", [[], [(frames.VLAN, 5)], [(frames.QINQ, 5), (frames.VLAN, 6)] * 2])
def test_flows_are_seen_behind_tags_options_and_extension_headers(both: Agreement, tags: list[tuple[int, int]]) -> None:
    udp = frames.udp(1000, 2000), frames.udp(2000, 1000)
    kinds = [frames.HOP_BY_HOP, frames.ROUTING, frames.FRAGMENT, frames.AH, frames.DESTINATION]
    for kind, payload in (("IPv4", udp), ("IPv6", udp), ("first fragment", udp)):
        packets = []
        for index, data in enumerate(payload):
            here, there = (frames.DST_V6, frames.SRC_V6) if kind == "IPv6" else (frames.DST_V4, frames.SRC_V4)
            src, dst = (here, there) if index == 0 else (there, here)
            if kind == "IPv6":
                body, following = frames.extended(kinds, data, frames.UDP)
                packets.append(frames.ethernet(frames.IPV6, frames.ipv6(body, following, src=src, dst=dst), tags=tags))
            else:
                fragment = frames.MORE_FRAGMENTS if kind == "first fragment" else 0
                packet = frames.ipv4(data, frames.UDP, src=src, dst=dst, options=bytes((1, 1, 1, 0)), fragment=fragment)
                packets.append(frames.ethernet(frames.IPV4, packet, tags=tags))
        both.send(packets[0])
        assert passes(both, packets[1])
        both.forget()


def test_rules_ask_for_the_state() -> None:
    open_port = ir.Match(proto=one(frames.TCP), dport=one(22), state=one(ir.State.NEW))
    rules = policy(
        rule(0, open_port, ir.ActionKind.PASS),
        rule(1, ir.Match(state=one(ir.State.ESTABLISHED)), ir.ActionKind.PASS),
        rule(2, ir.Match(state=one(ir.State.NEW))),
    )
    with agreement(rules) as both:
        ends = V4._replace(here_port=22)
        assert both.run(ends.received(flags=ACK)).rule == "r0"
        both.send(ends.sent(flags=ACK))
        assert both.run(ends.received(flags=ACK)).rule == "r1"
        assert both.run(V4.received("udp")).rule == "r2"
        both.send(V4.sent("udp"))
        assert both.run(V4.received("udp")).rule == "r1"
        assert both.run(frames.v4_frame(b"", frames.UDP, fragment=1)).reason == "default"
        assert both.run(frames.ethernet(frames.ARP, bytes(28))).reason == "default"


def test_what_is_redirected_is_sent_to_where_it_goes() -> None:
    redirecting = written(
        "{name: out, match: {proto: [tcp, udp, icmp], src: 203.0.113.1}, action: {redirect: b}}",
        default="drop",
        allow="established",
    )
    with agreement(redirecting) as both:
        for sent, back in (
            (V4.sent(flags=SYN), V4.received(flags=SYN | ACK)),
            (V4.sent("udp"), V4.received("udp")),
            (V4.echo_sent(), V4.echo_received(is_reply=True)),
        ):
            assert both.run(back).verdict == "drop"
            assert both.run(sent).verdict == "redirect"
            assert both.run(back).reason == "allow.established"
