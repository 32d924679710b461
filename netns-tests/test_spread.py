# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets that XDP hands to other CPUs arrive like all others."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL

import pytest

from tests.firewall import Firewall, policy
from tests.topology import LIMIT_SECONDS, Namespace, Network, wait_for
from xdpfw.kernel.targets import online_cpus

VERDICT = {"native": "redirect", "generic": "pass"}

CLIENT, HOME = ("192.0.2.2", "2001:db8::2"), ("192.0.2.1", "2001:db8::1")


def spread_rule() -> str:
    cpus = ", ".join(map(str, sorted(online_cpus()[1])[:2]))
    return f"{{name: up, match: {{family: [ipv4, ipv6]}}, action: {{cpu: [{cpus}]}}}}"


@pytest.fixture
def host(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> tuple[Namespace, Firewall]:
    client, home = net.namespace("client"), net.namespace("host")
    net.pair(client, "eth0", home, "fw0")
    client.address("eth0", f"{CLIENT[0]}/24", f"{CLIENT[1]}/64")
    home.address("fw0", f"{HOME[0]}/24", f"{HOME[1]}/64")
    return client, make_firewall(home)


def test_transfers_are_whole(host: tuple[Namespace, Firewall], mode: str, tmp_path: Path) -> None:
    client, firewall = host
    said = firewall.apply(policy(spread_rule(), mode=mode, allow="{established: false}"))
    assert ("rules with cpu pass" in said.stdout + said.stderr) == (mode == "generic")
    content = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(content)
    command = (sys.executable, "-m", "http.server", "80", "--bind", "::", "--directory", tmp_path)
    with firewall.home.process(*command, stdout=DEVNULL, stderr=DEVNULL):
        wait_for(lambda: "*:80 " in firewall.home.run("ss", "-ltnH").stdout, "the web server")
        for number, url in enumerate((HOME[0], f"[{HOME[1]}]")):
            output = tmp_path / f"got{number}"
            limit = str(int(LIMIT_SECONDS))
            client.run("curl", "-sS", "-g", "--max-time", limit, "-o", output, f"http://{url}/file")
            assert output.read_bytes() == content
    stats = firewall.stats()
    assert stats["verdicts"][VERDICT[mode]]["packets"] >= firewall.rule("up") > 10
    assert stats["verdicts"]["redirect"]["packets"] == (firewall.rule("up") if mode == "native" else 0)


def test_each_datagram_arrives_once_and_those_of_a_flow_in_order(host: tuple[Namespace, Firewall], mode: str) -> None:
    client, firewall = host
    firewall.apply(policy(spread_rule(), mode=mode, allow="{established: false}"))
    with (
        firewall.home.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((HOME[0], 9999))
        for start in range(0, 1000, 50):
            for number in range(start, start + 50):
                sender.sendto(number.to_bytes(2), (HOME[0], 9999))
            assert [int.from_bytes(receiver.recv(10)) for _ in range(50)] == list(range(start, start + 50))
    assert firewall.rule("up") == 1000


def test_a_cpu_that_is_not_there_is_refused_where_it_is_written(host: tuple[Namespace, Firewall]) -> None:
    _, firewall = host
    text = policy("{name: up, action: {cpu: [0, 4095]}}")
    refused = firewall.apply(text, status=2)
    assert 'rule "up": CPU 4095 is not online' in refused.stderr
    assert "policy.yaml:" in refused.stderr
    assert not firewall.objects()
