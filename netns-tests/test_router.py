# SPDX-License-Identifier: GPL-2.0-or-later
"""A router that drops by default and forwards by the kernel's FIB, and real traffic through it.

       lan                           router                          wan
┌──────────────────┐     ┌────────────────────────────┐     ┌───────────────────┐
│  eth0 ───────────┼─────┼── lan0 (XDP)   wan0 (XDP) ──┼─────┼─── eth0           │
│  192.0.2.2       │     │  192.0.2.1    198.51.100.1  │     │  198.51.100.2     │
│  2001:db8:1::2   │     │  2001:db8:1::1              │     │  2001:db8:2::2    │
│                  │     │               2001:db8:2::1 │     │                   │
└──────────────────┘     └────────────────────────────┘     └───────────────────┘
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

import pytest

from tests.firewall import Firewall, policy
from tests.topology import LIMIT_SECONDS, Namespace, Network, wait_for

DOCUMENT = Path(__file__).parents[1] / "docs" / "routing.md"
INTERFACES = ("lan0", "wan0")
LAN, WAN = ("192.0.2.2", "2001:db8:1::2"), ("198.51.100.2", "2001:db8:2::2")
LAN_ROUTER, WAN_ROUTER = ("192.0.2.1", "2001:db8:1::1"), ("198.51.100.1", "2001:db8:2::1")
WAIT = str(int(LIMIT_SECONDS))
PING = ("ping", "-n", "-c", "5", "-i", "0.05", "-W", WAIT)
ONE_PING = ("ping", "-n", "-c", "1", "-W", WAIT)

OUT = "{name: out, match: {interface: lan0, family: [ipv4, ipv6]}, action: {route: fib}}"
BACK = "{name: back, match: {interface: wan0, family: [ipv4, ipv6], state: established}, action: {route: fib}}"
IN = "{name: in, match: {interface: wan0, family: [ipv4, ipv6]}, action: {route: fib}}"
NO_FLOWS = "{established: false}"
"""Or else what belongs to flows would go up the stack before any rule is looked at."""


@dataclass(frozen=True)
class Routed:
    lan: Namespace
    router: Namespace
    wan: Namespace
    firewall: Firewall

    def apply(self, *rules: str, mode: str = "native") -> subprocess.CompletedProcess[str]:
        return self.firewall.apply(policy(*rules, interfaces=INTERFACES, mode=mode, allow=NO_FLOWS))

    def verdicts(self, interface: str) -> dict[str, int]:
        found = self.firewall.stats()["interfaces"][interface]["verdicts"]
        return {verdict: counter["packets"] for verdict, counter in found.items()}


@pytest.fixture
def make_routed(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Callable[..., Routed]:
    def make(wan_mtu: int = 1500) -> Routed:
        lan, router, wan = (net.namespace(label) for label in ("lan", "router", "wan"))
        for end, interface, mtu, addresses, gateways in (
            (lan, "lan0", 1500, LAN, LAN_ROUTER),
            (wan, "wan0", wan_mtu, WAN, WAN_ROUTER),
        ):
            net.pair(end, "eth0", router, interface, mtu=mtu)
            end.address("eth0", f"{addresses[0]}/24", f"{addresses[1]}/64")
            router.address(interface, f"{gateways[0]}/24", f"{gateways[1]}/64")
            for gateway in gateways:
                end.ip("route", "add", "default", "via", gateway)
        router.sysctl("ipv4/conf/all/forwarding", 1)
        router.sysctl("ipv6/conf/all/forwarding", 1)
        return Routed(lan, router, wan, make_firewall(router))

    return make


@pytest.fixture
def routed(make_routed: Callable[..., Routed]) -> Routed:
    return make_routed()


def needs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def iperf3(routed: Routed, address: str, *options: str) -> int:
    """Bytes that arrived of what iperf3 sends in a second."""
    command = ("iperf3", "-s", "-1", "--forceflush", "-p", "5201")
    with routed.wan.process(*command, stdout=DEVNULL, stderr=DEVNULL):
        wait_for(lambda: ":5201 " in routed.wan.run("ss", "-ltnH").stdout, "iperf3 to listen")
        done = routed.lan.run("iperf3", "-J", "-c", address, "-p", "5201", "-t", "1", *options)
    return int(json.loads(done.stdout)["end"]["sum_received"]["bytes"])


@pytest.mark.parametrize("address", WAN, ids=["v4", "v6"])
def test_connections_opened_inside_go_both_ways(routed: Routed, mode: str, address: str) -> None:
    """Nobody has found out the neighbours' MAC addresses before."""
    needs("iperf3")
    routed.apply(OUT, BACK, mode=mode)
    routed.lan.run(*PING, address)
    for options in ((), ("-R",)):
        assert iperf3(routed, address, *options) > 1 << 20
    routed.firewall.stats()
    for interface, rule in (("lan0", "out"), ("wan0", "back")):
        verdicts = routed.verdicts(interface)
        assert verdicts["redirect"] > 0.9 * routed.firewall.rule(rule) > 100
        assert verdicts["redirect"] <= routed.firewall.rule(rule)


