# SPDX-License-Identifier: GPL-2.0-or-later
"""ICMP errors: which are about what this side has sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import frames
from tests.flow_frames import ACK, RST, SYN, V4, V6, Ends, datagram
from tests.kernel.agreement import Agreement, agreement
from tests.policies import written
from xdpfw.compiler.ir import Family

pytestmark = pytest.mark.needs("privileges", "data plane")

S = 1_000_000_000
BOTH = pytest.mark.parametrize("ends", [V4, V6], ids=["IPv4", "IPv6"])


@pytest.fixture
def both() -> Iterator[Agreement]:
    """Drops what belongs to no flow, ICMP errors as well."""
    with agreement(written(default="drop", allow="established")) as running:
        yield running


def passes(both: Agreement, frame: bytes) -> bool:
    return both.run(frame).reason == "allow.established"


def sent(ends: Ends, proto: str) -> bytes:
    return ends.echo_sent() if proto == "echo" else ends.sent(proto, SYN)


@BOTH
@pytest.mark.parametrize("proto", ["tcp", "udp", "sctp", "echo"])
def test_an_error_about_what_was_sent_comes_in_from_anywhere(both: Agreement, ends: Ends, proto: str) -> None:
    packet = sent(ends, proto)
    types = (3, 11, 12) if ends.family is Family.IPV4 else (1, 2, 3, 4)
    for type in types:
        assert not passes(both, ends.error(datagram(packet), type=type))
    both.send(packet)
    for type in types:
        assert passes(both, ends.error(datagram(packet), type=type))
        assert passes(both, ends.error(datagram(packet), type=type, src=ends.there))
    assert both.generation.flow_counter().related == 2 * len(types)


@BOTH
def test_messages_that_are_no_errors_are_related_to_nothing(both: Agreement, ends: Ends) -> None:
    both.send(ends.sent("udp"))
    for type in (0, 4, 5, 8, 13, 17) if ends.family is Family.IPV4 else (0, 5, 127, 128, 133, 137):
        assert not passes(both, ends.error(datagram(ends.sent("udp")), type=type))


@BOTH
def test_eight_bytes_behind_the_headers_will_do(both: Agreement, ends: Ends) -> None:
    packet = datagram(ends.sent(flags=SYN))
    both.send(ends.sent(flags=SYN))
    header_bytes = 20 if ends.family is Family.IPV4 else 40
    assert passes(both, ends.error(packet[: header_bytes + 8]))
    for length in (header_bytes + 7, header_bytes, header_bytes - 1, 1, 0):
        assert not passes(both, ends.error(packet[:length]))
        padded = ends.error(packet[:length]) + packet[length:]  # behind the datagram's end there is nothing to be read
        assert not passes(both, padded)


@BOTH
def test_an_error_about_another_flow_stays_out(both: Agreement, ends: Ends) -> None:
    both.send(ends.sent("udp"))
    for other in (
        ends._replace(there=ends.there + 2),
        ends._replace(there_port=1),
        ends._replace(here_port=1),
    ):
        assert not passes(both, ends.error(datagram(other.sent("udp"))))
    assert not passes(both, ends.error(datagram(ends.sent("sctp"))))
    assert not passes(both, ends.error(datagram(ends.received("udp"))))


@BOTH
def test_whoever_is_told_must_have_sent_it(both: Agreement, ends: Ends) -> None:
    both.send(ends.sent("udp"))
    assert not passes(both, ends.error(datagram(ends.sent("udp")), dst=ends.here + 1))


@BOTH
def test_an_error_about_a_flow_that_is_over_stays_out(both: Agreement, ends: Ends) -> None:
    both.send(ends.sent("udp"))
    both.wait(30 * S - 1)
    assert passes(both, ends.error(datagram(ends.sent("udp"))))
    both.wait(1)
    assert not passes(both, ends.error(datagram(ends.sent("udp"))))


@BOTH
def test_an_error_changes_no_flow(both: Agreement, ends: Ends) -> None:
    """A forged one neither ends a connection, nor keeps it, nor confirms it."""
    both.send(ends.sent(flags=SYN | ACK, seq=70))
    for quoted in (ends.sent(flags=RST), ends.sent(flags=ACK), ends.sent(flags=SYN)):
        assert passes(both, ends.error(datagram(quoted)))
    assert not passes(both, ends.received(flags=ACK, ack=70))
    both.wait(60 * S)
    assert not passes(both, ends.received(flags=ACK, ack=71))


def test_an_echo_reply_that_was_sent_can_be_quoted(both: Agreement) -> None:
    for ends in (V4, V6):
        both.send(ends.echo_sent(is_reply=True))
        assert passes(both, ends.error(datagram(ends.echo_sent(is_reply=True))))
        assert not passes(both, ends.error(datagram(ends.echo_sent())))


def test_quoted_options_and_extension_headers_are_walked(both: Agreement) -> None:
    both.send(V4.sent("udp"))
    both.send(V6.sent("udp"))
    udp = frames.udp(V4.here_port, V4.there_port)
    for options in (b"", bytes(4), bytes(40)):
        quoted = frames.ipv4(udp, frames.UDP, src=V4.here, dst=V4.there, options=options)
        assert passes(both, V4.error(quoted))
    kinds = [frames.HOP_BY_HOP, frames.ROUTING, frames.DESTINATION, frames.AH, frames.FRAGMENT]
    for count in range(len(kinds) + 1):
        payload, following = frames.extended(kinds[:count], udp, frames.UDP)
        quoted = frames.ipv6(payload, following, src=V6.here, dst=V6.there)
        assert passes(both, V6.error(quoted))
        assert not passes(both, V6.error(quoted[: len(quoted) - 1]))
    for count, is_in in ((8, True), (9, False)):
        payload, following = frames.extended([frames.DESTINATION] * count, udp, frames.UDP)
        assert passes(both, V6.error(frames.ipv6(payload, following, src=V6.here, dst=V6.there))) is is_in


@pytest.mark.parametrize(
    "header", [{"version": 5}, {"version": 6}, {"header_words": 4}, {"fragment": 1}, {"proto": 47}]
)
def test_a_forged_inner_header_of_ipv4_is_no_quote(both: Agreement, header: dict[str, int]) -> None:
    both.send(V4.sent("udp"))
    fields = {"proto": frames.UDP, **header}
    quoted = frames.ipv4(frames.udp(V4.here_port, V4.there_port), src=V4.here, dst=V4.there, **fields)  # type: ignore[arg-type]
    assert not passes(both, V4.error(quoted))


def test_a_forged_inner_header_of_ipv6_is_no_quote(both: Agreement) -> None:
    both.send(V6.sent("udp"))
    udp = frames.udp(V6.here_port, V6.there_port)
    later, following = frames.extended([frames.FRAGMENT], udp, frames.UDP, fragment=8)
    for quoted in (
        frames.ipv6(udp, frames.UDP, src=V6.here, dst=V6.there, version=4),
        frames.ipv6(later, following, src=V6.here, dst=V6.there),
        frames.ipv6(udp, frames.GRE, src=V6.here, dst=V6.there),
        frames.ipv6(udp, frames.ICMP, src=V6.here, dst=V6.there),
        frames.ipv4(udp, frames.UDP, src=V4.here, dst=V4.there),
    ):
        assert not passes(both, V6.error(quoted))
        assert not passes(both, V4.error(quoted)) or quoted[0] >> 4 == 4


def test_where_all_errors_are_allowed_none_is_looked_up() -> None:
    with agreement(written(default="drop", allow="established icmp_errors")) as both:
        both.send(V4.sent("udp"))
        assert both.run(V4.error(datagram(V4.sent("udp")))).reason == "allow.icmp_errors"
        assert both.run(V4.error(b"")).reason == "allow.icmp_errors"
        assert both.generation.flow_counter().related == 0
