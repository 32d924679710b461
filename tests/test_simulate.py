# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy tests and replays, decided by the reference interpreter. What the kernel decides is in tests/kernel."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from xdpfw.compiler import ir
from xdpfw.compiler.lower import lower
from xdpfw.errors import PolicyError
from xdpfw.packet.notation import parse_packet
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources
from xdpfw.reference.memory import START
from xdpfw.simulate import policytest
from xdpfw.simulate.decider import ReferenceDecider
from xdpfw.simulate.replay import CaptureClock, Totals, replay

WEB = "tcp 198.51.100.7:40000 > 203.0.113.1:80"
SSH = "tcp 198.51.100.7:40000 > 203.0.113.1:22"
POLICY = """\
version: 1
interfaces: {eth0: {}, eth1: {}}
default: drop
rules:
  - {name: seen, action: count}
  - {name: web, match: {proto: tcp, dport: 80}, action: pass}
  - {name: out, match: {interface: eth1, proto: udp}, action: {redirect: eth0}}
tests:
"""

LINKTYPE_ETHERNET = 1
LINKTYPE_IEEE802_11 = 105


def read(text: str) -> tuple[ir.Policy, dict[str, str]]:
    sources = Sources.from_bundle({"dir/p.yaml": text})
    return lower(load("dir/p.yaml", sources)), dict(sources.files)


def results(*tests: str) -> list[policytest.CaseResult]:
    policy, files = read(POLICY + "".join(f"  - {test}\n" for test in tests))
    return list(policytest.run(policytest.prepare(policy, files), ReferenceDecider(policy)))


def capture(
    path: Path,
    *packets: bytes,
    link_type: int = LINKTYPE_ETHERNET,
    missing_bytes: int = 0,
    times: Sequence[tuple[int, int]] = (),
) -> Path:
    """``times``: seconds and microseconds of each packet."""
    records = (
        struct.pack("<IIII", *(times[at] if times else (0, 0)), len(data), len(data) + missing_bytes) + data
        for at, data in enumerate(packets)
    )
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link_type) + b"".join(records))
    return path


@pytest.mark.parametrize(
    ("test", "ok"),
    [
        (f'{{packet: "{WEB}", expect: pass}}', True),
        (f'{{packet: "{WEB}", expect: pass, rule: web}}', True),
        (f'{{packet: "{WEB}", rule: web}}', True),
        (f'{{packet: "{WEB}", expect: drop}}', False),
        (f'{{packet: "{WEB}", expect: pass, rule: out}}', False),
        (f'{{packet: "{SSH}", rule: web}}', False),
        ('{packet: "udp 192.0.2.1:1 > 192.0.2.2:2", expect: redirect, interface: eth1}', True),
        ('{packet: "udp 192.0.2.1:1 > 192.0.2.2:2", expect: redirect}', False),
    ],
)
def test_verdict_and_rule_are_compared_where_they_are_given(test: str, ok: bool) -> None:
    assert [result.ok for result in results(test)] == [ok]


def test_a_test_is_as_good_as_each_of_its_steps() -> None:
    steps = f'{{packet: "{WEB}", expect: pass}}, {{wait: 31s}}, {{packet: "{SSH}", expect: pass}}'
    (result,) = results(f"{{name: two, steps: [{steps}]}}")
    assert not result.ok
    assert [step.ok for step in result.steps] == [True, True, False]
    assert result.to_json() == {
        "name": "two",
        "ok": False,
        "steps": [
            {
                "ok": True,
                "packet": WEB,
                "interface": None,
                "expected": {"verdict": "pass", "rule": None},
                "found": {"verdict": "pass", "rule": "web", "reason": "rule", "detail": "rule"},
            },
            {"ok": True, "wait_s": 31.0},
            {
                "ok": False,
                "packet": SSH,
                "interface": None,
                "expected": {"verdict": "pass", "rule": None},
                "found": {"verdict": "drop", "rule": None, "reason": "default", "detail": "default"},
            },
        ],
    }


