# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits in front of servers that answer: of new flows, and of all packets.

   client              home
┌───────────┐      ┌───────────┐
│   eth0 ───┼──────┼─── fw0    │  XDP
│  .2       │      │  .1       │  192.0.2.0/24
└───────────┘      └───────────┘
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Final

import pytest

from tests.firewall import Firewall, policy
from tests.services import echo_datagrams
from tests.topology import Namespace, Network

HOME: Final = "192.0.2.1"
PORT: Final = 873
SECONDS: Final = 2
RATE: Final = 200_000  # bytes a second
BURST: Final = 200_000
BULK: Final = f"limit: {{rate: {RATE}/s, burst: {BURST}, bytes: true}}"
UNANSWERED_SECONDS: Final = 0.5


@pytest.fixture
def client(net: Network) -> Namespace:
    return net.namespace("client", ipv6=False)


@pytest.fixture
def guarded(net: Network, make_firewall: Callable[[Namespace], Firewall], client: Namespace) -> Firewall:
    home = net.namespace("home", ipv6=False)
    net.pair(client, "eth0", home, "fw0")
    client.address("eth0", "192.0.2.2/24")
    home.address("fw0", f"{HOME}/24")
    return make_firewall(home)


def transfer(client: Namespace, home: Namespace) -> tuple[int, float]:
    """Sends as much as goes. Returns the bytes that the server has received, and in how many seconds at most."""
    with (
        client.socket(socket.AF_INET, socket.SOCK_STREAM) as sending,
        home.socket(socket.AF_INET, socket.SOCK_STREAM) as serving,
    ):
        serving.bind((HOME, PORT))
        serving.listen()
        begun, received = time.monotonic(), 0
        sending.connect((HOME, PORT))
        taken, _ = serving.accept()
        with taken:
            sending.setblocking(False)
            while time.monotonic() < begun + SECONDS:
                readable, writable, _ = select.select([taken], [sending], [], SECONDS)
                if writable:
                    sending.send(bytes(1 << 16))
                if readable:
                    received += len(taken.recv(1 << 20))
        return received, time.monotonic() - begun


def test_a_limit_before_a_rule_for_what_is_established_holds_a_transfer(
    guarded: Firewall, client: Namespace, mode: str
) -> None:
    bulk = f"{{name: bulk, match: {{proto: tcp, dport: {PORT}}}, action: pass, {BULK}}}"
    established = "{name: established, match: {state: established}, action: pass}"
    done = guarded.apply(policy(bulk, established, mode=mode, allow="{established: false}"))
    assert "its limit" not in done.stdout
    received, seconds = transfer(client, guarded.home)
    assert 0 < received <= BURST + RATE * seconds
    (row,) = (row for row in guarded.stats()["rules"] if row["name"] == "bulk")
    assert row["exceeded"]["packets"] > 0


def test_a_limit_under_the_allowance_holds_no_transfer_and_apply_says_so(
    guarded: Firewall, client: Namespace, mode: str
) -> None:
    bulk = f"{{name: bulk, match: {{proto: tcp, dport: {PORT}}}, action: pass, {BULK}}}"
    done = guarded.apply(policy(bulk, mode=mode))
    assert 'rule "bulk": its limit holds until the first answer only' in done.stdout
    received, seconds = transfer(client, guarded.home)
    assert received > 2 * (BURST + RATE * seconds)
    assert guarded.reason("allow.established") > 0


def test_a_limit_of_new_flows_leaves_those_that_are_known_alone(
    guarded: Firewall, client: Namespace, mode: str
) -> None:
    match = "{proto: udp, dport: 53, state: new}"
    rule = f"{{name: dns, match: {match}, action: pass, limit: {{rate: 1/h, burst: 3}}}}"
    done = guarded.apply(policy(rule, mode=mode))
    assert "its limit" not in done.stdout
    with echo_datagrams(guarded.home, 53):
        asking = [client.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
        try:
            for each in asking[:3]:
                each.connect((HOME, 53))
                for number in range(20):
                    each.send(bytes([number]))
                    assert each.recv(9) == bytes([number])
            late = asking[3]
            late.settimeout(UNANSWERED_SECONDS)
            late.connect((HOME, 53))
            late.send(b"?")
            with pytest.raises(TimeoutError):
                late.recv(9)
        finally:
            for each in asking:
                each.close()
    assert guarded.rule("dns") == 4
