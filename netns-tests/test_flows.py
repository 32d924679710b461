# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that drops by default and lets in what belongs to what it has sent: connections, datagrams, errors, floods.

    client                            host
┌──────────────┐        ┌─────────────────────────┐
│     eth0 ────┼────────┼──── fw0 (XDP, egress)   │
│  192.0.2.2   │        │  192.0.2.1              │
│  2001:db8::2 │        │  2001:db8::1            │
└──────────────┘        └─────────────────────────┘
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import frames
from tests.firewall import Firewall, policy
from tests.flood import Frames, send, with_sources
from tests.topology import LIMIT_SECONDS, Namespace, Network, wait_for
from xdpfw.kernel import abi
from xdpfw.kernel.flows import Flow, FlowTable
from xdpfw.kernel.maps import FlowCounter
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import State, boot_ns

HOST, CLIENT = ("192.0.2.1", "2001:db8::1"), ("192.0.2.2", "2001:db8::2")
FAMILIES = pytest.mark.parametrize(("family", "at"), [(socket.AF_INET, 0), (socket.AF_INET6, 1)], ids=["v4", "v6"])
PING = ("ping", "-n", "-q", "-c", "3", "-i", "0.05", "-W", str(int(LIMIT_SECONDS)))
STRICT = "{icmp_errors: false}"
WEB = "{name: web, match: {proto: tcp, dport: 80}, action: pass}"

FLOOD = 100_000
LIVE = 200
SPOOFED = 0x0B000000


@dataclass(frozen=True)
class Host:
    client: Namespace
    host: Namespace
    firewall: Firewall

    def flows(self) -> list[Flow]:
        with State.open(self.firewall.pins.state) as state:
            return FlowTable(state).live(boot_ns())

    def counter(self) -> FlowCounter:
        pins = self.firewall.pins
        with Generation.open(pins.generation(pins.generations()[-1])) as generation:
            return generation.flow_counter()


