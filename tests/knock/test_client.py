# SPDX-License-Identifier: GPL-2.0-or-later
"""The client against servers on loopback."""

from __future__ import annotations

import socket
import threading
from socket import AF_INET, AF_INET6

import pytest

from tests.knock.listeners import LOOPBACK, closed_port, tcp, udp
from xdpfw.errors import UsageError
from xdpfw.knock import client, rotation, spa
from xdpfw.knock.client import knock, knock_rotating, send_spa, verify
from xdpfw.knock.keys import ClientHalf
from xdpfw.knock.steps import StepError
from xdpfw.knock.target import Target, resolve

HALF = ClientHalf(bytes(8), 7, "laptop", bytes(range(32)))
FAMILIES = pytest.mark.parametrize("family", [AF_INET, AF_INET6], ids=["ipv4", "ipv6"])


def no_sleep(_: float) -> None:
    pass


@FAMILIES
def test_steps_go_out_in_order_with_pauses_between_them(family: socket.AddressFamily) -> None:
    pauses: list[float] = []
    with udp(family) as (first, first_port), tcp(family) as (second, second_port):
        target = knock(
            LOOPBACK[family], [f"{first_port}/udp", f"{second_port}/tcp", "1/udp"], delay_s=0.5, sleep=pauses.append
        )
        assert first.recvfrom(100)[0] == b"\0"
        second.accept()[0].close()
    assert pauses == [0.5, 0.5]
    assert (target.family, target.address) == (family, LOOPBACK[family])


def test_a_closed_port_is_a_step_like_any_other() -> None:
    knock("127.0.0.1", [f"{closed_port()}/tcp", f"{closed_port()}/udp"], delay_s=0)


def test_a_knock_without_steps_is_none() -> None:
    with pytest.raises(UsageError, match="a knock has one step or more"):
        knock("127.0.0.1", [])


def test_nothing_is_sent_where_a_step_is_wrong_or_of_another_family() -> None:
    with udp() as (listening, port):
        listening.setblocking(False)
        with pytest.raises(StepError):
            knock("127.0.0.1", [f"{port}/udp", "70000/udp"])
        with pytest.raises(UsageError, match=r"^128/icmpv6 is a step of IPv6, and 127\.0\.0\.1 is an IPv4 address$"):
            knock("127.0.0.1", [f"{port}/udp", "128/icmpv6"])
        with pytest.raises(UsageError, match=r"^13/icmp is a step of IPv4, and ::1 is an IPv6 address"):
            knock("::1", [f"{port}/udp", "13/icmp"])
        with pytest.raises(BlockingIOError):
            listening.recv(1)


@FAMILIES
def test_a_message_says_who_sent_it_and_is_signed_for_the_server(family: socket.AddressFamily) -> None:
    with udp(family) as (listening, port):
        target, message = send_spa(LOOPBACK[family], HALF, port=port, service=2, ttl_s=60, close=True)
        payload, sender = listening.recvfrom(100)
    assert spa.parse(payload) == message
    assert spa.is_genuine(payload, HALF.bound)
    assert not spa.is_genuine(payload, HALF.key)
    assert message.source == spa.source_bytes(sender[0])
    assert (message.key_number, message.service, message.ttl_s, message.close) == (7, 2, 60, True)
    assert target.address == LOOPBACK[family]


def test_another_source_and_the_key_files_port_are_used() -> None:
    with udp() as (listening, port):
        half = ClientHalf(HALF.server, HALF.number, HALF.name, HALF.key, port)
        send_spa("127.0.0.1", half, source="198.51.100.7")
        assert spa.parse(listening.recv(100)).source == spa.source_bytes("198.51.100.7")
    with pytest.raises(UsageError, match="laptop does not say the server's port"):
        send_spa("127.0.0.1", HALF)


def test_each_message_is_later_than_the_one_before_even_if_the_clock_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_last_time_ns", 0)
    monkeypatch.setattr(client.time, "time_ns", lambda: 1_000_000)
    with udp() as (listening, port):
        for _ in range(3):
            send_spa("127.0.0.1", HALF, port=port)
        messages = [spa.parse(listening.recv(100)) for _ in range(3)]
    assert [message.time_ns for message in messages] == [1_000_000, 1_000_001, 1_000_002]
    assert len({message.nonce for message in messages}) == 3


def test_a_rotating_knock_is_that_of_the_moment() -> None:
    secret = rotation.secret_key("correct horse battery staple")
    target, steps = knock_rotating(
        "127.0.0.1",
        secret,
        every_ns=30_000_000_000,
        low=20000,
        high=30000,
        length=5,
        delay_s=0,
        wall_ns=lambda: 61_000_000_000,
    )
    assert steps == rotation.steps(secret, 2, 20000, 30000, 5)
    assert target.address == "127.0.0.1"


