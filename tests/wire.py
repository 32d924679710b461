# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames on a wire where nobody else speaks, into a firewall, beside what the reference makes of them."""

from __future__ import annotations

import socket
from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.firewall import Firewall
from tests.topology import Namespace, Network
from xdpfw.compiler import ir
from xdpfw.compiler.lower import lower
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources
from xdpfw.reference.interpreter import evaluate

BATCH: Final = 64
"""Frames that are under way at once. A veth holds 256 and drops what is more."""


@dataclass(frozen=True)
class Wire:
    """
        sender              home
    ┌────────────┐      ┌───────────┐
    │    eth0 ───┼──────┼─── fw0    │
    │    eth1 ───┼──────┼─── fw1    │  as many pairs as are asked for
    └────────────┘      └───────────┘

    No interface has an address, so that none sends anything by itself.
    """

    sender: Namespace
    home: Namespace
    firewall: Firewall
    sockets: tuple[socket.socket, ...]

    def send(self, frames: Iterable[bytes], interface: int = 0) -> None:
        """Sends frames in their order; returns when the firewall has counted them all."""
        pending = list(frames)
        before = self.firewall.seen()
        for start in range(0, len(pending), BATCH):
            batch = pending[start : start + BATCH]
            for frame in batch:
                assert self.sockets[interface].send(frame) == len(frame)
            self.firewall.wait_for_packets(before + start + len(batch))

    def decide(self, frame: bytes, interface: int = 0) -> str:
        """Sends a frame, and tells the reason that it was decided for: ``rule``, ``default``, ``knock.step``..."""
        before = self.firewall.reasons()
        self.send([frame], interface)
        (reason,) = [name for name, packets in self.firewall.reasons().items() if packets > before[name]]
        return reason


def quiet(net: Network, *names: str, mtu: int = 1500) -> tuple[Namespace, Namespace, tuple[socket.socket, ...]]:
    """Sender, home, and the sender's sockets: a pair for each of home's interfaces."""
    sender, home = net.namespace("sender", ipv6=False), net.namespace("home", ipv6=False)
    for number, name in enumerate(names):
        net.pair(sender, f"eth{number}", home, name, mtu=mtu)
    return sender, home, tuple(sender.raw(f"eth{number}") for number in range(len(names)))


def parsed(text: str) -> ir.Policy:
    return lower(load("policy.yaml", Sources.from_bundle({"policy.yaml": text})))


@dataclass(frozen=True)
class Expected:
    """Packets and bytes by what the reference says they meet, as ``stats --json`` has them."""

    rules: Tally[tuple[str, str]]
    reasons: Tally[tuple[str, str]]
    interfaces: Tally[tuple[str, str, str]]

    @classmethod
    def of(cls, text: str, arrivals: Sequence[tuple[bytes, int]]) -> Expected:
        """``arrivals``: frames, and the number of the policy's interface that each comes in on."""
        policy = parsed(text)
        expected = cls(Tally(), Tally(), Tally())
        for frame, number in arrivals:
            decision = evaluate(policy, frame, number)
            for unit, amount in (("packets", 1), ("bytes", len(frame))):
                expected.reasons[decision.reason, unit] += amount
                expected.interfaces[policy.interfaces[number].name, str(decision.verdict), unit] += amount
                for rule in (decision.rule, *decision.counted):
                    if rule is not None:
                        expected.rules[rule, unit] += amount
        return expected

    def check(self, stats: dict[str, Any]) -> None:
        units = ("packets", "bytes")
        assert Tally({(rule["name"], unit): rule[unit] for rule in stats["rules"] for unit in units}) == self.rules
        assert Tally({(name, unit): row[unit] for name, row in stats["reasons"].items() for unit in units}) == (
            self.reasons
        )
        found = {
            (name, verdict, unit): row[unit]
            for name, interface in stats["interfaces"].items()
            for verdict, row in interface["verdicts"].items()
            for unit in units
        }
        assert Tally(found) == self.interfaces
