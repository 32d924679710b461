# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw flows, on a host with flows of each kind. On a wire as tests/wire.py has it, where home has addresses.

      sender                 home
┌───────────────┐    ┌───────────────┐
│     eth0 ─────┼────┼──── fw0       │
│  192.0.2.2    │    │  192.0.2.1    │
│  2001:db8::2  │    │  2001:db8::1  │
└───────────────┘    └───────────────┘
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.firewall import Firewall, policy
from tests.topology import Namespace, Network

V4, V6 = "192.0.2.2", "2001:db8::2"


@dataclass(frozen=True)
class Host:
    """Home has a connection to [V6]:80, an answer of V4:53, an unanswered question to [V6]:53, and has pinged V4."""

    home: Namespace
    firewall: Firewall
    tcp: socket.socket

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.firewall.command("flows", *arguments, "--json", status=status).stdout)
        return found

    def kinds(self, *arguments: str) -> set[tuple[str, str]]:
        """Protocol and remote address of the flows that are listed."""
        return {(flow["protocol"], flow["remote"]) for flow in self.json("list", *arguments)["flows"]}


@pytest.fixture
def host(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Iterator[Host]:
    sender, home = net.namespace("sender"), net.namespace("home")
    net.pair(sender, "eth0", home, "fw0")
    sender.address("eth0", f"{V4}/24", f"{V6}/64")
    home.address("fw0", "192.0.2.1/24", "2001:db8::1/64")
    firewall = make_firewall(home)
    firewall.apply(policy())
    with contextlib.ExitStack() as opened:

        def new(where: Namespace, family: int, kind: int) -> socket.socket:
            return opened.enter_context(where.socket(family, kind))

        listening = new(sender, socket.AF_INET6, socket.SOCK_STREAM)
        listening.bind((V6, 80))
        listening.listen()
        asking = new(home, socket.AF_INET6, socket.SOCK_STREAM)
        asking.connect((V6, 80))
        serving, silent = (
            new(sender, socket.AF_INET, socket.SOCK_DGRAM),
            new(sender, socket.AF_INET6, socket.SOCK_DGRAM),
        )
        serving.bind((V4, 53))
        silent.bind((V6, 53))
        question = new(home, socket.AF_INET, socket.SOCK_DGRAM)
        question.sendto(b"?", (V4, 53))
        data, source = serving.recvfrom(100)
        serving.sendto(data, source)
        question.recv(100)
        new(home, socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"?", (V6, 53))
        silent.recv(100)
        home.run("ping", "-n", "-q", "-c", "1", "-W", "10", V4)
        yield Host(home, firewall, asking)


ALL = {("tcp", V6), ("udp", V4), ("udp", V6), ("icmp", V4)}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ALL),
        (("--proto", "udp"), {("udp", V4), ("udp", V6)}),
        (("--proto", "udp", "--proto", "icmp"), {("udp", V4), ("udp", V6), ("icmp", V4)}),
        (("--state", "established"), {("tcp", V6)}),
        (("--state", "replied"), {("udp", V4), ("icmp", V4)}),
        (("--state", "unreplied"), {("udp", V6)}),
        (("--port", "53"), {("udp", V4), ("udp", V6)}),
        (("--port", "0"), set()),
        ((V4,), {("udp", V4), ("icmp", V4)}),
        (("192.0.2.1",), {("udp", V4), ("icmp", V4)}),
        (("192.0.2.0/24", "2001:db8::2"), ALL),
        (("--src", "2001:db8::/64", "--port", "80"), {("tcp", V6)}),
        (("--src", "192.0.2.1"), set()),
        (("--dst", "192.0.2.1"), {("udp", V4), ("icmp", V4)}),
        (("0.0.0.0/0",), {("udp", V4), ("icmp", V4)}),
    ],
)
def test_what_says_which_flows(host: Host, arguments: tuple[str, ...], expected: set[tuple[str, str]]) -> None:
    assert host.kinds(*arguments) == expected


def test_the_members_of_a_flow(host: Host) -> None:
    (flow,) = host.json("list", "--proto", "tcp")["flows"]
    assert 0 <= flow.pop("age_s") < 100
    assert 0 < flow.pop("remaining_s") <= 5 * 86400
    local_port = host.tcp.getsockname()[1]
    assert flow == {
        "protocol": "tcp",
        "remote": V6,
        "remote_port": 80,
        "local": "2001:db8::1",
        "local_port": local_port,
        "echo_id": None,
        "state": "established",
        "may_give_way": False,
    }
    (echo,) = host.json("list", "--proto", "icmp")["flows"]
    assert echo["remote_port"] is echo["local_port"] is None
    assert isinstance(echo["echo_id"], int)
    table = host.firewall.command("flows").stdout.splitlines()
    assert table[0].split() == ["protocol", "remote", "local", "state", "age", "remaining"]
    assert any(
        line.split()[:4] == ["tcp", f"[{V6}]:80", f"[2001:db8::1]:{local_port}", "established"] for line in table
    )


def test_flows_are_counted(host: Host) -> None:
    counted = host.json("count")
    assert counted["flows"] == [
        {"protocol": "icmp", "state": "replied", "flows": 1},
        {"protocol": "tcp", "state": "established", "flows": 1},
        {"protocol": "udp", "state": "replied", "flows": 1},
        {"protocol": "udp", "state": "unreplied", "flows": 1},
    ]
    assert counted["used"] == 4
    assert counted["counters"]["created"] == 4
    assert host.json("count", "--proto", "udp")["used"] == 2
    status = host.firewall.status()["flows"]
    assert (status["used"], status["capacity"]) == (4, counted["capacity"])
    assert status["counters"] == counted["counters"]
    assert status["seen"]["fw0"] in ("tcx", "clsact")
    assert f"flows       4 of {counted['capacity']}" in host.firewall.command("status").stdout
    told = host.firewall.command("flows", "count").stdout
    assert "4 flows; there is room for" in told
    assert "flows for which there was no room" in told


def test_flows_are_ended(host: Host) -> None:
    ended = host.json("del", "--proto", "udp", V6)["deleted"]
    assert [(flow["protocol"], flow["remote"]) for flow in ended] == [("udp", V6)]
    assert host.kinds() == ALL - {("udp", V6)}
    assert host.json("del", "--proto", "udp", V6, status=1) == {"deleted": []}
    assert len(host.json("del", "--all")["deleted"]) == 3
    assert host.json()["flows"] == []
    assert "no such flows" in host.firewall.command("flows").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("del",), "nothing says which flows"),
        (("del", "--all", "--proto", "tcp"), "do not go together"),
        (("list", "192.0.2.1/24"), "the prefix is 192.0.2.0/24"),
        (("list", "--proto", "gre"), "'gre' is not one of"),
    ],
)
def test_what_is_refused(host: Host, arguments: tuple[str, ...], message: str) -> None:
    assert message in host.firewall.command("flows", *arguments, status=2).stderr
    assert host.kinds() == ALL


def test_nothing_in_force_has_no_flows(host: Host) -> None:
    host.firewall.apply(policy(allow="{established: false, icmp_errors: false}"))
    assert host.firewall.status()["flows"] is None
    host.firewall.detach()
    host.firewall.command("flows", status=1)
    host.firewall.command("flows", "count", status=1)
