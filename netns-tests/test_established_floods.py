# SPDX-License-Identifier: GPL-2.0-or-later
"""Floods from forged addresses at what is open, beside a thousand connections, none of which may break.

      peer                         home                     behind
┌──────────────┐        ┌────────────────────────┐    ┌──────────────────┐
│  eth0 ───────┼────────┼── fw0 (XDP)   fw1 ─────┼────┼── eth0           │
│  192.0.2.2   │        │  192.0.2.1             │    │  198.51.100.2    │
└──────────────┘        │           198.51.100.1 │    └──────────────────┘
                        └────────────────────────┘
"""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.firewall import Firewall, policy
from tests.flood import Frames, flood, with_true_sources
from tests.services import echo_datagrams
from tests.topology import LIMIT_SECONDS, Namespace, Network
from xdpfw.cli.inforce import open_state
from xdpfw.kernel import abi
from xdpfw.kernel.flows import Flow, FlowTable
from xdpfw.kernel.maps import FlowCounter
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import boot_ns
from xdpfw.packet.notation import parse_packet

CONNECTIONS = 1000
SYNS = 1_000_000
DATAGRAMS = 500_000
OWN = 200
"""Connections and questions of home's own, beside what goes through it."""

PART = 100_000
"""Frames between two looks at what has to go on."""

SPOOFED = 0x0B000000
HOME, PEER, BEHIND = "192.0.2.1", "192.0.2.2", "198.51.100.2"


@dataclass(frozen=True)
class Router:
    peer: Namespace
    home: Namespace
    behind: Namespace
    firewall: Firewall

    def flow_counter(self) -> FlowCounter:
        (number,) = self.firewall.pins.generations()
        with Generation.open(self.firewall.pins.generation(number)) as generation:
            return generation.flow_counter()

    def flows(self) -> list[Flow]:
        with open_state(self.firewall.pins) as state:
            assert state is not None
            return FlowTable(state).live(boot_ns())

    def forged(self, packet: str, count: int, first: int) -> Frames:
        """Frames of the peer's, from as many addresses."""
        frame = parse_packet(packet)
        macs = (self.home.mac("fw0"), self.peer.mac("eth0"))
        return with_true_sources(
            b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs) + frame[12:], count, first
        )


