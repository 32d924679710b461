# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rule does with its packets: pass, drop, tx, redirect, count; and which rule it is."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.frames import ARP as ETHERTYPE_ARP
from tests.frames import IPV4, IPV6, QINQ, VLAN, ethernet, ipv4, ipv6, tcp
from tests.kernel.agreement import agreement
from tests.kernel.fields import ARP, ICMP4, LATER4, LLDP, TCP4, TCP6, UDP4
from tests.policies import written
from xdpfw.compiler import grouping
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel import abi
from xdpfw.kernel.maps import Counter
from xdpfw.kernel.program import Generation
from xdpfw.packet.notation import parse_packet

pytestmark = pytest.mark.needs("privileges", "data plane")

SRC, DST = 0x0A1B2C3D4E5F, 0x020406080A0C
FRAMES = [
    ethernet(IPV4, ipv4(tcp()), src_mac=SRC, dst_mac=DST),
    ethernet(IPV6, ipv6(tcp()), src_mac=SRC, dst_mac=DST),
    ethernet(IPV6, ipv6(tcp()), tags=[(QINQ, 5), (VLAN, 6)], src_mac=SRC, dst_mac=DST),
    ethernet(ETHERTYPE_ARP, bytes(46), src_mac=SRC, dst_mac=(1 << 48) - 1),
    ethernet(0x88CC, src_mac=SRC, dst_mac=DST),  # a header and nothing behind it
    ethernet(IPV4, ipv4(tcp() + bytes(8900)), src_mac=SRC, dst_mac=DST),
]
NEW_SRC, NEW_DST = "02:11:22:33:44:55", "02:66:77:88:99:aa"
REDIRECTS = [
    "{redirect: b}",
    f"{{redirect: {{interface: b, src_mac: '{NEW_SRC}'}}}}",
    f"{{redirect: {{interface: b, dst_mac: '{NEW_DST}'}}}}",
    f"{{redirect: {{interface: b, src_mac: '{NEW_SRC}', dst_mac: '{NEW_DST}'}}}}",
]


@pytest.mark.parametrize("action", ["pass", "drop"])
@pytest.mark.parametrize("default", ["pass", "drop"])
def test_pass_and_drop(action: str, default: str) -> None:
    with agreement(written(f"{{name: it, match: {{proto: tcp}}, action: {action}}}", default=default)) as both:
        assert both.run(TCP4).verdict == action
        assert both.run(UDP4).verdict == default
        assert both.run(TCP6).rule == "it"


@pytest.mark.parametrize("frame", FRAMES, ids=["v4", "v6", "tags", "arp", "bare", "jumbo"])
def test_tx_swaps_the_mac_addresses(frame: bytes) -> None:
    policy = written("{name: back, action: tx}")
    with agreement(policy) as both:
        assert both.run(frame).verdict == "tx"
        assert both.left == frame[6:12] + frame[:6] + frame[12:]


@pytest.mark.parametrize("frame", FRAMES, ids=["v4", "v6", "tags", "arp", "bare", "jumbo"])
@pytest.mark.parametrize("action", REDIRECTS)
def test_redirect_writes_the_mac_addresses(action: str, frame: bytes) -> None:
    with agreement(written(f"{{name: away, action: {action}}}")) as both:
        decision = both.run(frame)
        assert (decision.verdict, decision.target) == ("redirect", "b")
    dst = bytes.fromhex(NEW_DST.replace(":", "")) if NEW_DST in action else frame[:6]
    src = bytes.fromhex(NEW_SRC.replace(":", "")) if NEW_SRC in action else frame[6:12]
    assert both.left == dst + src + frame[12:]


@pytest.fixture
def target() -> Iterator[str]:
    """The name of an interface to redirect to."""
    name = f"xdpfw{os.getpid()}"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", f"{name}p"], check=True, timeout=30)
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True, timeout=30)


