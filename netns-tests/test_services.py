# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host does all day, in and out, behind a policy that drops by default.

      peer                     router                        home
┌───────────────┐    ┌────────────────────────┐    ┌───────────────────────┐
│  eth0 ────────┼────┼── east        west ────┼────┼──── fw0 (XDP)         │
│  192.0.2.2    │    │  192.0.2.1             │    │  198.51.100.2         │
│  2001:db8:1::2│    │  198.51.100.1          │    │  2001:db8:2::2        │
└───────────────┘    └────────────────────────┘    └───────────────────────┘
    MTU 1400                                 MTU 1500
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.firewall import Firewall, policy
from tests.services import (
    fetch,
    is_protocol_there,
    look_up,
    measuring_server,
    name_server,
    needs,
    ssh_server,
    web_server,
)
from tests.topology import LIMIT_SECONDS, Namespace, Network

SMALL_MTU = 1400
HOME = {4: "198.51.100.2", 6: "2001:db8:2::2"}
PEER = {4: "192.0.2.2", 6: "2001:db8:1::2"}
TRANSFER_BYTES = 50 << 20

OPEN = (
    "{name: ping, match: {proto: icmp, icmp_type: echo-request}, action: pass}",
    "{name: ping6, match: {proto: icmpv6, icmp_type: echo-request}, action: pass}",
    "{name: services, match: {proto: tcp, dport: [22, 53, 80, 443, 5201]}, action: pass}",
    "{name: datagrams, match: {proto: udp, dport: [53, 5201]}, action: pass}",
)
"""What home offers."""

ALLOWANCES = {"by default": None, "without icmp_errors": "{icmp_errors: false}"}


@dataclass(frozen=True)
class Host:
    peer: Namespace
    router: Namespace
    home: Namespace
    firewall: Firewall


