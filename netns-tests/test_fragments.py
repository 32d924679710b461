# SPDX-License-Identifier: GPL-2.0-or-later
"""Datagrams in fragments, and frames longer than a page.

    client                            host
┌──────────────┐        ┌─────────────────────────┐
│     eth0 ────┼────────┼──── fw0 (XDP)           │  MTU 1500 or 9000
│  192.0.2.2   │        │  192.0.2.1              │
│  2001:db8::2 │        │  2001:db8::1            │
└──────────────┘        └─────────────────────────┘
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests import frames
from tests.firewall import Firewall, policy
from tests.topology import LIMIT_SECONDS, Namespace, Network, wait_for
from tests.wire import Expected, Wire

V4, V6 = "192.0.2.1", "2001:db8::1"
COUNT = 3
PING = ("ping", "-n", "-q", "-c", str(COUNT), "-i", "0.05", "-W", str(int(LIMIT_SECONDS)))
ALLOW = "{fragments: false, established: false}"


@dataclass(frozen=True)
class Host:
    client: Namespace
    host: Namespace
    firewall: Firewall


@pytest.fixture
def make_host(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Callable[[int], Host]:
    def make(mtu: int) -> Host:
        client, host = net.namespace("client"), net.namespace("host")
        net.pair(client, "eth0", host, "fw0", mtu=mtu)
        client.address("eth0", "192.0.2.2/24", "2001:db8::2/64")
        host.address("fw0", f"{V4}/24", f"{V6}/64")
        return Host(client, host, make_firewall(host))

    return make


def test_fragmented_pings(make_host: Callable[[int], Host], mode: str) -> None:
    """3,000 bytes in three fragments: the first has the ICMP header, the others have their protocol alone."""
    host = make_host(1500)
    rules = (
        "{name: first, match: {proto: [icmp, icmpv6], fragment: first}, action: pass}",
        "{name: later, match: {proto: [icmp, icmpv6], fragment: later}, action: pass}",
    )
    host.firewall.apply(policy(*rules, mode=mode, allow=ALLOW))
    for address in (V4, V6):
        host.client.run(*PING, "-s", "3000", *(["-M", "dont"] if address == V4 else []), address)
    assert host.firewall.rule("first") == 2 * COUNT
    assert host.firewall.rule("later") == 2 * COUNT * 2


def test_a_rule_on_ports_never_takes_a_later_fragment(make_host: Callable[[int], Host], mode: str) -> None:
    host = make_host(1500)
    host.firewall.apply(policy("{name: dns, match: {proto: udp, dport: 53}, action: pass}", mode=mode, allow=ALLOW))
    with host.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((V4, 53))
        with host.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            before = host.firewall.reason("default")
            # Bytes that would be port 53, wherever a parser might take them for it.
            client.sendto(bytes([0, 53] * 1500), (V4, 53))
            client.sendto(b"whole", (V4, 53))
            assert server.recv(9000) == b"whole"
    wait_for(lambda: host.firewall.reason("default") >= before + 2, "the later fragments to be dropped")
    assert host.firewall.rule("dns") == 2


def test_jumbo_frames(make_host: Callable[[int], Host], mode: str) -> None:
    """Frames of several buffers: matched by their headers and by their length, passed whole, counted in full."""
    host = make_host(9000)
    rules = (
        "{name: big, match: {proto: [icmp, icmpv6], length: 8000-9000, fragment: none}, action: pass}",
        "{name: data, match: {proto: udp, dport: 9}, action: pass}",
    )
    host.firewall.apply(policy(*rules, mode=mode, allow=ALLOW))
    assert host.firewall.mode("fw0") == mode
    host.client.run(*PING, "-s", "8900", "-M", "do", V4)
    host.client.run(*PING, "-s", "8900", "-M", "do", V6)
    with host.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((V4, 9))
        payload = random.Random(1).randbytes(8900)
        with host.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(payload, (V4, 9))
        assert server.recv(9000) == payload
    rows = {row["name"]: row for row in host.firewall.stats()["rules"]}
    assert rows["big"]["packets"] == 2 * COUNT
    assert rows["big"]["bytes"] == COUNT * (2 * 14 + 20 + 40 + 2 * 8908)
    assert rows["data"]["bytes"] == 14 + 20 + 8 + len(payload)


def test_long_frames_are_decided_as_the_reference_says(make_wire: Callable[..., Wire], mode: str) -> None:
    wire = make_wire("fw0", mtu=9000)
    text = policy(
        "{name: web, match: {proto: tcp, dport: 80, length: 3000-9000}, action: pass}",
        "{name: short, match: {proto: tcp, dport: 80}, action: drop}",
        mode=mode,
    )
    wire.firewall.apply(text)
    payloads = [bytes(size) for size in (0, 1000, 2900, 3000, 3500, 4000, 4100, 8000, 8900)]
    arrivals = [
        (frame(frames.tcp(dport=port) + payload), 0)
        for frame in (frames.v4_frame, frames.v6_frame)
        for port in (80, 81)
        for payload in payloads
    ]
    wire.send(frame for frame, _ in arrivals)
    Expected.of(text, arrivals).check(wire.firewall.stats())


FOLLOW = "{fragments: true, established: false}"
PINGS = "{name: ping, match: {proto: [icmp, icmpv6], fragment: [none, first]}, action: pass}"


def test_later_fragments_follow_their_first_one_through_a_default_drop(
    make_host: Callable[[int], Host], mode: str
) -> None:
    host = make_host(1500)
    host.firewall.apply(policy(PINGS, mode=mode, allow=FOLLOW))
    for address in (V4, V6):
        host.client.run(*PING, "-s", "4000", *(["-M", "dont"] if address == V4 else []), address)
    assert host.firewall.reason("allow.fragments") == 2 * COUNT * 2
    host.firewall.apply(policy(PINGS, mode=mode, allow=ALLOW))
    for address in (V4, V6):
        host.client.run("ping", "-n", "-c", "1", "-W", "1", "-s", "4000", address, status=1)
    assert host.firewall.reason("allow.fragments") == 2 * COUNT * 2


def test_a_long_datagram_reaches_its_port_and_none_that_is_closed(make_host: Callable[[int], Host], mode: str) -> None:
    host = make_host(1500)
    host.firewall.apply(policy("{name: dns, match: {proto: udp, dport: 53}, action: pass}", mode=mode, allow=FOLLOW))
    payload = random.Random(2).randbytes(5000)
    for family, address in ((socket.AF_INET, V4), (socket.AF_INET6, V6)):
        with (
            host.host.socket(family, socket.SOCK_DGRAM) as server,
            host.host.socket(family, socket.SOCK_DGRAM) as closed,
            host.client.socket(family, socket.SOCK_DGRAM) as client,
        ):
            server.bind((address, 53))
            closed.bind((address, 54))
            client.sendto(payload, (address, 54))
            client.sendto(payload, (address, 53))
            assert server.recv(9000) == payload
            closed.setblocking(False)
            with pytest.raises(BlockingIOError):
                closed.recv(9000)