def test_redirect_to_an_interface_that_is_gone_drops(target: str) -> None:
    image = compile_policy(written("{name: away, action: {redirect: b}}"))
    frame = parse_packet(TCP4)
    ifindex = socket.if_nametoindex(target)
    with Generation.load(image, interfaces=[], targets=[ifindex], trace=True) as generation:
        assert generation.run(frame).verdict == "redirect"
        subprocess.run(["ip", "link", "delete", target], check=True, timeout=30)
        assert generation.run(frame)[:4] == ("drop", "rule", 0, frame)
        assert generation.counters()[1] == [Counter(2, 2 * len(frame))]
        row = generation.interface_verdicts()[0]
    assert (row[abi.Verdict.REDIRECT].packets, row[abi.Verdict.DROP].packets) == (1, 1)


def test_the_first_rule_that_matches_decides() -> None:
    rules = [
        "{name: host, match: {src: 198.51.100.7, proto: tcp, dport: 22}, action: pass}",
        "{name: net, match: {src: 198.51.100.0/24}, action: drop}",
        "{name: shadowed, match: {src: 198.51.100.7}, action: tx}",
        "{name: rest, action: {redirect: c}}",
    ]
    with agreement(written(*rules)) as both:
        assert [both.run(packet).rule for packet in (TCP4, UDP4, TCP6, ARP)] == ["host", "net", "rest", "rest"]
        assert [both.counted(name) for name in ("host", "net", "shadowed", "rest")] == [1, 1, 0, 2]


COUNTERS = [
    "{name: all, action: count}",
    "{name: tcp, match: {proto: tcp}, action: count}",
    "{name: ssh, match: {proto: tcp, dport: 22}, action: drop}",
    "{name: but, match: {family: [ipv4, ipv6]}, except: {proto: icmp}, action: count}",
    "{name: late, action: count}",
]


def test_count_counts_and_goes_on() -> None:
    with agreement(written(*COUNTERS)) as both:
        decisions = [both.run(packet) for packet in (TCP4, TCP6, UDP4, ICMP4, ARP)]
        assert [decision.rule for decision in decisions] == ["ssh", "ssh", None, None, None]
        assert [both.counted(name) for name in ("all", "tcp", "ssh", "but", "late")] == [5, 2, 2, 1, 3]


def test_a_count_rule_with_several_ways_to_match_counts_once() -> None:
    """An exception of several conditions becomes several entries of the tables; most packets meet all of them."""
    exception = "{proto: udp, ttl: 1, length: 9000-65575, dscp: ef, ip_options: true, src: 10.0.0.0/8, dst: 10.0.0.0/8}"
    with agreement(written(f"{{name: it, except: {exception}, action: count}}", "{name: x, action: count}")) as both:
        for packet in (TCP4, UDP4, ARP, LLDP, LATER4):
            both.run(packet)
        assert (both.counted("it"), both.counted("x")) == (5, 5)


@pytest.mark.parametrize("number", [64, 65, 512])
def test_many_count_rules(number: int) -> None:
    """More than a word of them, up to all that there may be, between rules that decide."""
    rules = [f"{{name: n{i}, match: {{proto: tcp, dport: {i}-600}}, action: count}}" for i in range(number)]
    rules.insert(number // 2, "{name: middle, match: {proto: tcp, dport: 100}, action: drop}")
    with agreement(written(*rules)) as both:
        for port in (0, 1, number - 1, 100, 600, 601):
            both.run(f"tcp 1.2.3.4:1 > 5.6.7.8:{port}")
        assert both.counted("n0") == 5
        assert both.counted("middle") == 1


def test_counting_rules_of_a_large_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "WIDE_ONLY", 0)
    rules = [
        "{name: before, match: {src: 198.51.100.7}, action: count}",
        "{name: pair, match: {src: 198.51.100.7, dst: 203.0.113.1, proto: tcp}, action: drop}",
        "{name: between, match: {dst: 203.0.113.1}, except: {proto: icmp}, action: count}",
        "{name: source, match: {src: 198.51.100.0/24}, action: drop}",
        "{name: behind, action: count}",
    ]
    with agreement(written(*rules)) as both:
        assert [both.run(packet).rule for packet in (TCP4, UDP4, ICMP4, ARP)] == ["pair", "source", "source", None]
        assert [both.counted(name) for name in ("before", "between", "behind")] == [3, 1, 1]
