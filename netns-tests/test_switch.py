# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies change, come and go while traffic flows.

    client                            host
┌──────────────┐        ┌─────────────────────────┐
│     eth0 ────┼────────┼──── fw0 (XDP)           │
│  192.0.2.2   │        │  192.0.2.1              │
└──────────────┘        └─────────────────────────┘
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.firewall import Firewall, exists, policy
from tests.topology import Namespace, Network, wait_for

ADDRESS = "192.0.2.1"
PASSED, DROPPED = 1000, 1001
PACE_SECONDS = 0.0005
MOST_PACKETS = 200_000
KILLS = 20

PASS = "{name: passed, match: {proto: udp, dport: 1000}, action: pass}"
OLD = policy(PASS, "{name: old-dropped, match: {proto: udp, dport: 1001}, action: drop}", mode="native")
NEW = policy("{name: new-dropped, match: {proto: udp, dport: 1001}, action: drop}", PASS, mode="native")
"""The same verdicts by other rules: a mixture of both would swap them."""


END = b"end"


@dataclass
class Traffic:
    """Numbered datagrams to both ports in turn, at a pace that no queue on the way fills at.

    The port that is passed comes last, so that whatever it has received, the firewall has decided what was before.
    """

    sender: socket.socket
    receivers: dict[int, socket.socket]
    sent: int = 0
    received: dict[int, list[int]] = field(default_factory=lambda: {DROPPED: [], PASSED: []})
    stop: threading.Event = field(default_factory=threading.Event)

    def send(self) -> None:
        while not self.stop.is_set() and self.sent < MOST_PACKETS:
            for port in (DROPPED, PASSED):
                self.sender.sendto(self.sent.to_bytes(4, "big"), (ADDRESS, port))
            self.sent += 1
            time.sleep(PACE_SECONDS)

    def receive(self, port: int) -> None:
        while (data := self.receivers[port].recv(100)) != END:
            self.received[port].append(int.from_bytes(data, "big"))

    def wait_for_more(self, packets: int = 100) -> None:
        goal = self.sent + packets
        wait_for(lambda: self.sent >= goal, f"{packets} packets more")


@dataclass(frozen=True)
class Host:
    client: Namespace
    host: Namespace
    firewall: Firewall

    @contextlib.contextmanager
    def traffic(self) -> Iterator[Traffic]:
        """At the end, every packet to the port that is passed has come through."""
        with contextlib.ExitStack() as opened:
            receivers = {}
            for port in (DROPPED, PASSED):
                receivers[port] = opened.enter_context(self.host.socket(socket.AF_INET, socket.SOCK_DGRAM))
                receivers[port].settimeout(None)
                receivers[port].bind(("", port))
            sender = opened.enter_context(self.client.socket(socket.AF_INET, socket.SOCK_DGRAM))
            flow = Traffic(sender, receivers)
            sending = threading.Thread(target=flow.send)
            receiving = [threading.Thread(target=flow.receive, args=(port,)) for port in receivers]
            for thread in (sending, *receiving):
                thread.start()
            try:
                yield flow
                flow.stop.set()
                sending.join()
                wait_for(lambda: len(flow.received[PASSED]) == flow.sent, "all packets that are passed")
            finally:
                flow.stop.set()
                sending.join()
                with self.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as by_loopback:
                    for port in receivers:
                        by_loopback.sendto(END, (ADDRESS, port))
                for thread in receiving:
                    thread.join()


