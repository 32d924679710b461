# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw test and xdpfw replay."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.cli.conftest import POLICY, Run
from xdpfw.packet.notation import parse_packet

BY_KERNEL = pytest.param([], marks=pytest.mark.needs("privileges", "data plane"), id="kernel")
BY_REFERENCE = pytest.param(["--reference"], id="reference")
LINKTYPE_ETHERNET = 1
LINKTYPE_IEEE802_11 = 105


@pytest.fixture
def capture(tmp_path: Path) -> Callable[..., Path]:
    def write_capture(
        *packets: str, link_type: int = LINKTYPE_ETHERNET, tail: bytes = b"", times: Sequence[int] = ()
    ) -> Path:
        path = tmp_path / "c.pcap"
        frames = map(parse_packet, packets)
        stamps = times or [0] * len(packets)
        records = (
            struct.pack("<IIII", s, 0, len(data), len(data)) + data for s, data in zip(stamps, frames, strict=True)
        )
        head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link_type)
        path.write_bytes(head + b"".join(records) + tail)
        return path

    return write_capture


PACKETS = (
    "tcp 1.2.3.4:1 > 1.2.3.5:80",
    "tcp 1.2.3.4:1 > 1.2.3.5:443",
    "tcp 1.2.3.4:1 > 1.2.3.5:22",
    "arp 1.2.3.4 > 1.2.3.5",
)


@pytest.mark.parametrize("how", [BY_KERNEL, BY_REFERENCE])
def test_a_test_that_passes(run: Run, policy: Path, how: list[str]) -> None:
    ran = run("test", policy, *how)
    assert (ran.status, ran.lines) == (0, ["ok      test-1", "1 passed, 0 failed"])
    answer = run("test", policy, "--json", *how).json
    assert (answer["passed"], answer["failed"]) == (1, 0)
    (test,) = answer["tests"]
    assert (test["name"], test["ok"], test["why"]) == ("test-1", True, [])


@pytest.mark.parametrize("how", [BY_KERNEL, BY_REFERENCE])
def test_a_test_that_fails_says_why(run: Run, write: Callable[[str], Path], how: list[str]) -> None:
    path = write(POLICY.replace("203.0.113.1:80 S", "203.0.113.1:81 S"))
    ran = run("test", path, *how)
    assert ran.status == 1
    assert ran.lines == [
        "FAILED  test-1",
        f'  {path}:9:14: tcp 198.51.100.7:40000 > 203.0.113.1:81 S: expected pass by rule "web", found drop by default',
        "    rule web: no match, dport is 81; wanted: 80, 443",
        "    default: match",
        "0 passed, 1 failed",
    ]
    answer = run("test", path, "--json", *how)
    assert answer.status == 1
    (test,) = answer.json["tests"]
    assert test["steps"][0]["found"] == {"verdict": "drop", "rule": None, "reason": "default", "detail": "default"}
    assert len(test["why"]) == 3


@pytest.mark.parametrize("how", [BY_KERNEL, BY_REFERENCE])
def test_why_a_step_failed_takes_in_those_before(run: Run, write: Callable[[str], Path], how: list[str]) -> None:
    knocks = "knocks:\n  ssh: {sequence: [7000/tcp, 9000/udp], opens: [22/tcp], for: 30s}\nrules:"
    tests = """tests:
  - name: knock
    steps:
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:7000", expect: drop}
      - {packet: "udp 198.51.100.7:1 > 203.0.113.1:9000", expect: drop}
      - {wait: 29s}
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:22", expect: drop}
      - {wait: 1s}
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:22", expect: pass}
"""
    path = write(POLICY.replace("rules:", knocks).partition("tests:")[0] + tests)
    ran = run("test", path, *how)
    assert [line.partition(": ")[2] for line in ran.lines if line.startswith("    ")] == [
        "opens 22/tcp, and the source holds a grant",
        "opens 22/tcp, and the source holds no grant; with one it would pass",
    ]
    assert "found pass by knock.granted" in ran.out
    assert "found drop by knock.closed" in ran.out


def test_a_policy_without_tests_says_so(run: Run, write: Callable[[str], Path]) -> None:
    ran = run("test", write(POLICY.partition("tests:")[0]), "--reference")
    assert (ran.status, ran.lines) == (0, ["the policy has no tests"])