@pytest.fixture
def host(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Host:
    peer, router, home = (net.namespace(name) for name in ("peer", "router", "home"))
    net.pair(peer, "eth0", router, "east", mtu=SMALL_MTU)
    net.pair(router, "west", home, "fw0")
    router.address("east", "192.0.2.1/24", "2001:db8:1::1/64")
    router.address("west", "198.51.100.1/24", "2001:db8:2::1/64")
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        router.sysctl(name, 1)
    # As fast as errors come, so are they answered: this is no test of how the router spares itself.
    router.sysctl("ipv4/icmp_ratelimit", 0)
    router.sysctl("ipv6/icmp/ratelimit", 0)
    for end, addresses, name in (
        (peer, ("192.0.2", "2001:db8:1:"), "eth0"),
        (home, ("198.51.100", "2001:db8:2:"), "fw0"),
    ):
        end.address(name, f"{addresses[0]}.2/24", f"{addresses[1]}:2/64")
        end.ip("route", "add", "default", "via", f"{addresses[0]}.1")
        end.ip("-6", "route", "add", "default", "via", f"{addresses[1]}:1")
    return Host(peer, router, home, make_firewall(home))


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def url(scheme: str, address: str) -> str:
    return f"{scheme}://{f'[{address}]' if ':' in address else address}/file"


def test_dns_in_and_out(host: Host, version: int) -> None:
    """The peer asks home, and home asks the peer, by itself and for a third who asks it; by UDP and TCP."""
    host.firewall.apply(policy(*OPEN))
    with (
        name_server(host.peer, "peer.test", "203.0.113.1"),
        name_server(host.home, "home.test", "203.0.113.2", upstream=PEER[version]),
    ):
        for transport in ("+notcp", "+tcp"):
            assert look_up(host.home, "peer.test", PEER[version], transport) == "203.0.113.1"
            assert look_up(host.peer, "peer.test", HOME[version], transport) == "203.0.113.1"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_large_transfers_in_and_out(host: Host, version: int, scheme: str, tmp_path: Path) -> None:
    """What home sends does not fit the peer's network as it is: path MTU discovery is part of it."""
    host.firewall.apply(policy(*OPEN, allow="{icmp_errors: false}"))
    ways = ((host.home, HOME, host.peer), (host.peer, PEER, host.home))
    for server, addresses, client in ways:
        with web_server(server, tmp_path, TRANSFER_BYTES) as content:
            assert fetch(client, url(scheme, addresses[version]), tmp_path / "got") == content


def test_ssh_in_and_out(host: Host, version: int, tmp_path: Path) -> None:
    host.firewall.apply(policy(*OPEN))
    for server, addresses, client in ((host.home, HOME, host.peer), (host.peer, PEER, host.home)):
        with ssh_server(server, tmp_path) as sshd:
            sshd.check_answers(client, addresses[version])


@pytest.mark.parametrize("options", [(), ("-u", "-b", "50M", "-l", "1200")], ids=["TCP", "UDP"])
def test_iperf3_both_ways_in_and_out(host: Host, version: int, options: tuple[str, ...]) -> None:
    host.firewall.apply(policy(*OPEN))
    for server, addresses, client in ((host.home, HOME, host.peer), (host.peer, PEER, host.home)):
        for way in ((), ("-R",)):
            with measuring_server(server):
                arguments = ("-c", addresses[version], "-t", "1", "--json", *options, *way)
                measured = json.loads(client.run(needs("iperf3"), *arguments).stdout)
                assert "error" not in measured
                total = measured["end"]["sum"] if options else measured["end"]["sum_received"]
                assert total["bytes"] > 1 << 20


def test_ping_in_and_out(host: Host, version: int) -> None:
    """Out, no rule is asked; without established, there is no answer."""
    host.firewall.apply(policy(*OPEN))
    ping = ("ping", f"-{version}", "-n", "-q", "-c", "3", "-i", "0.05", "-W", "10")
    host.peer.run(*ping, HOME[version])
    host.home.run(*ping, PEER[version])
    host.home.run(*ping, "-s", "4000", PEER[version])
    host.firewall.apply(policy(*OPEN, allow="{established: false}"))
    host.home.run("ping", f"-{version}", "-n", "-q", "-c", "1", "-W", "1", PEER[version], status=1)


@pytest.mark.parametrize("allow", ALLOWANCES.values(), ids=ALLOWANCES)
@pytest.mark.parametrize("method", ["-U", "-I"], ids=["UDP", "ICMP"])
def test_traceroute_out(host: Host, version: int, method: str, allow: str | None) -> None:
    """Both hops answer: the router that the time ran out, the peer that it is there."""
    host.firewall.apply(policy(*OPEN, allow=allow))
    told = host.home.run(
        needs("traceroute"), f"-{version}", "-n", "-q", "1", "-w", "3", "-m", "4", method, PEER[version]
    )
    hops = [line.split()[1] for line in told.stdout.splitlines()[1:]]
    router = {4: "198.51.100.1", 6: "2001:db8:2::1"}
    assert hops == [router[version], PEER[version]]


@pytest.mark.parametrize("allow", ALLOWANCES.values(), ids=ALLOWANCES)
def test_path_mtu_discovery(host: Host, version: int, allow: str | None) -> None:
    """Datagrams that may not be divided: home learns what the peer's network takes."""
    host.firewall.apply(policy(*OPEN, allow=allow))
    told = host.home.run(needs("tracepath"), f"-{version}", "-n", "-m", "4", PEER[version])
    assert f"pmtu {SMALL_MTU}" in told.stdout
    route = host.home.run("ip", f"-{version}", "route", "get", PEER[version]).stdout
    assert f"mtu {SMALL_MTU}" in route


def test_an_unreachable_port_is_told(host: Host, version: int) -> None:
    """By the error that quotes what home has sent, also where errors as such are not let in."""
    host.firewall.apply(policy(*OPEN, allow="{icmp_errors: false}"))
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with host.home.socket(family, socket.SOCK_DGRAM) as made:
        made.connect((PEER[version], 9))
        made.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            made.recv(100)


def test_datagrams_in_fragments_in_and_out(host: Host, version: int) -> None:
    host.firewall.apply(policy(*OPEN))
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    for server, addresses, client in ((host.home, HOME, host.peer), (host.peer, PEER, host.home)):
        with server.socket(family, socket.SOCK_DGRAM) as serving, client.socket(family, socket.SOCK_DGRAM) as asking:
            serving.bind((addresses[version], 5201))
            asking.bind((("0.0.0.0", "::")[version == 6], 0))
            for size in (100, 8000):
                source = deliver(asking, serving, (addresses[version], 5201), size)
                deliver(serving, asking, source, size)


def deliver(sender: socket.socket, receiver: socket.socket, address: tuple[str, int], size: int) -> tuple[str, int]:
    """Sends until it arrives, and returns from where: of IPv6, what finds out the path's MTU is lost.

    One that was late may come behind one that was sent after it.
    """
    receiver.settimeout(1)
    for _ in range(int(LIMIT_SECONDS)):
        sender.sendto(bytes(size), address)
        with contextlib.suppress(TimeoutError):
            data, source = receiver.recvfrom(9000)
            if len(data) == size:
                return source[0], source[1]
    raise AssertionError(f"{size} bytes did not arrive")


def test_sctp_in_and_out(host: Host, version: int) -> None:
    if not is_protocol_there(socket.IPPROTO_SCTP):
        pytest.skip("this kernel has no SCTP")
    host.firewall.apply(policy(*OPEN, "{name: sctp, match: {proto: sctp, dport: 5201}, action: pass}"))
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    for server, addresses, client in ((host.home, HOME, host.peer), (host.peer, PEER, host.home)):
        with (
            server.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as serving,
            client.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as asking,
        ):
            serving.bind((addresses[version], 5201))
            serving.listen()
            asking.connect((addresses[version], 5201))
            taken, _ = serving.accept()
            with taken:
                asking.send(b"hello")
                assert taken.recv(100) == b"hello"
                taken.send(b"yes?")
                assert asking.recv(100) == b"yes?"