@pytest.mark.parametrize("address", LAN, ids=["v4", "v6"])
def test_connections_from_outside_do_not_get_in(routed: Routed, address: str) -> None:
    routed.apply(OUT, BACK)
    routed.wan.run("ping", "-n", "-c", "3", "-i", "0.05", "-W", "0.2", address, status=1)
    assert routed.firewall.rule("back") == 0
    assert routed.firewall.reason("default") >= 3


@pytest.mark.parametrize(("address", "source"), [*zip(WAN, LAN, strict=True)], ids=["v4", "v6"])
def test_each_datagram_is_counted_once_and_arrives_once(routed: Routed, mode: str, address: str, source: str) -> None:
    rule = "{name: ours, match: {interface: lan0, proto: udp, dport: 9999}, action: {route: fib}}"
    routed.apply(rule, OUT, IN, mode=mode)
    routed.lan.run(*ONE_PING, address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        routed.wan.socket(family, socket.SOCK_DGRAM) as receiver,
        routed.lan.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((address, 9999))
        for number in range(500):
            sender.sendto(number.to_bytes(2), (address, 9999))
            got, origin = receiver.recvfrom(100)
            assert (int.from_bytes(got), origin[0]) == (number, source)
    assert routed.firewall.rule("ours") == 500
    assert routed.verdicts("lan0")["redirect"] >= 490


@pytest.mark.parametrize("number", [0, 1], ids=["v4", "v6"])
def test_traceroute_shows_the_router(routed: Routed, mode: str, number: int) -> None:
    needs("traceroute")
    routed.apply(OUT, IN, mode=mode)
    shown = routed.lan.run("traceroute", "-n", "-q", "1", "-m", "4", "-w", "3", WAN[number]).stdout
    hops = [line.split()[1] for line in shown.splitlines()[1:]]
    assert hops == [LAN_ROUTER[number], WAN[number]]


@pytest.mark.parametrize("number", [0, 1], ids=["v4", "v6"])
def test_the_router_tells_of_a_narrower_way(make_routed: Callable[..., Routed], tmp_path: Path, number: int) -> None:
    routed = make_routed(wan_mtu=1400)
    routed.apply(OUT, IN)
    size = 1500 - (28, 48)[number]
    told = routed.lan.run("ping", "-n", "-c", "1", "-W", WAIT, "-M", "do", "-s", str(size), WAN[number], status=1)
    assert "mtu" in (told.stdout + told.stderr).lower()
    assert "1400" in told.stdout + told.stderr
    content = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(content)
    command = (sys.executable, "-m", "http.server", "80", "--bind", "::", "--directory", tmp_path)
    with routed.wan.process(*command, stdout=DEVNULL, stderr=DEVNULL):
        wait_for(lambda: "*:80 " in routed.wan.run("ss", "-ltnH").stdout, "the web server")
        host = WAN[number] if number == 0 else f"[{WAN[number]}]"
        routed.lan.run("curl", "-sS", "-g", "--max-time", WAIT, "-o", tmp_path / "got", f"http://{host}/file")
        assert (tmp_path / "got").read_bytes() == content


def test_what_may_be_fragmented_is_fragmented_by_the_stack(make_routed: Callable[..., Routed]) -> None:
    routed = make_routed(wan_mtu=1400)
    routed.apply(OUT, IN)
    routed.lan.run(*ONE_PING, "-M", "dont", "-s", "1472", WAN[0])


@pytest.mark.parametrize("number", [0, 1], ids=["v4", "v6"])
def test_packets_to_the_router_itself_go_up(routed: Routed, mode: str, number: int) -> None:
    routed.apply(OUT, IN, mode=mode)
    routed.lan.run(*ONE_PING, LAN_ROUTER[number])
    routed.lan.run(*ONE_PING, WAN_ROUTER[number])
    assert routed.verdicts("lan0")["redirect"] == 0


def test_a_loop_between_routers_ends_with_the_ttl(routed: Routed) -> None:
    """Each sends on to the other what nobody has. The way back out of the same interface is a way like any other."""
    routed.apply("{name: lost, match: {dst: 203.0.113.0/24}, action: {route: fib}}", OUT, IN)
    routed.router.ip("route", "add", "203.0.113.0/24", "via", WAN[0])
    routed.wan.sysctl("ipv4/conf/all/forwarding", 1)
    routed.lan.run(*ONE_PING, WAN[0])
    with routed.lan.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 64)
        sender.sendto(b"lost", ("203.0.113.9", 9))
        # 64 from the sender, then 62, 60, ... 2 from the other router, which gets the last one with TTL 1.
        routed.firewall.wait_for_rule("lost", 32)
        routed.lan.run(*PING, WAN[0])
    assert routed.firewall.rule("lost") == 32