@pytest.mark.needs("privileges")
def test_without_privileges_the_reference_is_proposed(run: Run, unprivileged: None) -> None:
    with tempfile.TemporaryDirectory() as directory:  # that of pytest is root's alone
        path = Path(directory) / "p.yaml"
        path.write_text(POLICY)
        ran = run("test", path)
    assert ran.status == 3
    assert ran.err.endswith("--reference decides without the kernel)\n")


@pytest.mark.parametrize("how", [BY_KERNEL, BY_REFERENCE])
def test_totals_of_a_replay(run: Run, policy: Path, capture: Callable[..., Path], how: list[str]) -> None:
    assert run("replay", policy, capture(*PACKETS), "--json", *how).json == {
        "packets": 4,
        "verdicts": {"pass": 3, "drop": 1},
        "rules": {"web": 2},
        "reasons": {"rule": 2, "default": 1, "allow": 1},
        "details": {"rule": 2, "default": 1, "allow.arp": 1},
        "skipped": 0,
        "cut": 0,
        "late": 0,
        "counted": {"seen": 3},
    }
    lines = run("replay", policy, capture(*PACKETS), *how).lines
    assert lines[:4] == ["4 packets", "", "verdict  packets", "pass           3"]


def test_one_packet_is_one_packet(run: Run, policy: Path, capture: Callable[..., Path]) -> None:
    assert run("replay", policy, capture(*PACKETS[:1]), "--reference").lines[0] == "1 packet"


@pytest.mark.parametrize("how", [BY_KERNEL, BY_REFERENCE])
def test_a_line_a_packet(run: Run, policy: Path, capture: Callable[..., Path], how: list[str]) -> None:
    ran = run("replay", policy, capture(*PACKETS), "--per-packet", "--json", *how)
    assert [json.loads(line) for line in ran.lines] == [
        {"n": 1, "verdict": "pass", "rule": "web", "reason": "rule", "detail": "rule"},
        {"n": 2, "verdict": "pass", "rule": "web", "reason": "rule", "detail": "rule"},
        {"n": 3, "verdict": "drop", "rule": None, "reason": "default", "detail": "default"},
        {"n": 4, "verdict": "pass", "rule": None, "reason": "allow", "detail": "allow.arp"},
    ]
    text = run("replay", policy, capture(*PACKETS[:1]), "--per-packet", *how)
    assert text.lines == ['1: pass by rule "web": tcp 1.2.3.4:1 > 1.2.3.5:80 S ttl=64 length=40']


def test_packets_that_cannot_be_decided_are_told(run: Run, policy: Path, capture: Callable[..., Path]) -> None:
    path = capture(PACKETS[0], link_type=LINKTYPE_IEEE802_11)
    ran = run("replay", policy, path, "--reference", "--json")
    assert (ran.json["packets"], ran.json["skipped"]) == (0, 1)
    assert ran.err == "skipped, as they have no Ethernet equivalent: 1 of link type 105\n"
    ran = run("replay", policy, path, "--reference", "--json", "--per-packet")
    assert ran.json == {"n": 1, "verdict": None, "rule": None, "reason": None, "detail": None}


def test_packets_out_of_their_order_are_told(run: Run, policy: Path, capture: Callable[..., Path]) -> None:
    ran = run("replay", policy, capture(*PACKETS, times=[7, 5, 8, 8]), "--reference", "--json")
    assert (ran.json["packets"], ran.json["late"]) == (4, 1)
    assert ran.err == "decided at the time of an earlier one, as theirs is before it: 1 packet\n"


def test_what_comes_before_a_broken_end_is_told(run: Run, policy: Path, capture: Callable[..., Path]) -> None:
    ran = run("replay", policy, capture(*PACKETS, tail=b"\0\0"), "--reference", "--json")
    assert ran.status == 2
    assert ran.json["packets"] == 4
    assert "the header of packet 5 is cut short" in ran.err


def test_no_capture_at_all(run: Run, policy: Path) -> None:
    ran = run("replay", policy, policy, "--reference")
    assert (ran.status, ran.out) == (2, "")
    assert "is no capture" in ran.err