@FAMILIES
def test_a_port_that_answers_is_verified_at_once(family: socket.AddressFamily) -> None:
    with tcp(family) as (_, port):
        assert verify(LOOPBACK[family], port, sleep=no_sleep) == client.Verified(True, 1)


def test_where_it_does_not_answer_knocks_are_sent_again() -> None:
    """The port opens with the second knock that verify() sends."""
    with socket.socket() as service:
        service.bind(("127.0.0.1", 0))
        port = service.getsockname()[1]
        knocks: list[int] = []

        def again() -> None:
            knocks.append(1)
            if len(knocks) == 2:
                service.listen()

        assert verify("127.0.0.1", port, again=again, tries=5, answer_s=0) == client.Verified(True, 3)


def test_a_port_that_never_answers_is_told_with_the_problem() -> None:
    knocks: list[int] = []
    found = verify("127.0.0.1", closed_port(), again=lambda: knocks.append(1), tries=3, answer_s=0, sleep=no_sleep)
    assert (found.answers, found.tries, len(knocks)) == (False, 3, 2)
    assert found.problem is not None
    assert found.problem.startswith("the connection was refused")


def test_a_service_that_is_just_starting_is_waited_for() -> None:
    with socket.socket() as service:
        service.bind(("127.0.0.1", 0))
        starting = threading.Event()
        found = verify(
            "127.0.0.1",
            service.getsockname()[1],
            tries=1,
            answer_s=15,
            sleep=lambda _: service.listen() if starting.is_set() else starting.set(),
        )
    assert found == client.Verified(True, 1)


def test_a_port_that_is_silent_is_told_so() -> None:
    """A listener whose queue is full drops SYNs as a firewall does."""
    with socket.socket() as service, socket.socket() as first, socket.socket() as second:
        service.bind(("127.0.0.1", 0))
        service.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(service.getsockname())
        found = verify("127.0.0.1", service.getsockname()[1], tries=2, answer_s=0.1, sleep=no_sleep)
    assert found == client.Verified(False, 2, "no answer")


def test_silence_does_not_hide_why_there_was_none_before() -> None:
    """A port that refuses, and then is silent, as a host is that was found to be unreachable."""
    with socket.socket() as service, socket.socket() as first, socket.socket() as second:
        service.bind(("127.0.0.1", 0))

        def fall_silent() -> None:
            service.listen(0)
            for waiting in (first, second):
                waiting.setblocking(False)
                waiting.connect_ex(service.getsockname())

        found = verify("127.0.0.1", service.getsockname()[1], again=fall_silent, tries=2, answer_s=0.1, sleep=no_sleep)
    assert found.problem is not None
    assert found.problem.startswith("the connection was refused")


def test_a_source_of_another_family_is_told_unless_nat64_is_between() -> None:
    with udp() as (_, port), pytest.raises(UsageError, match=r"IPv6 address, and 127\.0\.0\.1 is knocked at over IPv4"):
        send_spa("127.0.0.1", HALF, port=port, source="2001:db8::7")
    with udp(AF_INET6) as (_, port), pytest.raises(UsageError, match="IPv4 address, and ::1 is knocked at over IPv6"):
        send_spa("::1", HALF, port=port, source="198.51.100.7")
    client._check_source("198.51.100.7", Target("edge", AF_INET6, "64:ff9b::cb00:7101"))


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [("127.0.0.1", None, "127.0.0.1"), ("::1", None, "::1"), ("localhost", AF_INET, "127.0.0.1")],
)
def test_hosts_are_found(host: str, family: socket.AddressFamily | None, address: str) -> None:
    assert resolve(host, family).address == address


def test_a_host_with_several_addresses_is_one_address_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with udp() as (listening, port):
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *_: [
                (AF_INET, socket.SOCK_DGRAM, 17, "", (address, 0)) for address in ("127.0.0.1", "192.0.2.1")
            ],
        )
        target = knock("edge", [f"{port}/udp", f"{port}/udp"], delay_s=0)
        assert listening.recv(9) == listening.recv(9) == b"\0"
    assert str(target) == "edge (127.0.0.1)"


@pytest.mark.parametrize("host", ["", "no such host", "x" * 300, "a..b", "nul\0", "127.0.0.1/8"])
def test_what_is_no_host_is_told(host: str) -> None:
    with pytest.raises(UsageError):
        resolve(host)


def test_an_address_of_the_other_family_is_told() -> None:
    with pytest.raises(UsageError, match=r"cannot find an IPv6 address of '127\.0\.0\.1'"):
        resolve("127.0.0.1", AF_INET6)


def test_a_link_local_address_keeps_its_interface() -> None:
    assert resolve("fe80::1%lo") == Target("fe80::1%lo", AF_INET6, "fe80::1", socket.if_nametoindex("lo"))
    assert str(resolve("fe80::1%lo")) == "fe80::1"