@pytest.fixture
def host(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Host:
    client, host = net.namespace("client", ipv6=False), net.namespace("host", ipv6=False)
    net.pair(client, "eth0", host, "fw0")
    client.address("eth0", "192.0.2.2/24")
    host.address("fw0", f"{ADDRESS}/24")
    return Host(client, host, make_firewall(host))


def test_a_switch_loses_nothing_and_lets_nothing_through(host: Host) -> None:
    host.firewall.apply(OLD)
    with host.traffic() as flow:
        for text in (NEW, OLD) * 4:
            flow.wait_for_more()
            before = host.firewall.program("fw0")
            host.firewall.apply(text)
            assert host.firewall.program("fw0") != before
        flow.wait_for_more()
    assert flow.received[PASSED] == list(range(flow.sent))
    assert flow.received[DROPPED] == []
    stats = host.firewall.stats()
    rules = {rule["name"]: rule["packets"] for rule in stats["rules"]}
    assert rules["passed"] == flow.sent
    assert rules["old-dropped"] + stats["removed_rules"]["packets"] == flow.sent


def test_detach_while_traffic_flows(host: Host) -> None:
    host.firewall.apply(OLD)
    objects = host.firewall.objects()
    with host.traffic() as flow:
        flow.wait_for_more()
        assert flow.received[DROPPED] == []
        host.firewall.detach()
        assert not host.host.runs_xdp("fw0")
        assert not host.firewall.pins.root.exists()
        wait_for(lambda: flow.received[DROPPED], "what was dropped to come through")
        flow.wait_for_more()
    assert flow.received[PASSED] == list(range(flow.sent))
    first = flow.received[DROPPED][0]
    assert flow.received[DROPPED] == list(range(first, flow.sent))
    wait_for(lambda: not any(exists(*each) for each in objects), "all objects to be gone")


def test_a_policy_that_fails_leaves_the_old_one(host: Host) -> None:
    """Wrong, too large, its own tests failing, an interface or a target missing: none is put in force."""
    host.firewall.apply(OLD)
    before = host.firewall.objects()
    failing = 'tests: [{packet: "udp 198.51.100.1:1 > 192.0.2.1:1000", expect: drop}]\n'
    refused = {
        policy("{name: wrong, match: {dport: 70000}, action: drop}"): 2,
        policy("{name: wrong, match: {src: 10.0.0.1/8}, action: drop}"): 2,
        policy(PASS, extra=failing): 1,
        policy(PASS, interfaces=("fw0", "none")): 3,
        policy("{name: away, action: {redirect: none}}"): 3,
    }
    with host.traffic() as flow:
        for text, status in refused.items():
            host.firewall.apply(text, status=status)
            assert host.firewall.objects() == before
        flow.wait_for_more()
    assert flow.received[DROPPED] == []
    assert flow.received[PASSED] == list(range(flow.sent))


def test_two_controllers_at_once(host: Host) -> None:
    host.firewall.apply(OLD)
    with host.firewall.pins.lock():
        refused = host.firewall.apply(NEW, status=3)
        assert "is changing it" in refused.stderr
    applying = [host.firewall.start_apply(text, f"{number}.yaml") for number, text in enumerate((OLD, NEW, OLD, NEW))]
    done = [command.answer() for command in applying]
    answers = [(each.stderr, each.returncode) for each in done]
    assert {status for _, status in answers} <= {0, 3}
    assert all("is changing it" in message for message, status in answers if status == 3)
    assert 0 in {status for _, status in answers}
    (interface,) = host.firewall.status()["interfaces"]
    assert [interface["generation"]] == host.firewall.pins.generations()


def test_apply_works_after_apply_was_killed(host: Host) -> None:
    """At random moments, from the command's start to behind its end; traffic meets one policy or the other."""
    host.firewall.apply(OLD)
    started = time.monotonic()
    host.firewall.apply(NEW)
    duration = time.monotonic() - started
    draw = random.Random(9)
    with host.traffic() as flow:
        for number in range(KILLS):
            command = host.firewall.start_apply(OLD if number % 2 else NEW)
            command.wait(draw.uniform(0.2, 1.0) * duration)
            command.kill()
            host.firewall.apply(NEW if number % 2 else OLD)
            (generation,) = host.firewall.pins.generations()
            (interface,) = host.firewall.status()["interfaces"]
            assert interface["generation"] == generation
    assert flow.received[DROPPED] == []
    assert flow.received[PASSED] == list(range(flow.sent))
    stats = host.firewall.stats()
    dropped = sum(rule["packets"] for rule in stats["rules"] if rule["action"] == "drop")
    assert dropped + stats["removed_rules"]["packets"] == flow.sent
