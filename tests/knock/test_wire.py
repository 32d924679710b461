# SPDX-License-Identifier: GPL-2.0-or-later
"""What leaves a host that knocks, packet by packet, with and without root.

   client                  server
┌───────────┐          ┌────────────┐
│    c0 ────┼──────────┼──── s0     │   whose addresses nobody has, so that nothing is answered
└───────────┘          └────────────┘
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.cli.conftest import Ran, Run
from tests.kernel.conftest import NOBODY
from tests.topology import Namespace, network
from xdpfw.kernel.interface import namespace
from xdpfw.knock import spa
from xdpfw.knock.client import send_spa
from xdpfw.knock.keys import ClientHalf
from xdpfw.packet.decode import Fragment, Packet, decode

pytestmark = pytest.mark.needs("privileges")

SERVER = {"-4": "198.51.100.2", "-6": "2001:db8::2"}
CLIENT = {"-4": "198.51.100.1", "-6": "2001:db8::1"}
FAMILIES = pytest.mark.parametrize("family", ["-4", "-6"])
SYN = 2
END = 9  # the port of a datagram behind the last packet of a knock


@dataclass(frozen=True)
class Host:
    client: Namespace
    wire: socket.socket
    run: Run

    def knock(self, *arguments: str, user: int = 0) -> Ran:
        with namespace(self.client.name):
            os.seteuid(user)
            try:
                return self.run("knock", "--delay", "0", *arguments)
            finally:
                os.seteuid(0)

    def packets(self, family: str) -> list[Packet]:
        """All that the client sent to the server so far."""
        assert self.knock(SERVER[family], f"{END}/udp").status == 0
        found: list[Packet] = []
        while True:
            frame = self.wire.recv(2048)
            packet = decode(frame)
            assert isinstance(packet, Packet)
            if packet.dst != int.from_bytes(_packed(SERVER[family]), "big"):
                continue  # what IPv6 does by itself
            assert _sums_to_zero(frame, packet)
            if packet.dport == END:
                return found
            found.append(packet)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _sums_to_zero(frame: bytes, packet: Packet) -> bool:
    """Whether the checksum of TCP, UDP, ICMP or ICMPv6 is right (RFC 1071, RFC 8200 section 8.1)."""
    assert packet.length is not None
    assert packet.proto is not None
    start, addresses = (34, frame[26:34]) if packet.ethertype == 0x0800 else (54, frame[22:54])
    payload = frame[start : 14 + packet.length]
    pseudo = b"" if packet.proto == 1 else addresses + len(payload).to_bytes(4, "big") + bytes([0, 0, 0, packet.proto])
    data = pseudo + payload + bytes(len(payload) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    return total % 0xFFFF == 0


@pytest.fixture
def host(run: Callable[..., Ran]) -> Iterator[Host]:
    with network() as net:
        client, server = net.namespace("client"), net.namespace("server", ipv6=False)
        net.pair(client, "c0", server, "s0")
        client.address("c0", "198.51.100.1/24", "2001:db8::1/64")
        for address in SERVER.values():
            client.ip("neighbour", "add", address, "lladdr", server.mac("s0"), "dev", "c0")
        with server.raw("s0") as wire:
            yield Host(client, wire, run)


@FAMILIES
def test_each_step_is_one_packet_in_order(host: Host, family: str) -> None:
    messages = ["8/icmp", "0/icmp", "8.3/icmp"]
    messages += ["13/icmp", "3.1/icmp"] if family == "-4" else ["128/icmpv6", "128.3/icmpv6", "200.7/icmpv6"]
    assert host.knock(SERVER[family], "7000/tcp", "9000/udp", "8000/tcp", *messages).status == 0
    syn, datagram, syn_again, *icmp = host.packets(family)
    for packet, port in ((syn, 7000), (syn_again, 8000)):
        assert (packet.proto, packet.dport, packet.tcp_flags, packet.payload) == (6, port, SYN, b"")
    assert (datagram.proto, datagram.dport, datagram.payload) == (17, 9000, b"\0")
    types = {
        "-4": [(8, 0), (0, 0), (8, 3), (13, 0), (3, 1)],
        "-6": [(128, 0), (129, 0), (128, 3), (128, 0), (128, 3), (200, 7)],
    }
    assert [(packet.icmp_type, packet.icmp_code) for packet in icmp] == types[family]
    for packet in (syn, datagram, syn_again, *icmp):
        assert packet.fragment == Fragment.NONE
        assert packet.src == int.from_bytes(_packed(CLIENT[family]), "big")


@FAMILIES
def test_nothing_of_a_knock_is_left_to_send_anything_later(host: Host, family: str) -> None:
    """A SYN is sent again only from a socket that waits for its answer."""
    assert host.knock(SERVER[family], "7000/tcp", "8000/tcp").status == 0
    assert [packet.dport for packet in host.packets(family)] == [7000, 8000]
    for table in ("tcp", "tcp6"):
        lines = host.client.run("cat", f"/proc/net/{table}").stdout.splitlines()[1:]
        assert lines == []


@FAMILIES
def test_verify_knocks_again_and_leaves_nothing_behind(host: Host, family: str) -> None:
    ran = host.knock(SERVER[family], "7000/tcp", "--verify", "22", "--tries", "2", "--json")
    assert (ran.status, ran.json["verified"], ran.json["tries"], ran.json["problem"]) == (1, False, 2, "no answer")
    ports = [packet.dport for packet in host.packets(family)]
    assert [port for port, before in zip(ports, [None, *ports], strict=False) if port != before] == [7000, 22, 7000, 22]
    assert host.client.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.count("\n") == 2


@FAMILIES
def test_root_is_needed_for_icmp_alone(host: Host, family: str) -> None:
    assert host.knock(SERVER[family], "7000/tcp", "9000/udp", user=NOBODY).status == 0
    assert len(host.packets(family)) == 2
    host.client.run("sh", "-c", "echo 1 0 > /proc/sys/net/ipv4/ping_group_range")
    ran = host.knock(SERVER[family], "8/icmp", user=NOBODY)
    assert ran.status == 3
    assert ran.err.startswith(f"xdpfw: send 8/icmp to {SERVER[family]}: Operation not permitted (for echo requests, ")
    assert host.packets(family) == []


@FAMILIES
def test_echo_requests_need_no_root_where_the_group_may_ping(host: Host, family: str) -> None:
    host.client.run("sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")
    assert host.knock(SERVER[family], "8/icmp", user=NOBODY).status == 0
    (packet,) = host.packets(family)
    assert (packet.icmp_type, packet.icmp_code) == ((8, 0) if family == "-4" else (128, 0))
    assert host.knock(SERVER[family], "0/icmp", user=NOBODY).status == 3


@FAMILIES
def test_a_message_has_the_address_that_it_leaves_with(host: Host, family: str) -> None:
    half = ClientHalf(bytes(8), 7, "laptop", bytes(range(32)), 62201)
    with namespace(host.client.name):
        send_spa(SERVER[family], half)
    (packet,) = host.packets(family)
    assert packet.udp_length == 64
    assert packet.payload is not None
    assert spa.is_genuine(packet.payload, half.bound)
    assert spa.parse(packet.payload).source == spa.source_bytes(CLIENT[family])


@FAMILIES
def test_a_host_without_a_way_there_is_told(host: Host, family: str) -> None:
    host.client.ip("link", "set", "c0", "down")
    for ran in (host.knock(SERVER[family], "7000/tcp"), host.knock(SERVER[family], "7000/udp")):
        assert ran.status == 3
        assert ran.err.startswith("xdpfw: send 7000/")
        assert ran.err.count("\n") == 1