@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_wrong_packets_are_all_found_at_their_words(quote: str) -> None:
    policy, files = read(
        f"{POLICY}  - packet: {quote}tcq 1.2.3.4 > 1.2.3.5{quote}\n    expect: drop\n"
        f"  - packet: {quote}tcp 1.2.3.4:1 > 1.2.3.5:99999{quote}\n    expect: drop\n"
    )
    with pytest.raises(PolicyError) as caught:
        policytest.prepare(policy, files)
    places = [str(error.position) for error in (caught.value, *caught.value.others)]
    shift = len(quote)
    assert places == [f"dir/p.yaml:9:{13 + shift}", f"dir/p.yaml:11:{13 + shift + len('tcp 1.2.3.4:1 > 1.2.3.5:')}"]


@pytest.mark.parametrize("line_break", ["\r", "\r\n", "\x85"])
def test_lines_end_as_yaml_has_it(line_break: str) -> None:
    text = f'{POLICY}  - packet: "tcq 1.2.3.4 > 1.2.3.5"\n    expect: drop\n'
    with pytest.raises(PolicyError) as caught:
        policytest.prepare(*read(text.replace("\n", line_break)))
    assert str(caught.value.position) == "dir/p.yaml:9:14"


def test_captures_are_looked_for_beside_the_policy(tmp_path: Path) -> None:
    capture(tmp_path / "web.pcap", parse_packet(WEB))
    (tmp_path / "p.yaml").write_text(POLICY + '  - {packet: "pcap:web.pcap#1", expect: pass}\n')
    sources = Sources.from_disk()
    policy = lower(load(str(tmp_path / "p.yaml"), sources))
    (result,) = policytest.run(policytest.prepare(policy, sources.files), ReferenceDecider(policy))
    assert result.ok


def test_a_replay_counts_each_packet_once(tmp_path: Path) -> None:
    policy, _ = read(POLICY.replace("tests:\n", ""))
    decider = ReferenceDecider(policy)
    totals = Totals()
    frames = [
        parse_packet(WEB),
        parse_packet(WEB),
        parse_packet(SSH),
        b"\0" * 13,
        parse_packet("arp 1.2.3.4 > 1.2.3.5"),
    ]
    for replayed in replay(capture(tmp_path / "c.pcap", *frames), decider):
        totals.add(replayed)
    assert totals.to_json() == {
        "packets": 5,
        "verdicts": {"pass": 3, "drop": 2},
        "rules": {"web": 2},
        "reasons": {"rule": 2, "default": 1, "invalid": 1, "allow": 1},
        "details": {"rule": 2, "default": 1, "invalid.ethernet": 1, "allow.arp": 1},
        "skipped": 0,
        "cut": 0,
        "late": 0,
    }
    assert decider.counted() == {"seen": 3}


def test_the_interface_that_packets_arrive_on_is_the_callers_choice(tmp_path: Path) -> None:
    policy, _ = read(POLICY.replace("tests:\n", ""))
    file = capture(tmp_path / "c.pcap", parse_packet("udp 192.0.2.1:1 > 192.0.2.2:2"))
    lines = [next(replay(file, ReferenceDecider(policy), interface)).to_json() for interface in (0, 1)]
    assert lines == [
        {"n": 1, "verdict": "drop", "rule": None, "reason": "default", "detail": "default"},
        {"n": 1, "verdict": "redirect", "rule": "out", "reason": "rule", "detail": "rule"},
    ]


def test_packets_without_an_ethernet_equivalent_are_skipped_and_told(tmp_path: Path) -> None:
    policy, _ = read(POLICY.replace("tests:\n", ""))
    file = capture(tmp_path / "c.pcap", b"\0" * 40, link_type=LINKTYPE_IEEE802_11)
    totals = Totals()
    (replayed,) = replay(file, ReferenceDecider(policy))
    totals.add(replayed)
    assert replayed.to_json() == {"n": 1, "verdict": None, "rule": None, "reason": None, "detail": None}
    assert (totals.packets, dict(totals.skipped)) == (0, {LINKTYPE_IEEE802_11: 1})