@pytest.fixture
def router(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Router:
    peer, home, behind = (net.namespace(name, ipv6=False) for name in ("peer", "home", "behind"))
    net.pair(peer, "eth0", home, "fw0")
    net.pair(home, "fw1", behind, "eth0")
    peer.address("eth0", f"{PEER}/24")
    home.address("fw0", f"{HOME}/24")
    home.address("fw1", "198.51.100.1/24")
    behind.address("eth0", f"{BEHIND}/24")
    home.sysctl("ipv4/ip_forward", 1)
    home.ip("route", "add", "default", "via", PEER)
    peer.ip("route", "add", "198.51.100.0/24", "via", HOME)
    behind.ip("route", "add", "default", "via", "198.51.100.1")
    return Router(peer, home, behind, make_firewall(home))


@contextlib.contextmanager
def connections(
    client: Namespace, server: Namespace, address: str, port: int, count: int
) -> Iterator[Callable[[], None]]:
    """So many; what is yielded checks that each goes on in both directions."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * count + 1000), max(hard, 4 * count + 1000)))
    with contextlib.ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        listening = opened.enter_context(server.socket(socket.AF_INET, socket.SOCK_STREAM))
        listening.bind((address, port))
        listening.listen(count)
        pairs = []
        for _ in range(count):
            asking = opened.enter_context(client.socket(socket.AF_INET, socket.SOCK_STREAM))
            asking.connect((address, port))
            taken, _ = listening.accept()
            taken.settimeout(LIMIT_SECONDS)
            pairs.append((asking, opened.enter_context(taken)))

        def check() -> None:
            for one, other in (pair for pair in pairs for pair in (pair, pair[::-1])):
                one.send(b"still there?")
                assert other.recv(100) == b"still there?"

        check()
        yield check


@contextlib.contextmanager
def questions(client: Namespace, server: Namespace, address: str, count: int) -> Iterator[Callable[[], None]]:
    """So many sockets that have each asked once; what is yielded checks that a further answer gets to each."""
    with contextlib.ExitStack() as opened:
        serving = opened.enter_context(server.socket(socket.AF_INET, socket.SOCK_DGRAM))
        serving.bind((address, 53))
        asked = []
        for _ in range(count):
            asking = opened.enter_context(client.socket(socket.AF_INET, socket.SOCK_DGRAM))
            asking.sendto(b"?", (address, 53))
            asked.append((asking, serving.recvfrom(1)[1]))

        def check() -> None:
            for asking, source in asked:
                serving.sendto(b"!", source)
                assert asking.recv(1) == b"!"

        check()
        yield check


def test_spoofed_syns_at_an_open_port(router: Router) -> None:
    """A million, answered by the stack, beside connections in and out; none needs the help of its socket."""
    router.firewall.apply(policy("{name: web, match: {proto: tcp, dport: 80}, action: pass}"))
    with (
        connections(router.peer, router.home, HOME, 80, CONNECTIONS // 2) as incoming,
        connections(router.home, router.peer, PEER, 80, CONNECTIONS // 2) as outgoing,
        router.peer.raw("eth0") as sender,
    ):
        for first in range(SPOOFED, SPOOFED + SYNS, PART):
            frames = router.forged(f"tcp 11.0.0.1:40000 > {HOME}:80 S", PART, first)
            flood(sender, router.firewall, frames, "rule")
            incoming()
            outgoing()
    counted = router.flow_counter()
    print(counted)
    assert counted.created > CONNECTIONS
    assert counted.sockets == 0


def test_spoofed_syns_at_a_port_behind(router: Router) -> None:
    """Home forwards, and has no sockets that could tell: all depends on the flows. Its own are beside them."""
    router.firewall.apply(
        policy(
            "{name: web, match: {proto: tcp, dport: 80, tcp_flags: 'syn,!ack'}, action: pass}",
            interfaces=("fw0", "fw1"),
        )
    )
    with (
        connections(router.peer, router.behind, BEHIND, 80, CONNECTIONS) as through,
        connections(router.home, router.peer, PEER, 81, OWN) as own,
        questions(router.home, router.peer, PEER, OWN) as asked,
        router.peer.raw("eth0") as sender,
    ):
        for first in range(SPOOFED, SPOOFED + SYNS, PART):
            frames = router.forged(f"tcp 11.0.0.1:40000 > {BEHIND}:80 S", PART, first)
            flood(sender, router.firewall, frames, "rule")
            for check in (through, own, asked):
                check()
        flows = router.flows()
    counted = router.flow_counter()
    print(counted, Counter((flow.state.name, flow.rank.name) for flow in flows))
    assert counted.sockets == 0
    of_the_flood = [flow for flow in flows if SPOOFED in (flow.remote & 0xFF000000, flow.local & 0xFF000000)]
    assert len(of_the_flood) > SYNS // 10
    assert {flow.rank for flow in of_the_flood} == {abi.FlowRank.FLOW_ANSWER}
    assert not any(flow.state is abi.FlowState.FLOW_ESTABLISHED for flow in of_the_flood)
    # Of a connection that goes through, there is a flow to each end.
    of_ours = [flow for flow in flows if flow.rank is abi.FlowRank.FLOW_OWN]
    assert len(of_ours) == 2 * CONNECTIONS + 2 * OWN


def test_spoofed_datagrams_at_a_port_behind(router: Router) -> None:
    """The host behind answers them. What home has asked, and connections through it, go on."""
    router.firewall.apply(
        policy(
            "{name: dns, match: {proto: udp, dport: 53}, action: pass}",
            "{name: web, match: {proto: tcp, dport: 80, state: new}, action: pass}",
            interfaces=("fw0", "fw1"),
        )
    )
    with (
        echo_datagrams(router.behind, 53),
        connections(router.peer, router.behind, BEHIND, 80, OWN) as through,
        questions(router.home, router.peer, PEER, OWN) as asked,
        router.peer.raw("eth0") as sender,
    ):
        for first in range(SPOOFED, SPOOFED + DATAGRAMS, PART):
            frames = router.forged(f"udp 11.0.0.1:40000 > {BEHIND}:53", PART, first)
            flood(sender, router.firewall, frames, "rule")
            through()
            asked()
        flows = router.flows()
    of_the_flood = [flow for flow in flows if SPOOFED in (flow.remote & 0xFF000000, flow.local & 0xFF000000)]
    assert len(of_the_flood) > DATAGRAMS // 10
    assert {flow.rank for flow in of_the_flood} == {abi.FlowRank.FLOW_ANSWER}
    assert sum(flow.rank is abi.FlowRank.FLOW_OWN for flow in flows) == 3 * OWN


def test_spoofed_datagrams_beside_questions_of_home_s(router: Router) -> None:
    """Home answers what comes to port 53. Each of its own questions is out while PART of the flood comes."""
    router.firewall.apply(policy("{name: dns, match: {proto: udp, dport: 53}, action: pass}"))
    with (
        echo_datagrams(router.home, 53),
        router.peer.socket(socket.AF_INET, socket.SOCK_DGRAM) as serving,
        router.peer.raw("eth0") as sender,
    ):
        serving.bind((PEER, 53))
        for first in range(SPOOFED, SPOOFED + DATAGRAMS, PART):
            with router.home.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.sendto(b"?", (PEER, 53))
                data, source = serving.recvfrom(100)
                frames = router.forged(f"udp 11.0.0.1:40000 > {HOME}:53", PART, first)
                flood(sender, router.firewall, frames, "rule")
                serving.sendto(data, source)
                assert asking.recv(100) == b"?"
    counted = router.flow_counter()
    print(counted)
    assert counted.created > DATAGRAMS // 100


def test_connections_open_beside_a_flood(router: Router) -> None:
    """While it comes, not between its parts: out of home, where nothing of the flood is."""
    router.firewall.apply(policy("{name: web, match: {proto: tcp, dport: 80}, action: pass}"))
    stop = threading.Event()

    def keep_sending() -> None:
        with router.peer.raw("eth0") as sender:
            for first in range(SPOOFED, SPOOFED + SYNS, PART):
                if stop.is_set():
                    return
                flood(sender, router.firewall, router.forged(f"tcp 11.0.0.1:40000 > {HOME}:80 S", PART, first), "rule")

    with router.home.socket(socket.AF_INET, socket.SOCK_STREAM) as open_port:
        open_port.bind((HOME, 80))
        open_port.listen()
        sending = threading.Thread(target=keep_sending)
        sending.start()
        try:
            with connections(router.home, router.peer, PEER, 80, 50) as check:
                check()
        finally:
            stop.set()
            sending.join()