@pytest.fixture
def host(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Host:
    client, host = net.namespace("client"), net.namespace("host")
    net.pair(client, "eth0", host, "fw0")
    client.address("eth0", f"{CLIENT[0]}/24", f"{CLIENT[1]}/64")
    host.address("fw0", f"{HOST[0]}/24", f"{HOST[1]}/64")
    return Host(client, host, make_firewall(host))


@contextlib.contextmanager
def listening(home: Namespace, family: int, address: str, port: int) -> Iterator[socket.socket]:
    with home.socket(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        server.listen(LIVE)
        yield server


def connect(
    home: Namespace, server: socket.socket, family: int, address: str, port: int
) -> tuple[socket.socket, socket.socket]:
    """Both ends of a new connection, that of the server last."""
    made = home.socket(family, socket.SOCK_STREAM)
    made.connect((address, port))
    accepted, _ = server.accept()
    accepted.settimeout(LIMIT_SECONDS)
    return made, accepted


def exchange(a: socket.socket, b: socket.socket) -> None:
    """Something each way."""
    for one, other in ((a, b), (b, a)):
        one.sendall(b"hello")
        assert other.recv(100) == b"hello"


def with_checksums(syns: Frames) -> Frames:
    """Frames of IPv4 and TCP without options, which a host answers only if they are right."""

    def complement(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
        total = words.sum(axis=1, dtype=np.uint32)
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        return (total ^ 0xFFFF).astype(">u2").view(np.uint8).reshape(-1, 2)

    words = np.ascontiguousarray(syns[:, 14:]).view(">u2").astype(np.uint32)
    syns[:, 24:26] = complement(words[:, :10])
    pseudo_header = np.full((len(syns), 1), frames.TCP + 20, np.uint32)
    syns[:, 50:52] = complement(np.hstack([words[:, 6:], pseudo_header]))
    return syns


@FAMILIES
def test_what_the_host_begins_works_and_what_others_begin_does_not(
    host: Host, mode: str, family: socket.AddressFamily, at: int
) -> None:
    host.firewall.apply(policy(mode=mode, allow=STRICT))
    with listening(host.client, family, CLIENT[at], 80) as server:
        a, b = connect(host.host, server, family, CLIENT[at], 80)
        with a, b:
            exchange(a, b)
    with host.client.socket(family, socket.SOCK_DGRAM) as server, host.host.socket(family, socket.SOCK_DGRAM) as asking:
        server.bind((CLIENT[at], 53))
        asking.sendto(b"?", (CLIENT[at], 53))
        question, source = server.recvfrom(100)
        server.sendto(b"!", source)
        assert (question, asking.recv(100)) == (b"?", b"!")
        before = host.firewall.reason("default")
        server.sendto(b"?", (HOST[at], source[1] ^ 1))
        wait_for(lambda: host.firewall.reason("default") > before, "a datagram of no flow to be dropped")
    host.host.run(*PING, CLIENT[at])
    assert host.client.run("ping", "-n", "-c", "1", "-W", "1", HOST[at], status=None).returncode == 1
    with listening(host.host, family, HOST[at], 8080), host.client.socket(family, socket.SOCK_STREAM) as refused:
        refused.settimeout(0.3)
        with pytest.raises(TimeoutError):
            refused.connect((HOST[at], 8080))


@FAMILIES
def test_what_was_open_before_goes_on(host: Host, mode: str, family: socket.AddressFamily, at: int) -> None:
    """The session that applies the policy is one of them: nothing has been sent since when its next packet comes in."""
    with listening(host.host, family, HOST[at], 22) as server:
        a, b = connect(host.client, server, family, HOST[at], 22)
    with a, b:
        exchange(a, b)
        host.firewall.apply(policy(mode=mode, allow=STRICT))
        a.sendall(b"still there?")
        assert b.recv(100) == b"still there?"
        assert host.counter().sockets > 0
        exchange(a, b)
        before = host.counter().sockets
        exchange(a, b)
        assert host.counter().sockets == before  # its flow is known by now


@FAMILIES
def test_an_admitted_connection_outlives_the_rule_that_admitted_it(
    host: Host, family: socket.AddressFamily, at: int
) -> None:
    host.firewall.apply(policy(WEB))
    with listening(host.host, family, HOST[at], 80) as server:
        a, b = connect(host.client, server, family, HOST[at], 80)
    with a, b:
        host.firewall.apply(policy())
        exchange(a, b)
        assert {flow.state for flow in host.flows()} == {abi.FlowState.FLOW_ESTABLISHED}


@FAMILIES
def test_errors_about_what_the_host_has_sent_come_in(
    host: Host, mode: str, family: socket.AddressFamily, at: int
) -> None:
    host.firewall.apply(policy(mode=mode, allow=STRICT))
    with host.host.socket(family, socket.SOCK_DGRAM) as made:
        made.connect((CLIENT[at], 9))
        made.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            made.recv(100)
    assert host.counter().related == 1


def test_spoofed_syns_break_no_connection(host: Host) -> None:
    """Half of the connections are of clients, to the port that the flood is for. All of them are found as flows."""
    host.host.ip("route", "add", "default", "via", CLIENT[0])
    host.host.ip("neighbour", "replace", CLIENT[0], "lladdr", host.client.mac("eth0"), "dev", "fw0")
    host.firewall.apply(policy(WEB))
    opened = []
    with host.client.raw("eth0") as sender, contextlib.ExitStack() as closing:
        ours = closing.enter_context(listening(host.client, socket.AF_INET, CLIENT[0], 443))
        theirs = closing.enter_context(listening(host.host, socket.AF_INET, HOST[0], 80))
        for number in range(LIVE):
            home, server, address, port = (
                (host.host, ours, CLIENT[0], 443) if number % 2 else (host.client, theirs, HOST[0], 80)
            )
            opened.append(connect(home, server, socket.AF_INET, address, port))
            for end in opened[-1]:
                closing.enter_context(end)
        syn = frames.ethernet(
            frames.IPV4,
            frames.ipv4(frames.tcp(dport=80), src=SPOOFED, dst=int.from_bytes(socket.inet_aton(HOST[0]))),
            dst_mac=int(host.host.mac("fw0").replace(":", ""), 16),
        )
        before = host.firewall.rule("web")
        while host.firewall.rule("web") < before + FLOOD:
            send(sender, with_checksums(with_sources(syn, FLOOD, SPOOFED)))
        for a, b in opened:
            exchange(a, b)
        own = [flow for flow in host.flows() if flow.rank is abi.FlowRank.FLOW_OWN]
        assert len(own) == LIVE
        counter = host.counter()
        assert counter.created > FLOOD // 2
        assert counter.sockets == 0