def test_packets_that_the_capture_cut_are_told(tmp_path: Path) -> None:
    policy, _ = read(POLICY.replace("tests:\n", ""))
    totals = Totals()
    for replayed in replay(capture(tmp_path / "c.pcap", parse_packet(WEB), missing_bytes=9), ReferenceDecider(policy)):
        totals.add(replayed)
    assert (totals.packets, totals.cut) == (1, 1)


KNOCKS = """\
version: 1
interfaces: {eth0: {}}
default: drop
knocks:
  ssh: {sequence: [7000/tcp, 9000/udp], within: 5s, opens: [22/tcp], for: 30s}
rules:
  - {name: web, match: {proto: tcp, dport: 80}, action: pass}
tests:
"""
FIRST = f'{{packet: "{WEB.replace(":80", ":7000")}", expect: drop}}'
SECOND = '{packet: "udp 198.51.100.7:1 > 203.0.113.1:9000", expect: drop}'
OPEN, SHUT = (f'{{packet: "{SSH}", expect: {verdict}}}' for verdict in ("pass", "drop"))


def knock_results(*tests: str) -> list[bool]:
    policy, files = read(KNOCKS + "".join(f"  - {{name: t{n}, steps: [{test}]}}\n" for n, test in enumerate(tests)))
    return [result.ok for result in policytest.run(policytest.prepare(policy, files), ReferenceDecider(policy))]


def test_a_test_remembers_what_it_sent_and_nothing_before() -> None:
    opened = f"{FIRST}, {SECOND}, {OPEN}"
    assert knock_results(opened, SHUT, opened, OPEN) == [True, True, True, False]


@pytest.mark.parametrize(
    "test",
    [
        f"{FIRST}, {SECOND}, {{wait: 29999ms}}, {OPEN}",
        f"{FIRST}, {SECOND}, {{wait: 20s}}, {OPEN}, {{wait: 10s}}, {SHUT}",
        f"{FIRST}, {{wait: 5s}}, {SECOND}, {OPEN}",
        f"{FIRST}, {{wait: 5001ms}}, {SECOND}, {SHUT}",
    ],
)
def test_a_wait_moves_the_clock_and_nothing_else_does(test: str) -> None:
    assert knock_results(test) == [True]


@pytest.mark.parametrize(
    ("times", "reasons", "late"),
    [
        ([(100, 0), (105, 0), (134, 999_999)], ["knock.step", "knock.step", "knock.granted"], 0),
        ([(100, 0), (105, 0), (135, 0)], ["knock.step", "knock.step", "knock.closed"], 0),
        ([(100, 0), (105, 1000), (106, 0)], ["knock.step", "knock.step", "knock.closed"], 0),
        ([(105, 0), (100, 0), (134, 0)], ["knock.step", "knock.step", "knock.granted"], 1),
        ([(105, 0), (100, 0), (104, 0)], ["knock.step", "knock.step", "knock.granted"], 2),
    ],
)
def test_the_times_of_a_capture_drive_the_clock(
    tmp_path: Path, times: list[tuple[int, int]], reasons: list[str], late: int
) -> None:
    policy, _ = read(KNOCKS.replace("tests:\n", ""))
    packets = (WEB.replace(":80", ":7000"), "udp 198.51.100.7:1 > 203.0.113.1:9000", SSH)
    file = capture(tmp_path / "c.pcap", *map(parse_packet, packets), times=times)
    totals = Totals()
    found = list(replay(file, ReferenceDecider(policy)))
    for replayed in found:
        totals.add(replayed)
    assert [replayed.decision and replayed.decision.reason for replayed in found] == reasons
    assert (totals.late, totals.reasons) == (late, {"knock": 3})


def test_a_capture_clock_never_goes_back() -> None:
    clock = CaptureClock()
    went = [(clock.advance(time_ns), clock.now) for time_ns in (1000, 1500, 1200, 1500, 1700)]
    assert [on_time for on_time, _ in went] == [True, True, False, True, True]
    assert [now.wall_ns for _, now in went] == [1000, 1500, 1500, 1500, 1700]
    assert [now.boot_ns - START.boot_ns for _, now in went] == [0, 500, 500, 500, 700]