def test_a_neighbour_with_another_mac_address_is_found_again(routed: Routed) -> None:
    """Nothing tells the router. Its stack must come to ask, though XDP sends the packets."""
    routed.apply(OUT, IN)
    for key, value in (("base_reachable_time_ms", 500), ("delay_first_probe_time", 1), ("retrans_time_ms", 100)):
        routed.router.sysctl(f"ipv4/neigh/wan0/{key}", value)
    routed.lan.run(*PING, WAN[0])
    routed.wan.ip("link", "set", "eth0", "address", "02:00:00:00:00:77")

    def answers() -> bool:
        return routed.lan.run("ping", "-n", "-c", "1", "-W", "0.2", WAN[0], status=None).returncode == 0

    wait_for(answers, "the router to find the neighbour again")


def test_an_interface_that_takes_no_frames_is_served_by_the_stack(routed: Routed) -> None:
    routed.wan.run("ethtool", "-K", "eth0", "gro", "off")
    said = routed.apply(OUT, IN)
    assert "packets routed to wan0 go up the stack" in said.stderr + said.stdout
    routed.lan.run(*PING, WAN[0])
    assert routed.verdicts("lan0")["redirect"] == 0
    routed.wan.run("ethtool", "-K", "eth0", "gro", "on")
    said = routed.apply(OUT, IN)
    assert "go up the stack" not in said.stderr + said.stdout
    routed.lan.run(*PING, WAN[0])
    assert routed.verdicts("lan0")["redirect"] > 0


def test_the_documents_router_lets_out_and_answers_in(routed: Routed) -> None:
    """As it stands there. Whoever forges an address of the inside or of the router gets nowhere."""
    needs("iperf3")
    _, text = DOCUMENT.read_text(encoding="utf-8").split("```yaml\n", 1)
    routed.firewall.apply(text.split("```", 1)[0])
    for number in range(2):
        routed.lan.run(*PING, WAN[number])
        routed.lan.run(*ONE_PING, LAN_ROUTER[number])
        routed.wan.run(*ONE_PING, WAN_ROUTER[number])
        for options in ((), ("-R",)):
            assert iperf3(routed, WAN[number], *options) > 1 << 20
        routed.wan.run("ping", "-n", "-c", "1", "-W", "0.2", LAN[number], status=1)
    assert routed.verdicts("wan0")["redirect"] > 0.9 * routed.firewall.rule("answers") / 2 > 100
    before = routed.firewall.rule("forged-outside")
    routed.wan.ip("address", "add", "192.0.2.99/32", "dev", "lo")
    routed.wan.run("ping", "-n", "-c", "1", "-W", "0.2", "-I", "192.0.2.99", LAN[0], status=1)
    routed.firewall.wait_for_rule("forged-outside", before + 1)


@pytest.mark.parametrize("destination", ["255.255.255.255", "224.0.0.1", "198.51.100.255"])
def test_nothing_is_forwarded_to_all(routed: Routed, destination: str) -> None:
    """Not even where somebody forges it into a frame for the router."""
    routed.apply(OUT, IN)
    routed.lan.run(*ONE_PING, WAN[0])
    before = routed.verdicts("lan0")["redirect"]
    with routed.wan.raw("eth0") as wire, routed.lan.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        sender.sendto(b"to everybody", (destination, 9))
        sender.sendto(b"to one", (WAN[0], 9))
        frame = b""
        while b"to one" not in frame:
            frame = wire.recv(2000)
            assert b"to everybody" not in frame
    assert routed.verdicts("lan0")["redirect"] <= before + 1
