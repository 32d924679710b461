# SPDX-License-Identifier: GPL-2.0-or-later
"""A firewall between two hosts, which know only its MAC addresses: XDP redirects both ways and rewrites them.

    client                        firewall                        server
┌──────────────┐        ┌─────────────────────────┐        ┌──────────────┐
│     eth0 ────┼────────┼── to-client   to-server ┼────────┼─── eth0      │
│  192.0.2.2   │        │  (XDP)            (XDP) │        │  192.0.2.1   │
│  2001:db8::2 │        │  no addresses           │        │  2001:db8::1 │
└──────────────┘        └─────────────────────────┘        └──────────────┘
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

import pytest

from tests.firewall import Firewall, policy
from tests.topology import LIMIT_SECONDS, Namespace, Network, wait_for

CLIENT, SERVER = ("192.0.2.2", "2001:db8::2"), ("192.0.2.1", "2001:db8::1")
PING = ("ping", "-n", "-q", "-c", "5", "-i", "0.05", "-W", str(int(LIMIT_SECONDS)))
INTERFACES = ("to-client", "to-server")


@dataclass(frozen=True)
class Path3:
    client: Namespace
    middle: Namespace
    server: Namespace
    firewall: Firewall

    def policy(self, mode: str, *, blocked: int = 81) -> str:
        """Forwards all but one port, as a router does with MAC addresses; nothing else gets through."""
        onward, back = (
            f"{{interface: {interface}, src_mac: '{self.middle.mac(interface)}', dst_mac: '{end.mac('eth0')}'}}"
            for interface, end in (("to-server", self.server), ("to-client", self.client))
        )
        return policy(
            f"{{name: blocked, match: {{proto: [tcp, udp], dport: {blocked}}}, action: drop}}",
            f"{{name: onward, match: {{interface: to-client, family: [ipv4, ipv6]}}, action: {{redirect: {onward}}}}}",
            f"{{name: back, match: {{interface: to-server, family: [ipv4, ipv6]}}, action: {{redirect: {back}}}}}",
            interfaces=INTERFACES,
            mode=mode,
            allow="{arp: false, ndp: false, icmp_errors: false, established: false}",
        )


@pytest.fixture
def path(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Path3:
    client, middle, server = net.namespace("client"), net.namespace("middle", ipv6=False), net.namespace("server")
    for end, interface in ((client, "to-client"), (server, "to-server")):
        net.pair(end, "eth0", middle, interface)
    client.address("eth0", f"{CLIENT[0]}/24", f"{CLIENT[1]}/64")
    server.address("eth0", f"{SERVER[0]}/24", f"{SERVER[1]}/64")
    for end, addresses, interface in ((client, SERVER, "to-client"), (server, CLIENT, "to-server")):
        for address in addresses:
            end.ip("neighbour", "add", address, "lladdr", middle.mac(interface), "dev", "eth0")
    return Path3(client, middle, server, make_firewall(middle))


def test_both_ways_with_new_mac_addresses(path: Path3, mode: str, tmp_path: Path) -> None:
    path.firewall.apply(path.policy(mode))
    assert [path.firewall.mode(interface) for interface in INTERFACES] == [mode, mode]
    for address in SERVER:
        path.client.run(*PING, address)
    content = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(content)
    command = (sys.executable, "-m", "http.server", "80", "--bind", "::", "--directory", tmp_path)
    with path.server.process(*command, stdout=DEVNULL, stderr=DEVNULL):
        wait_for(lambda: "*:80 " in path.server.run("ss", "-ltnH").stdout, "the web server")
        for number, url in enumerate((SERVER[0], f"[{SERVER[1]}]")):
            output = tmp_path / f"got{number}"
            limit = str(int(LIMIT_SECONDS))
            path.client.run("curl", "-sS", "-g", "--max-time", limit, "-o", output, f"http://{url}/file")
            assert output.read_bytes() == content
    stats = path.firewall.stats()
    assert stats["verdicts"]["pass"]["packets"] == stats["verdicts"]["tx"]["packets"] == 0
    packets = {rule["name"]: rule["packets"] for rule in stats["rules"]}
    for interface, rule in (("to-client", "onward"), ("to-server", "back")):
        assert stats["interfaces"][interface]["verdicts"]["redirect"]["packets"] == packets[rule] > 10


def test_frames_arrive_as_a_router_would_send_them(path: Path3, mode: str) -> None:
    path.firewall.apply(path.policy(mode))
    with (
        path.server.raw("eth0") as wire,
        path.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sender.sendto(b"for the wrong port", (SERVER[0], 81))
        sender.sendto(b"for the right port", (SERVER[0], 82))
        frame = b""
        while b"for the" not in frame:
            frame = wire.recv(2000)
        assert frame.endswith(b"for the right port")
        assert frame[:6].hex(":") == path.server.mac("eth0")
        assert frame[6:12].hex(":") == path.middle.mac("to-server")
    path.firewall.wait_for_rule("blocked", 1)
    assert path.firewall.rule("blocked") == 1


def test_a_target_that_is_made_anew_is_found_by_the_next_apply(path: Path3, net: Network) -> None:
    """A redirect's target need not be one of the policy's interfaces; its number is not in the policy."""
    text = policy("{name: on, match: {family: ipv4}, action: {redirect: spare}}", interfaces=("to-client",))
    net.pair(path.middle, "spare", path.server, "eth1")
    path.firewall.apply(text)
    unchanged = path.firewall.program("to-client")
    path.firewall.apply(text)
    assert path.firewall.program("to-client") == unchanged
    path.middle.ip("link", "delete", "spare")
    net.pair(path.middle, "spare", path.server, "eth1")
    path.firewall.apply(text)
    with path.server.raw("eth1") as wire, path.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"redirected", (SERVER[0], 9))
        while not wire.recv(2000).endswith(b"redirected"):
            pass


def test_a_target_that_is_gone_drops(path: Path3) -> None:
    path.firewall.apply(path.policy("native"))
    path.middle.ip("link", "delete", "to-server")
    with path.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"to nowhere", (SERVER[0], 9))
        path.firewall.wait_for_rule("onward", 1)
    assert path.firewall.stats()["interfaces"]["to-client"]["verdicts"]["drop"]["packets"] > 0
