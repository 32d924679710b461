# SPDX-License-Identifier: GPL-2.0-or-later
"""Bans on traffic: put in force at once, whatever is open; by rules; past an apply and the end of every command.

   visitor             home
┌───────────┐      ┌───────────┐
│   eth0 ───┼──────┼─── fw0    │  XDP
└───────────┘      └───────────┘
"""

from __future__ import annotations

import json
from typing import Any

from tests import frames
from tests.firewall import policy
from tests.wire import Wire

SCAN = (
    "{name: web, match: {proto: tcp, dport: 80}, action: pass}",
    "{name: scan, match: {proto: tcp}, action: drop, add_to: {set: bans, timeout: 1h}}",
)
FIRST, SECOND = 0xC6336405, 0xC6336406  # 198.51.100.5 and .6
V6 = 0x20010DB8 << 96 | 5


def tcp(source: int, port: int = 80) -> bytes:
    return frames.v4_frame(frames.tcp(dport=port), src=source)


def entries(wire: Wire, name: str = "bans") -> list[dict[str, Any]]:
    ran = wire.firewall.command("set", "list", name, "--json")
    found: list[dict[str, Any]] = json.loads(ran.stdout)["entries"]
    return found


def test_a_ban_is_in_force_at_once_and_so_is_its_end(wire: Wire) -> None:
    wire.firewall.apply(policy(default="pass"))
    sent = [
        tcp(FIRST),
        frames.v4_frame(bytes(40), frames.GRE, src=FIRST),
        frames.v4_frame(bytes(40), frames.ESP, src=FIRST),
        frames.v4_frame(bytes(40), frames.UDP, src=FIRST, fragment=185),
        frames.v6_frame(*frames.extended([frames.HOP_BY_HOP, frames.DESTINATION], bytes(40), frames.UDP), src=V6),
    ]
    assert [wire.decide(each) for each in sent] == ["default"] * len(sent)
    wire.firewall.command("ban", "198.51.100.5", "2001:db8::/64")
    assert [wire.decide(each) for each in sent] == ["ban"] * len(sent)
    assert wire.decide(tcp(SECOND)) == "default"
    wire.firewall.command("unban", "198.51.100.5")
    assert [wire.decide(each) for each in sent] == ["default"] * 4 + ["ban"]


def test_a_scan_bans_its_source_and_no_other(wire: Wire) -> None:
    wire.firewall.apply(policy(*SCAN))
    assert wire.decide(tcp(FIRST)) == "rule"
    assert [wire.decide(tcp(FIRST, port)) for port in (21, 22, 23, 80)] == ["rule", "ban", "ban", "ban"]
    assert wire.decide(tcp(SECOND)) == "rule"
    (entry,) = entries(wire)
    assert (entry["prefix"], entry["by"], entry["permanent"]) == ("198.51.100.5", "rule", False)
    assert 3500 < entry["remaining_s"] <= 3600


def test_bans_stay_when_policies_change(wire: Wire) -> None:
    wire.firewall.apply(policy(*SCAN))
    wire.send([tcp(FIRST, 23)])
    wire.firewall.command("ban", "198.51.100.6")
    wire.firewall.apply(policy(default="pass", extra="sets: {bans: {type: prefix, dynamic: true, size: 1000}}\n"))
    assert [wire.decide(tcp(source)) for source in (FIRST, SECOND, SECOND + 1)] == ["ban", "ban", "default"]
    wire.firewall.command("set", "flush", "bans")
    assert [wire.decide(tcp(source)) for source in (FIRST, SECOND)] == ["default"] * 2


def test_spoofed_sources_keep_no_operator_from_banning(wire: Wire) -> None:
    bans = "sets: {bans: {type: prefix, dynamic: true, size: 100}}\n"
    wire.firewall.apply(policy(*SCAN, extra=bans))
    wire.send([tcp(0x0A000000 + number, 23) for number in range(300)])
    assert len(entries(wire)) == 100
    ran = wire.firewall.command("ban", "198.51.100.5", "--json")
    assert json.loads(ran.stdout)["displaced"] == 1
    assert wire.decide(tcp(FIRST)) == "ban"
    wire.send([tcp(0x0B000000 + number, 23) for number in range(300)])
    assert wire.decide(tcp(FIRST)) == "ban"


def test_no_ban_is_for_never_ban(wire: Wire) -> None:
    wire.firewall.apply(policy(*SCAN, extra="never_ban: [198.51.100.5]\n"))
    assert [wire.decide(tcp(FIRST, port)) for port in (23, 24)] == ["rule", "rule"]
    wire.firewall.command("ban", "198.51.100.0/24")
    assert [wire.decide(tcp(source)) for source in (FIRST, SECOND)] == ["rule", "ban"]


def test_a_set_in_a_rule_is_asked_for_with_each_packet(wire: Wire) -> None:
    guests = "sets: {guests: {type: prefix, dynamic: true, size: 100}}\n"
    wire.firewall.apply(policy("{name: guests, match: {src: '@guests'}, action: pass}", extra=guests))
    assert wire.decide(tcp(FIRST)) == "default"
    wire.firewall.command("set", "add", "guests", "198.51.100.0/30", "198.51.100.5")
    assert [wire.decide(tcp(source)) for source in (FIRST, SECOND)] == ["rule", "default"]
