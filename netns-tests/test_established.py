# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that live on: through apply, without a process, beside what floods.

      peer                          home
┌───────────────┐        ┌──────────────────────┐
│  eth0 ────────┼────────┼──── fw0 (XDP)        │
│  192.0.2.2    │        │  192.0.2.1           │
│  2001:db8::2  │        │  2001:db8::1         │
└───────────────┘        └──────────────────────┘
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.firewall import Firewall, policy
from tests.services import session, ssh_server
from tests.topology import LIMIT_SECONDS, Namespace, Network, wait_for
from xdpfw.kernel.maps import FlowCounter
from xdpfw.kernel.program import Generation

HOME = {4: "192.0.2.1", 6: "2001:db8::1"}
PEER = {4: "192.0.2.2", 6: "2001:db8::2"}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

NOTHING = policy()
SSH = policy("{name: ssh, match: {proto: tcp, dport: 22}, action: pass}")
WITHOUT = policy(allow="{established: false}")


@dataclass(frozen=True)
class Host:
    peer: Namespace
    home: Namespace
    firewall: Firewall

    def flow_counter(self) -> FlowCounter:
        (number,) = self.firewall.pins.generations()
        with Generation.open(self.firewall.pins.generation(number)) as generation:
            return generation.flow_counter()

    def flows(self) -> int:
        return len(json.loads(self.firewall.command("flows", "--json").stdout)["flows"])

    def refuses(self, version: int, port: int = 22) -> bool:
        """Whether a new connection of the peer meets the default."""
        before = self.firewall.reason("default")
        with self.peer.socket(FAMILIES[version], socket.SOCK_STREAM) as asking:
            asking.setblocking(False)
            assert asking.connect_ex((HOME[version], port)) == errno.EINPROGRESS
            wait_for(lambda: self.firewall.reason("default") > before or is_connected(asking), "an answer, or none")
            return not is_connected(asking)


def is_connected(asking: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        asking.getpeername()
        return True
    return False


@pytest.fixture
def host(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Host:
    peer, home = net.namespace("peer"), net.namespace("home")
    net.pair(peer, "eth0", home, "fw0")
    for end, name, addresses in ((peer, "eth0", PEER), (home, "fw0", HOME)):
        end.address(name, f"{addresses[4]}/24", f"{addresses[6]}/64")
    return Host(peer, home, make_firewall(home))


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@contextlib.contextmanager
def connection(client: Namespace, server: Namespace, address: str, port: int = 22) -> Iterator[Callable[[], None]]:
    """An open connection; what is yielded checks that both ends still hear each other."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.socket(family, socket.SOCK_STREAM) as listening, client.socket(family, socket.SOCK_STREAM) as asking:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen()
        asking.connect((address, port))
        taken, _ = listening.accept()
        taken.settimeout(LIMIT_SECONDS)
        with taken:

            def check() -> None:
                for sender, receiver in ((asking, taken), (taken, asking)):
                    sender.send(b"still there?")
                    assert receiver.recv(100) == b"still there?"

            yield check


def test_apply_does_not_cut_the_session_that_it_came_by(host: Host, version: int, tmp_path: Path) -> None:
    """Nothing was there before. With the flows deleted, too, the host's own sockets tell; and again, and idle."""
    with ssh_server(host.home, tmp_path) as sshd, session(host.peer, sshd, HOME[version]) as say:
        say("before")
        host.firewall.apply(NOTHING)
        say("there is a firewall now")
        assert host.refuses(version)
        host.firewall.command("flows", "del", "--all")
        assert host.flows() == 0
        say("nobody knows me")
        host.firewall.apply(SSH)
        say("another one")
        host.firewall.apply(NOTHING)
        say("and another")
        host.firewall.detach()
        host.firewall.apply(NOTHING)
        say("from the beginning")


def test_the_peer_speaks_first_behind_apply(host: Host, version: int) -> None:
    """An idle connection: no packet of home's has been seen when one of the peer's comes."""
    with connection(host.peer, host.home, HOME[version]) as check:
        host.firewall.apply(NOTHING)
        check()
        assert host.flow_counter().sockets > 0


def test_a_session_of_home_s_lives_on(host: Host, version: int) -> None:
    with connection(host.home, host.peer, PEER[version]) as check:
        host.firewall.apply(NOTHING)
        check()
    host.firewall.apply(SSH)
    with connection(host.home, host.peer, PEER[version]) as check:
        host.firewall.apply(NOTHING)
        check()
        assert host.flow_counter().sockets == 0


def test_what_the_policy_does_not_let_in_any_more_lives_on_unless_established_is_off(host: Host, version: int) -> None:
    host.firewall.apply(SSH)
    with connection(host.peer, host.home, HOME[version]) as check:
        host.firewall.apply(NOTHING)
        check()
        assert host.refuses(version)
        host.firewall.apply(WITHOUT)
        assert is_cut_off(host, check)


def is_cut_off(host: Host, check: Callable[[], None]) -> bool:
    """Whether what the peer says meets the default."""
    before = host.firewall.reason("default")
    saying = threading.Thread(target=check)
    saying.start()
    try:
        wait_for(lambda: host.firewall.reason("default") > before or not saying.is_alive(), "an answer, or none")
        return host.firewall.reason("default") > before
    finally:
        host.firewall.apply(NOTHING)  # which lets it end: what was sent is sent again
        saying.join()


def test_a_deleted_flow_of_datagrams_is_over(host: Host, version: int) -> None:
    """Unlike one of TCP, it has no socket that could tell."""
    host.firewall.apply(NOTHING)
    with (
        host.peer.socket(FAMILIES[version], socket.SOCK_DGRAM) as serving,
        host.home.socket(FAMILIES[version], socket.SOCK_DGRAM) as asking,
    ):
        serving.bind((PEER[version], 53))
        asking.sendto(b"who?", (PEER[version], 53))
        _, source = serving.recvfrom(100)
        serving.sendto(b"me", source)
        assert asking.recv(100) == b"me"
        host.firewall.command("flows", "del", "--proto", "udp")
        before = host.firewall.reason("default")
        serving.sendto(b"me again", source)
        wait_for(lambda: host.firewall.reason("default") > before, "the datagram to be dropped")
