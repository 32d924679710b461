# SPDX-License-Identifier: GPL-2.0-or-later
"""Single packet authorization, check by check, in virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from tests.knocking import (
    HOST,
    KNOCKER,
    KNOCKER6,
    SHUT,
    Firewall,
    S,
    knock,
    message,
    packet_of,
    prefixes,
    spa_packet,
    udp_packet,
)
from xdpfw.compiler import ir
from xdpfw.knock.spa import Message, source_bytes
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.memory import START, EventKind, Memory

KEY = bytes(range(32))
NAT_KEY = bytes(range(1, 33))
OTHER_KEY = bytes(range(2, 34))
WINDOW = 30 * S

LAPTOP = ir.SpaKey(1, "laptop", KEY)
PHONE = ir.SpaKey(2, "phone", NAT_KEY, nat=True)
ADMIN = knock("admin", ir.Spa(62201, (LAPTOP, PHONE), WINDOW), "22/tcp 53/udp 443/tcp", lasts=60 * S)

ACCEPTED = "knock.spa_accepted"


def firewall(*knocks: ir.Knock, memory: Memory | None = None) -> Firewall:
    return Firewall(knocks or (ADMIN,), memory=memory or Memory())


def genuine(key: bytes = KEY, src: str = KNOCKER, **more: int) -> str:
    return spa_packet(message(START, src, **more), key, src)


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6, "::ffff:198.51.100.7"])
def test_one_packet_opens_all_for_its_source(src: str) -> None:
    fw = firewall()
    assert fw.send(genuine(src=src)) == ACCEPTED
    assert [fw.opened(port, src) for port in ("22/tcp", "53/udp", "443/tcp")] == [True] * 3
    assert not fw.opened(src="198.51.100.8")
    assert [(event.kind, event.knock, event.key_number, event.service, event.duration_ns) for event in fw.events] == [
        (EventKind.GRANT, "admin", 1, 0, 60 * S)
    ]
    fw.wait(60 * S)
    assert not fw.opened(src=src)


@pytest.mark.parametrize("options", ["vlan=7", "options", "ttl=1"])
@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
def test_tags_and_options_do_not_matter(src: str, options: str) -> None:
    assert firewall().send(f"{genuine(src=src)} {options}") == ACCEPTED


def test_padding_does_not_either() -> None:
    assert firewall().send(parse_packet(genuine()) + bytes(9)) == ACCEPTED


# Each check, and their order


@dataclass
class Attempt:
    """A message before it is sent. Each fault changes one thing about it."""

    memory: Memory = field(default_factory=Memory)
    message: Message = field(default_factory=lambda: message(START))
    damage: list[int] = field(default_factory=list)  # bytes that are flipped behind the signature

    def send(self) -> str:
        payload = bytearray(self.message.signed(KEY))
        for at in self.damage:
            payload[at] ^= 0xFF
        return firewall(memory=self.memory).send(udp_packet(bytes(payload)))

    def change(self, **fields: int | bytes) -> None:
        self.message = replace(self.message, **fields)


def _replay(attempt: Attempt) -> None:
    attempt.memory.spa_last_wall_ns = dict.fromkeys((KEY, NAT_KEY), attempt.message.time_ns)


FAULTS: dict[str, Callable[[Attempt], None]] = {
    "malformed": lambda attempt: attempt.damage.append(0),
    "unknown_key": lambda attempt: attempt.change(key_number=3),
    "replayed": _replay,
    "stale": lambda attempt: attempt.change(time_ns=START.wall_ns - WINDOW - 1),
    "early": lambda attempt: attempt.change(time_ns=START.wall_ns + WINDOW + 1),
    "source": lambda attempt: attempt.change(source=source_bytes("198.51.100.8")),
    "forged": lambda attempt: attempt.damage.append(55),
    "service": lambda attempt: attempt.change(service=4),
    "refused": lambda attempt: setattr(attempt.memory, "grant_capacity", 3),
}
"""In the order of the checks."""


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    attempt = Attempt()
    assert attempt.send() == ACCEPTED
    attempt = Attempt()
    FAULTS[fault](attempt)
    assert attempt.send() == f"knock.spa_{fault}"


@pytest.mark.parametrize(
    ("first", "second"), [pair for pair in itertools.combinations(FAULTS, 2) if pair != ("stale", "early")]
)
def test_of_two_faults_the_first_is_told(first: str, second: str) -> None:
    attempt = Attempt()
    # What a replay is, the time decides, so that comes first.
    for fault in sorted((first, second), key=lambda name: name == "replayed"):
        FAULTS[fault](attempt)
    assert attempt.send() == f"knock.spa_{first}"


def test_each_byte_counts() -> None:
    for at in range(56):
        attempt = Attempt(damage=[at])
        assert attempt.send() != ACCEPTED, at


@pytest.mark.parametrize(
    "payload",
    [
        message(START).signed(KEY)[:-1],
        message(START).signed(KEY) + b"\0",
        b"",
        message(START).signed(KEY) * 2,
    ],
)
def test_another_length_is_malformed(payload: bytes) -> None:
    fw = firewall()
    assert fw.send(udp_packet(payload)) == "knock.spa_malformed"
    assert [(event.kind, event.knock, event.reason, event.key_number) for event in fw.events] == [
        (EventKind.SPA_FAILURE, None, "knock.spa_malformed", 0)
    ]


@pytest.mark.parametrize("length", [0, 8, 63, 65, 0xFFFF])
def test_so_is_what_udp_says_otherwise(length: int) -> None:
    frame = bytearray(parse_packet(genuine()))
    frame[14 + 20 + 4 : 14 + 20 + 6] = length.to_bytes(2)
    assert firewall().send(bytes(frame)) == "knock.spa_malformed"


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
def test_so_is_a_fragment(src: str) -> None:
    fw = firewall()
    assert fw.send(f"{genuine(src=src)} frag=first") == "knock.spa_malformed"
    assert fw.send(udp_packet(b"", src, options="frag=later")) == "default"


@pytest.mark.parametrize(("version", "flags"), [(0, 0), (2, 0), (255, 0), (1, 2), (1, 3), (1, 0x80)])
def test_versions_and_flags_that_are_not_known(version: int, flags: int) -> None:
    payload = message(START).signed(KEY)
    assert firewall().send(udp_packet(bytes((version, flags)) + payload[2:])) == "knock.spa_malformed"


@pytest.mark.parametrize("offset", [-WINDOW, 0, WINDOW])
def test_the_window_has_its_edges(offset: int) -> None:
    assert firewall().send(genuine(time_ns=START.wall_ns + offset)) == ACCEPTED


def test_a_message_is_good_once() -> None:
    fw = firewall()
    assert [fw.send(genuine()), fw.send(genuine())] == [ACCEPTED, "knock.spa_replayed"]
    assert fw.send(genuine(time_ns=START.wall_ns - 1)) == "knock.spa_replayed"
    assert fw.send(genuine(time_ns=START.wall_ns + 1)) == ACCEPTED


def test_nothing_but_the_right_tag_moves_a_key_on() -> None:
    fw = firewall()
    forged = genuine(OTHER_KEY, time_ns=START.wall_ns + 1)
    assert [fw.send(forged), fw.send(genuine())] == ["knock.spa_forged", ACCEPTED]


@pytest.mark.parametrize("fault", ["service", "refused"])
def test_what_is_refused_later_cannot_come_again(fault: str) -> None:
    attempt = Attempt()
    FAULTS[fault](attempt)
    assert [attempt.send(), attempt.send()] == [f"knock.spa_{fault}", "knock.spa_replayed"]


def test_keys_have_times_of_their_own() -> None:
    fw = firewall()
    assert fw.send(genuine(time_ns=START.wall_ns + S)) == ACCEPTED
    assert fw.send(genuine(NAT_KEY, number=2)) == ACCEPTED


def test_a_nat_key_is_good_from_any_source() -> None:
    fw = firewall()
    behind_nat = spa_packet(message(START, "10.0.0.7", number=2), NAT_KEY)
    assert fw.send(behind_nat) == ACCEPTED
    assert fw.opened()
    assert not fw.opened(src="10.0.0.7")


def test_another_servers_key_is_forged() -> None:
    assert firewall().send(genuine(OTHER_KEY)) == "knock.spa_forged"
    assert firewall().send(genuine(KEY, number=2)) == "knock.spa_forged"


# What is asked for


@pytest.mark.parametrize(("ttl_s", "lasts"), [(0, 60), (1, 1), (59, 59), (60, 60), (61, 60), (0xFFFF, 60)])
def test_a_grant_may_be_shorter_but_not_longer(ttl_s: int, lasts: int) -> None:
    fw = firewall()
    assert fw.send(genuine(ttl_s=ttl_s)) == ACCEPTED
    fw.wait(lasts * S - 1)
    assert fw.opened()
    fw.wait(1)
    assert not fw.opened()


def test_a_shorter_one_takes_nothing_away() -> None:
    fw = firewall()
    fw.send(genuine())
    fw.send(genuine(ttl_s=1, time_ns=START.wall_ns + 1))
    fw.wait(59 * S)
    assert fw.opened()


@pytest.mark.parametrize(("service", "port"), [(1, "22/tcp"), (2, "53/udp"), (3, "443/tcp")])
def test_one_port_may_be_asked_for(service: int, port: str) -> None:
    fw = firewall()
    assert fw.send(genuine(service=service)) == ACCEPTED
    assert [name for name in ("22/tcp", "53/udp", "443/tcp") if fw.opened(name)] == [port]


def test_closing() -> None:
    fw = firewall()
    fw.send(genuine())
    fw.send(genuine(src="198.51.100.8", time_ns=START.wall_ns + 1))
    assert fw.send(genuine(service=2, close=True, time_ns=START.wall_ns + 2)) == ACCEPTED
    assert [fw.opened(port) for port in ("22/tcp", "53/udp", "443/tcp")] == [True, False, True]
    assert fw.send(genuine(close=True, time_ns=START.wall_ns + 3)) == ACCEPTED
    assert not fw.opened()
    assert fw.opened(src="198.51.100.8")
    assert fw.kinds()[-2:] == [(EventKind.GRANT_END, "admin", 0)] * 2
    assert fw.send(genuine(close=True, time_ns=START.wall_ns + 4)) == ACCEPTED
    assert fw.kinds() == []


def test_a_key_belongs_to_the_knock_that_has_it() -> None:
    other = knock("other", ir.Spa(62201, (replace(LAPTOP, number=9, key=OTHER_KEY),), WINDOW), "80/tcp")
    fw = firewall(ADMIN, other)
    assert fw.send(genuine(OTHER_KEY, number=9)) == ACCEPTED
    assert (fw.opened("80/tcp"), fw.opened("22/tcp")) == (True, False)


def test_destinations() -> None:
    there = replace(ADMIN, to=prefixes(HOST))
    other = knock("other", ir.Spa(62201, (replace(LAPTOP, number=9, key=OTHER_KEY),), WINDOW), "80/tcp")
    elsewhere = spa_packet(message(START), KEY, dst="203.0.113.2")
    assert firewall(there).send(elsewhere) == "default"
    assert firewall(there, other).send(elsewhere) == "knock.spa_unknown_key"
    assert firewall(there, other).send(genuine()) == ACCEPTED


def test_other_ports_and_protocols_are_not_spa() -> None:
    fw = firewall()
    assert fw.send(spa_packet(message(START), KEY, port=62202)) == "default"
    assert fw.send("tcp 198.51.100.7:1 > 203.0.113.1:62201") == "default"
    assert fw.send("udplite 198.51.100.7:1 > 203.0.113.1:62201") == "default"


# Beside sequences


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_all_but_what_is_accepted_breaks_sequences(fault: str | None) -> None:
    ssh = knock("ssh", "7000/tcp 8000/tcp", "80/tcp")
    attempt = Attempt()
    if fault is not None:
        FAULTS[fault](attempt)
    payload = bytearray(attempt.message.signed(KEY))
    for at in attempt.damage:
        payload[at] ^= 0xFF
    fw = firewall(ADMIN, ssh, memory=attempt.memory)
    fw.knock("7000/tcp")
    reason = fw.send(udp_packet(bytes(payload)))
    assert reason == (ACCEPTED if fault is None else f"knock.spa_{fault}")
    assert ((EventKind.RESET, "ssh", 1) in fw.kinds()) == (fault is not None)


def test_a_failure_is_told_with_its_knock_and_key() -> None:
    fw = firewall()
    fw.send(genuine(OTHER_KEY, service=2))
    (event,) = fw.events
    assert (event.kind, event.knock, event.reason) == (EventKind.SPA_FAILURE, "admin", "knock.spa_forged")
    assert (event.key_number, event.service) == (1, 0), "nobody knows who asked"


def test_the_opened_port_is_shut_before() -> None:
    assert firewall().send(packet_of("22/tcp")) == SHUT
