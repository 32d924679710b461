# SPDX-License-Identifier: GPL-2.0-or-later
"""What a bouncer reads from a CrowdSec local API, and what it does not take for a decision."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.integrations.crowdsec import duration_ns, parse_changes, parse_network

S = 1_000_000_000

DECISION = {
    "duration": "3h59m58.41392616s",
    "id": 1,
    "origin": "cscli",
    "scenario": "test",
    "scope": "Ip",
    "type": "ban",
    "value": "198.51.100.7",
}


def new(**members: Any) -> dict[str, Any]:
    return {"new": [{**DECISION, **members}], "deleted": None}


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("3h59m58.41392616s", (4 * 3600 - 2) * S + 413926160),
        ("29.413933851s", 29 * S + 413933851),
        ("1h0m0s", 3600 * S),
        ("87600h0m0s", 87600 * 3600 * S),
        ("-11.055029ms", -11055029),
        ("-2h0m1s", -7201 * S),
        ("1.5\u00b5s", 1500),
        ("2us", 2000),
        ("7ns", 7),
        ("0s", 0),
        ("0", 0),
    ],
)
def test_durations_are_as_go_writes_them(text: str, ns: int) -> None:
    assert duration_ns(text) == ns


@pytest.mark.parametrize(
    "text", ["", "-", "4", "4 h", "4h ", "h", "1d", "4hours", "\u0664h", "1e3s", None, 14400, "9" * 80]
)
def test_what_is_no_duration(text: object) -> None:
    assert duration_ns(text) is None


@pytest.mark.parametrize("text", ["5124095h", "99999999999999999999h", f"{(1 << 62) + 1}ns", "-5124095h"])
def test_what_the_kernels_clock_would_not_reach_is_no_duration(text: str) -> None:
    """5124095h from now is in the past, if 64 bits of ns have it, and the other does not fit in at all."""
    changes = parse_changes(new(duration=text))
    assert not changes.new
    assert changes.left == {"duration not understood": 1}


def test_the_longest_duration() -> None:
    assert duration_ns(f"{1 << 62}ns") == 1 << 62


@pytest.mark.parametrize(
    ("scope", "value", "network"),
    [
        ("Ip", "198.51.100.7", "198.51.100.7/32"),
        ("ip", "2001:DB8:0::8", "2001:db8::8/128"),
        ("Range", "203.0.113.0/24", "203.0.113.0/24"),
        ("Range", "10.0.0.1/8", "10.0.0.0/8"),
        ("range", "2001:db8::1/32", "2001:db8::/32"),
        ("Ip", "::ffff:192.0.2.1", "::ffff:192.0.2.1/128"),
    ],
)
def test_addresses_and_ranges_are_banned(scope: str, value: str, network: str) -> None:
    changes = parse_changes(new(scope=scope, value=value))
    assert changes.new == {parse_network(network): duration_ns(DECISION["duration"])}
    assert not changes.left


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"type": "captcha"}, "type captcha"),
        ({"type": None}, "type unknown"),
        ({"type": "\x1b]0;owned\x07"}, "type unknown"),
        ({"scope": "x" * 1000}, "scope unknown"),
        ({"scope": ["Ip"]}, "scope unknown"),
        ({"scope": "Country", "value": "NL"}, "scope Country"),
        ({"scope": "AS", "value": "64496"}, "scope AS"),
        ({"simulated": True}, "simulated"),
        ({"value": "example.net"}, "no address"),
        ({"value": "fe80::1%eth0"}, "no address"),
        ({"value": "198.51.100.7/33"}, "no address"),
        ({"value": "2001:db8::/129"}, "no address"),
        ({"value": "198.51.100.7/"}, "no address"),
        ({"value": "198.51.100.7/-1"}, "no address"),
        ({"value": "198.51.100.7/24/24"}, "no address"),
        ({"value": "198.51.100.0/255.255.255.0"}, "no address"),
        ({"value": "198.51.100.07"}, "no address"),
        ({"value": "198.51.100"}, "no address"),
        ({"value": "\0"}, "no address"),
        ({"value": "\ud800"}, "no address"),
        ({"value": ""}, "no address"),
        ({"value": 3325256711}, "no address"),
        ({"scope": "Range", "value": "0.0.0.0/0"}, "every address"),
        ({"scope": "Range", "value": "::/0"}, "every address"),
        ({"duration": "soon"}, "duration not understood"),
        ({"duration": None}, "duration not understood"),
    ],
)
def test_others_are_counted_and_left(members: dict[str, Any], why: str) -> None:
    changes = parse_changes(new(**members))
    assert not changes.new
    assert changes.left == {why: 1}


@given(st.ip_addresses(), st.integers(0, 128))
def test_prefixes_are_what_the_standard_library_takes_them_for(address: IPv4Address | IPv6Address, bits: int) -> None:
    text = f"{address}/{bits}"
    if bits > address.max_prefixlen:
        assert parse_network(text) is None
    else:
        expected = ip_network(text, strict=False)
        assert parse_network(text) == (expected.version, int(expected.network_address), bits)
    assert parse_network(str(address)) == (address.version, int(address), address.max_prefixlen)


def test_a_decision_that_is_over_bans_nobody() -> None:
    changes = parse_changes(new(duration="-11.055029ms"))
    assert not changes.new
    assert not changes.left


def test_of_two_decisions_on_a_range_the_longer_counts() -> None:
    """An API does not know that they are the same."""
    answer = {
        "new": [
            {**DECISION, "scope": "Range", "value": value, "duration": duration}
            for value, duration in [("10.0.0.1/8", "1h0m0s"), ("10.0.0.0/8", "2h0m0s"), ("10.9.9.9/8", "30m0s")]
        ],
        "deleted": [],
    }
    assert parse_changes(answer).new == {parse_network("10.0.0.0/8"): 7200 * S}


def test_deleted_are_bans_only() -> None:
    """The captcha on an address ends, and its ban does not."""
    deleted = [{**DECISION, "duration": "-1s"}, {**DECISION, "type": "captcha", "value": "198.51.100.8"}]
    changes = parse_changes({"new": None, "deleted": deleted})
    assert changes.deleted == {parse_network("198.51.100.7")}
    assert not changes.left


@pytest.mark.parametrize(
    "answer",
    [None, [], {}, {"new": []}, {"new": {}, "deleted": None}, {"new": ["ban"], "deleted": None}, "new deleted"],
)
def test_what_is_no_answer_of_the_stream(answer: object) -> None:
    with pytest.raises(ValueError, match="decision"):
        parse_changes(answer)
