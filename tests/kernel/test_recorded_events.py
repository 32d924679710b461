# SPDX-License-Identifier: GPL-2.0-or-later
"""What the program records, as the event stream tells it; and what it counts of knocks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.knocking import KNOCKER6, S, knock, message, packet_of, spa_packet, udp_packet
from tests.policies import INTERFACES, written
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.knocks import identity
from xdpfw.kernel import abi
from xdpfw.kernel.maps import KnockCounter
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import NS_PER_S, boot_ns
from xdpfw.knock.keys import fingerprint
from xdpfw.observe import metadata
from xdpfw.observe.events import EventStream
from xdpfw.observe.grants import live_grants
from xdpfw.observe.metadata import InterfaceMeta, KnockMeta, Metadata, RuleMeta
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.memory import Instant

pytestmark = pytest.mark.needs("privileges", "data plane", "bpffs")

KEY: Final = bytes(range(32))
SSH: Final = knock("ssh", "7000/tcp 9000/udp 8000/tcp", "22/tcp 443/tcp", lasts=S // 2, close="9001/udp 7001/tcp")
ADMIN: Final = knock(
    "admin", ir.Spa(62201, (ir.SpaKey(1, "laptop", KEY),), 30 * S), "8443/tcp 8444/tcp", scope_v6=64, lasts=100 * S
)
RULES: Final = (
    "{name: web, match: {proto: tcp, dport: 80}, action: pass}",
    "{name: ping, match: {proto: icmp}, action: pass, log: true}",
)


@dataclass
class Host:
    """A firewall in test runs, whose clock begins a second ago."""

    generation: Generation
    pins: Pins
    meta: Metadata
    now: Instant = field(default_factory=lambda: Instant(boot_ns() - NS_PER_S, 1_767_225_600 * NS_PER_S))

    def send(self, packet: str) -> None:
        self.generation.run(parse_packet(packet), 1, boot_ns=self.now.boot_ns, wall_ns=self.now.wall_ns)
        self.now = self.now.after(1)

    def knock(self, steps: str, **ends: str) -> None:
        for step in steps.split():
            self.send(packet_of(step, **ends))

    def events(self) -> list[dict[str, Any]]:
        """From the oldest on."""
        with EventStream(self.pins) as stream:
            return [event.to_json() for event in stream.take()]


@pytest.fixture
def host(bpffs: Path) -> Iterator[Host]:
    policy = replace(written(*RULES, default="drop"), knocks=(SSH, ADMIN))
    meta = Metadata(
        "p.yaml",
        "",
        "",
        "",
        0.0,
        None,
        tuple(InterfaceMeta(name, 0, "auto") for name in INTERFACES),
        (),
        tuple(RuleMeta(rule.name, str(rule.action.kind), "", None, ()) for rule in policy.rules),
        (),
        tuple(KnockMeta.of(each, identity(each.name), lambda key: fingerprint(key.key)) for each in policy.knocks),
    )
    pins = Pins("test", bpffs)
    pins.state.mkdir(0o700, parents=True)
    pins.generation(5).mkdir(0o700, parents=True)
    metadata.pin(pins.generation(5), meta, {}, b"")
    with contextlib.ExitStack() as opened:
        generation = Generation.load(
            compile_policy(policy), interfaces=[1000, 1001, 1002], targets=[], number=5, trace=True
        )
        opened.enter_context(generation)
        assert generation.state
        generation.state.pin(pins.state)
        yield Host(generation, pins, meta)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event.get("cause") or event["event"] for event in events]


def test_a_sequence_is_told_from_its_first_step_to_the_end_of_its_grant(host: Host) -> None:
    host.knock("7000/tcp 9000/udp 8000/tcp")
    first, *_, granted, end = events = host.events()
    assert kinds(events) == ["knock-step", "knock-step", "knock-step", "grant", "expired"]
    assert [event.get("step") for event in events[:3]] == [1, 2, 3]
    del first["time"]
    frame = parse_packet(packet_of("7000/tcp"))
    assert first == {
        "event": "knock-step",
        "knock": "ssh",
        "source": "198.51.100.7",
        "step": 1,
        "steps": 3,
        "interface": "b",
        "destination": "203.0.113.1",
        "proto": "tcp",
        "sport": 40000,
        "dport": 7000,
        "bytes": len(frame),
    }
    assert (granted["services"], granted["dport"], end["services"]) == (
        ("22/tcp", "443/tcp"),
        8000,
        ("22/tcp", "443/tcp"),
    )
    assert granted["until"] == end["time"]


def test_a_wrong_packet_is_told_as_a_reset(host: Host) -> None:
    host.knock("7000/tcp 9000/udp")
    host.send("tcp 198.51.100.7:40000 > 203.0.113.1:23 S")
    *_, reset = events = host.events()
    assert kinds(events) == ["knock-step", "knock-step", "knock-reset"]
    assert (reset["knock"], reset["step"], reset["steps"], reset["dport"]) == ("ssh", 2, 3, 23)


def test_a_grant_that_its_holder_closes_is_told_to_have_been(host: Host) -> None:
    host.knock("7000/tcp 9000/udp 8000/tcp")
    host.knock("9001/udp 7001/tcp")
    events = host.events()
    assert kinds(events).count("closed") == 1
    assert "expired" not in kinds(events)
    assert [event.get("closes") for event in events if event["event"] == "knock-step"] == [None] * 3 + [True] * 2
    (closed,) = (event for event in events if event["event"] == "grant-end")
    assert (closed["knock"], closed["source"], closed["services"]) == ("ssh", "198.51.100.7", ("22/tcp", "443/tcp"))


def test_spa_is_told_with_key_service_and_prefix(host: Host) -> None:
    host.send(spa_packet(message(host.now, KNOCKER6, service=2, ttl_s=50), KEY, KNOCKER6))
    (granted,) = host.events()
    assert (granted["event"], granted["knock"], granted["source"]) == ("grant", "admin", "2001:db8::/64")
    assert (granted["key"], granted["key_id"], granted["service"], granted["services"]) == (
        "laptop",
        1,
        2,
        ("8444/tcp",),
    )
    assert host.generation.state
    held = live_grants(host.generation.state.list_grants(), host.meta, boot_ns(), 0)
    assert [(grant.source, grant.knock, grant.services, grant.key) for grant in held] == [
        ("2001:db8::/64", "admin", ("8444/tcp",), "laptop")
    ]
    host.send(spa_packet(message(host.now, KNOCKER6, service=2, close=True), KEY, KNOCKER6))
    _, closed = host.events()
    assert (closed["cause"], closed["services"], closed["key"]) == ("closed", ("8444/tcp",), "laptop")


def test_failures_of_spa_are_told_by_kind(host: Host) -> None:
    right = message(host.now)
    host.send(udp_packet(bytes(55)))
    host.send(spa_packet(message(host.now, number=9), KEY))
    host.send(spa_packet(message(host.now, time_ns=host.now.wall_ns - 31 * S), KEY))
    host.send(spa_packet(message(host.now, time_ns=host.now.wall_ns + 31 * S), KEY))
    host.send(spa_packet(message(host.now, "192.0.2.1"), KEY))
    host.send(spa_packet(right, bytes(32)))
    host.send(spa_packet(right, KEY))
    host.send(spa_packet(right, KEY))
    host.send(spa_packet(message(host.now, service=3), KEY))
    events = host.events()
    failures = [(event["failure"], event.get("key")) for event in events if event["event"] == "spa-failure"]
    assert failures == [
        ("malformed", None),
        ("unknown_key", None),
        ("stale", "laptop"),
        ("early", "laptop"),
        ("source", "laptop"),
        ("forged", "laptop"),
        ("replayed", "laptop"),
        ("service", "laptop"),
    ]
    assert host.generation.state
    (found,) = host.generation.state.list_spa_failures()
    assert (found.prefix, found.packets) == (0xC6336400, len(failures))


def test_a_rule_that_logs_is_told_by_its_name(host: Host) -> None:
    host.send("tcp 198.51.100.7:40000 > 203.0.113.1:80 S")
    host.send("icmp 198.51.100.7 > 203.0.113.1 echo-request")
    (event,) = host.events()
    assert (event["rule"], event["verdict"], event["proto"], "sport" in event) == ("ping", "pass", "icmp", False)


def test_what_is_above_the_limit_is_counted_and_told(host: Host) -> None:
    more = 7
    limit = int(abi.Limit.EVENTS_PER_SECOND)
    window_ns = 1 << abi.EventWindow.SHIFT
    host.now = Instant(host.now.boot_ns // window_ns * window_ns, host.now.wall_ns)
    for _ in range(limit + more):
        host.send("icmp 198.51.100.7 > 203.0.113.1 echo-request")
    host.knock("7000/tcp")  # of another kind, and so recorded
    with EventStream(host.pins) as stream:
        assert [str(event.event) for event in stream.take()] == ["rule"] * limit + ["knock-step"]
        assert stream.not_told() == {"rule": more}
        host.now = host.now.after(window_ns)
        host.send("icmp 198.51.100.7 > 203.0.113.1 echo-request")
        assert [event.suppressed for event in stream.take()] == [more]
        assert (stream.suppressed, stream.not_told()) == ({"rule": more}, {})


def test_no_source_is_half_done_but_those_who_are(host: Host) -> None:
    assert host.generation.state
    assert host.generation.state.half_done(boot_ns()) == 0
    host.knock("7000/tcp")
    host.knock("7000/tcp", src=KNOCKER6)
    assert host.generation.state.half_done(host.now.boot_ns) == 2
    assert host.generation.state.half_done(host.now.boot_ns + 60 * S) == 0


def test_what_knocks_met_is_counted(host: Host) -> None:
    host.knock("7000/tcp 9000/udp 8000/tcp")
    for _ in range(2):
        host.send("tcp 198.51.100.7:40000 > 203.0.113.1:22 S")
    host.send("tcp 198.51.100.8:40000 > 203.0.113.1:443 S")
    host.knock("9001/udp 7001/tcp")
    host.knock("7000/tcp")
    host.send("tcp 198.51.100.7:40000 > 203.0.113.1:23 S")
    ssh, admin = host.generation.knock_counters()
    assert ssh == KnockCounter(steps=6, resets=1, grants=1, refused=0, closes=1, passed=2, dropped=1)
    assert admin == KnockCounter()
