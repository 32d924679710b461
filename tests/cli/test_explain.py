# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw explain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import POLICY, Run


def test_what_decides_comes_last(run: Run, policy: Path) -> None:
    ran = run("explain", policy, "udp 198.51.100.7:1 > 203.0.113.1:80")
    assert ran.status == 0
    assert "rule web: no match, proto is udp; wanted: tcp" in ran.lines
    assert ran.lines[-2:] == ["default: match", "drop by default"]


def test_json_of_a_rule(run: Run, policy: Path) -> None:
    answer = run("explain", policy, "tcp 198.51.100.7:40000 > 203.0.113.1:443 S", "--json").json
    trace = answer.pop("trace")
    assert answer == {"verdict": "pass", "rule": "web", "reason": "rule", "detail": "rule"}
    assert trace[-1] == {"step": "rule", "outcome": "matched", "name": "web"}


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        ("tcp 1.2.3.4:1 > 1.2.3.5:2", {"verdict": "drop", "rule": None, "reason": "default", "detail": "default"}),
        ("arp 1.2.3.4 > 1.2.3.5", {"verdict": "pass", "rule": None, "reason": "allow", "detail": "allow.arp"}),
        ("0011", {"verdict": "drop", "rule": None, "reason": "invalid", "detail": "invalid.ethernet"}),
    ],
)
def test_json_of_what_no_rule_decides(run: Run, policy: Path, packet: str, answer: dict[str, str]) -> None:
    found = run("explain", policy, packet, "--json").json
    assert {key: found[key] for key in answer} == answer
    assert "target" not in found


def test_redirects_have_a_target(run: Run, policy: Path) -> None:
    packet = "udp 198.51.100.7:1 > 203.0.113.1:80"
    answer = run("explain", policy, packet, "--interface", "eth1", "--json").json
    assert (answer["verdict"], answer["target"]) == ("redirect", "eth0")
    assert run("explain", policy, packet, "--interface", "eth1").lines[-1] == 'redirect to eth0 by rule "out"'


def test_an_interface_that_the_policy_does_not_have(run: Run, policy: Path) -> None:
    ran = run("explain", policy, "arp 1.2.3.4 > 1.2.3.5", "--interface", "eth9")
    assert ran.status == 2
    assert ran.err == f"xdpfw: --interface eth9: {policy} has no such interface (it has eth0, eth1)\n"


def test_a_wrong_packet_is_told_at_its_column(run: Run, policy: Path) -> None:
    ran = run("explain", policy, "tcp 1.2.3.4:1 > 1.2.3.5:99999")
    assert ran.status == 2
    assert ran.err.startswith("PACKET:1:25: port 99999 is above 65535")


def test_a_port_that_a_knock_opens(run: Run, write: Callable[[str], Path]) -> None:
    knocks = "knocks:\n  ssh: {sequence: [7000/tcp, 9000/udp, 8000/tcp], opens: [22/tcp]}\nrules:"
    path = write(POLICY.replace("rules:", knocks))
    packet = "tcp 198.51.100.7:1 > 203.0.113.1:22"
    assert run("explain", path, packet).lines[-2:] == [
        "knock ssh: opens 22/tcp, and the source holds no grant; with one it would pass",
        "drop by knock.closed",
    ]
    answer = run("explain", path, packet, "--json").json
    assert (answer["reason"], answer["detail"], answer["rule"]) == ("knock", "knock.closed", None)
    assert answer["trace"][-1] == {
        "step": "knock",
        "outcome": "closed",
        "name": "ssh",
        "found": "opens 22/tcp, and the source holds no grant; with one it would pass",
    }
