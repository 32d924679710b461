# SPDX-License-Identifier: GPL-2.0-or-later
"""A host behind a policy that drops by default, and a real client.

    client                            host
┌──────────────┐        ┌─────────────────────────┐
│     eth0 ────┼────────┼──── fw0 (XDP)           │
│  192.0.2.2   │        │  192.0.2.1              │
│  2001:db8::2 │        │  2001:db8::1            │
└──────────────┘        │  http :80, echo udp :7  │
                        └─────────────────────────┘
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest

from tests.firewall import Firewall, policy
from tests.topology import LIMIT_SECONDS, Namespace, Network, run, wait_for

ROOT = Path(__file__).resolve().parents[1]
V4, V6 = "192.0.2.1", "2001:db8::1"
PING = ("ping", "-n", "-q", "-c", "3", "-i", "0.05", "-W", str(int(LIMIT_SECONDS)))

RULES = (
    "{name: ping, match: {proto: icmp, icmp_type: echo-request}, action: pass}",
    "{name: ping6, match: {proto: icmpv6, icmp_type: echo-request}, action: pass}",
    "{name: web, match: {proto: tcp, dport: 80}, action: pass}",
    "{name: echo, match: {proto: udp, dport: 7}, action: pass}",
)

BY_RULES = "{established: false}"
"""Of ``allow``: every packet meets the rules, and is counted there."""


@dataclass(frozen=True)
class Host:
    client: Namespace
    host: Namespace
    firewall: Firewall


@pytest.fixture
def host(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Host:
    client, host = net.namespace("client"), net.namespace("host")
    net.pair(client, "eth0", host, "fw0")
    client.address("eth0", "192.0.2.2/24", "2001:db8::2/64")
    host.address("fw0", f"{V4}/24", f"{V6}/64")
    return Host(client, host, make_firewall(host))


@contextlib.contextmanager
def web_server(home: Namespace, directory: Path) -> Iterator[bytes]:
    """Serves one large file; yields its content."""
    content = os.urandom(1 << 20)
    (directory / "file").write_bytes(content)
    command = (sys.executable, "-m", "http.server", "80", "--bind", "::", "--directory", directory)
    with home.process(*command, stdout=DEVNULL, stderr=DEVNULL):
        wait_for(lambda: listens(home, 80), "the web server")
        yield content


def listens(home: Namespace, port: int) -> bool:
    with home.socket(socket.AF_INET6, socket.SOCK_STREAM) as made:
        return made.connect_ex(("::1", port)) == 0


@contextlib.contextmanager
def echo_server(home: Namespace) -> Iterator[None]:
    """Sends every datagram back."""
    program = (
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 7)); print(flush=True)\n"
        "while True: s.sendto(*s.recvfrom(9000))"
    )
    with home.process(sys.executable, "-c", program, stdout=PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield


def curl(client: Namespace, address: str, output: Path) -> bytes:
    limit = str(int(LIMIT_SECONDS))
    client.run("curl", "-sS", "-g", "--max-time", limit, "-o", output, f"http://{address}/file")
    return output.read_bytes()


def test_what_the_policy_passes_works(host: Host, mode: str, tmp_path: Path) -> None:
    host.firewall.apply(policy(*RULES, mode=mode, allow=BY_RULES))
    assert host.firewall.mode("fw0") == mode
    host.client.run(*PING, V4)
    host.client.run(*PING, "-6", V6)
    with web_server(host.host, tmp_path) as content:
        assert curl(host.client, V4, tmp_path / "v4") == content
        assert curl(host.client, f"[{V6}]", tmp_path / "v6") == content
    with echo_server(host.host):
        for family, address in ((socket.AF_INET, V4), (socket.AF_INET6, V6)):
            with host.client.socket(family, socket.SOCK_DGRAM) as made:
                made.sendto(b"hello", (address, 7))
                assert made.recv(100) == b"hello"
    stats = host.firewall.stats()
    packets = {rule["name"]: rule["packets"] for rule in stats["rules"]}
    assert packets["ping"] == packets["ping6"] == 3
    assert packets["echo"] == 2
    assert packets["web"] > 10
    assert stats["reasons"]["allow.arp"]["packets"] > 0
    assert stats["reasons"]["allow.ndp"]["packets"] > 0


def test_the_command_line_from_its_start(host: Host) -> None:
    """As the console script does it; other tests fork their commands from a process that has imported everything."""
    script = (sys.executable, "-c", "from xdpfw.cli import main; main()")
    instance = ("--instance", host.firewall.instance)
    path = host.firewall.write(policy(*RULES, allow=BY_RULES))
    run(*script, "apply", path, "--netns", host.host.name, *instance, cwd=ROOT)
    host.client.run(*PING, V4)
    stats = json.loads(run(*script, "stats", "--json", *instance, cwd=ROOT).stdout)
    assert stats["rules"][0] == {"name": "ping", "packets": 3, "bytes": 3 * 98, "action": "pass", "comment": None}
    run(*script, "detach", *instance, cwd=ROOT)
    assert not host.host.runs_xdp("fw0")


def test_netcat_over_tcp_and_udp(host: Host, mode: str) -> None:
    host.firewall.apply(policy("{name: nc, match: {proto: [tcp, udp], dport: 4000}, action: pass}", mode=mode))
    with host.host.process("nc", "-l", "-p", "4000", stdout=PIPE) as server:
        assert server.stdout
        wait_for(lambda: "4000" in host.host.run("ss", "-ltnH").stdout, "nc to listen")
        with host.client.process("nc", "-N", V4, "4000", stdin=PIPE) as client:
            client.communicate("by TCP\n", timeout=LIMIT_SECONDS)
        assert server.stdout.read() == "by TCP\n"
    with host.host.process("nc", "-u", "-l", "-p", "4000", stdout=PIPE) as server:
        assert server.stdout
        wait_for(lambda: "4000" in host.host.run("ss", "-lunH").stdout, "nc to listen")
        with host.client.process("nc", "-u", V4, "4000", stdin=PIPE) as client:
            assert client.stdin
            client.stdin.write("by UDP\n")
            client.stdin.flush()
            assert server.stdout.readline() == "by UDP\n"


def test_what_it_does_not_pass_gets_no_answer(host: Host, mode: str) -> None:
    host.firewall.apply(policy(*RULES, mode=mode))
    with echo_server(host.host), host.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as blocked:
        before = host.firewall.reason("default")
        for port in (8, 9, 10):
            blocked.sendto(b"hello", (V4, port))
        wait_for(lambda: host.firewall.reason("default") >= before + 3, "three drops")
        # Nothing is there to answer these ports: without the firewall, an ICMP error would have come.
        blocked.setblocking(False)
        with pytest.raises(BlockingIOError):
            blocked.recv(100)
    with host.client.socket(socket.AF_INET, socket.SOCK_STREAM) as refused:
        refused.setblocking(False)
        before = host.firewall.reason("default")
        refused.connect_ex((V4, 22))
        wait_for(lambda: host.firewall.reason("default") > before, "the SYN to be dropped")
        assert refused.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_neighbours_are_found_under_default_drop(host: Host) -> None:
    """ARP and neighbour discovery, from both sides; duplicate address detection ends well."""
    host.firewall.apply(policy(*RULES))
    host.client.ip("neighbour", "flush", "dev", "eth0")
    host.host.ip("neighbour", "flush", "dev", "fw0")
    host.host.ip("address", "add", "2001:db8::11/64", "dev", "fw0")
    wait_for(lambda: "tentative" not in addresses(host.host, "fw0"), "duplicate address detection")
    host.client.run(*PING, "-6", "2001:db8::11")
    host.client.run(*PING, V4)
    host.client.ip("address", "add", "2001:db8::11/64", "dev", "eth0")
    wait_for(lambda: "dadfailed" in addresses(host.client, "eth0"), "the duplicate to be found")


def addresses(home: Namespace, interface: str) -> set[str]:
    """States that addresses of an interface are in."""
    found = json.loads(home.run("ip", "-json", "address", "show", "dev", interface).stdout)
    return {state for address in found[0]["addr_info"] for state, holds in address.items() if holds is True}


def test_without_arp_nobody_is_found(host: Host) -> None:
    host.firewall.apply(policy(*RULES, allow="{arp: false, ndp: false}"))
    host.client.ip("neighbour", "flush", "dev", "eth0")
    assert host.client.run("ping", "-n", "-c", "1", "-W", "1", V4, status=None).returncode == 1
    assert host.client.run("ping", "-6", "-n", "-c", "1", "-W", "1", V6, status=None).returncode == 1
    stats = host.firewall.stats()
    assert stats["reasons"]["allow.arp"]["packets"] == stats["reasons"]["allow.ndp"]["packets"] == 0
    assert stats["reasons"]["default"]["packets"] > 0


def test_icmp_errors_reach_the_host(host: Host, mode: str) -> None:
    """A datagram to a closed port of the client comes back as an error, which the host's socket gets."""
    host.firewall.apply(policy(*RULES, mode=mode))
    for family, address in ((socket.AF_INET, "192.0.2.2"), (socket.AF_INET6, "2001:db8::2")):
        with host.host.socket(family, socket.SOCK_DGRAM) as made:
            made.connect((address, 9))
            made.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                made.recv(100)
    assert host.firewall.stats()["reasons"]["allow.icmp_errors"]["packets"] == 2
