# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules that are never reached: found where they are, and never claimed where a packet gets there."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xdpfw.compiler import ir
from xdpfw.compiler.lint import never_reached
from xdpfw.compiler.lower import lower
from xdpfw.errors import PolicyError
from xdpfw.packet.notation import parse_packet
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources
from xdpfw.reference.interpreter import evaluate


def policy(*rules: str, default: str = "pass", head: str = "") -> ir.Policy:
    lines = [f"version: 1\ninterfaces: {{eth0: {{}}, eth1: {{}}}}\ndefault: {default}\n{head}rules:"]
    lines += [f"  - {{name: r{number}, {rule}}}" for number, rule in enumerate(rules)]
    return lower(load("p.yaml", Sources.from_bundle({"p.yaml": "\n".join(lines)})))


def unreached(*rules: str, default: str = "pass", head: str = "") -> dict[str, tuple[str, ...]]:
    return {found.rule.name: found.covered_by for found in never_reached(policy(*rules, default=default, head=head))}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("src: 192.0.2.0/24", "src: 192.0.2.7"),
        ("src: 192.0.2.0/24", "src: 192.0.2.7, proto: tcp, dport: 80"),
        ("src: [192.0.2.0/25, 192.0.2.128/25]", "src: 192.0.2.1-192.0.2.254"),
        ("src: 2001:db8::/32", "src: 2001:db8:1::/48"),
        ("src: '@nets'", "src: 10.1.0.0/16"),
        ("family: ipv4", "src: 192.0.2.7"),
        ("family: [ipv4, ipv6]", "proto: tcp, dport: 80"),
        ("ethertype: ipv6", "dst: 2001:db8::/32"),
        ("family: other", "ethertype: arp"),
        ("proto: [tcp, udp]", "proto: udp, dport: 53"),
        ("proto: tcp", "tcp_flags: syn"),
        ("tcp_flags: syn", "tcp_flags: 'syn,!ack'"),
        ("proto: icmp, icmp_type: 8", "proto: icmp, icmp_type: echo-request, icmp_code: 0"),
        ("family: ipv6", "proto: icmpv6, icmp_type: 128"),
        ("fragment: [none, first]", "proto: udp, dport: 53"),
        ("vlan: any", "inner_vlan: 7"),
        ("vlan: 100-199", "vlan: 150"),
        ("ttl: 0-255", "proto: gre"),
        ("src_mac: 02:00:00:00:00:00/ff:ff:ff:00:00:00", "src_mac: 02:00:00:12:34:56"),
        ("interface: [eth0, eth1]", "proto: tcp"),
        ("state: [new, established]", "proto: tcp, dport: 80"),
        ("state: new", "state: new, proto: tcp"),
        ("src: '@guests'", "src: '@guests', proto: tcp"),
        ("src: ['@guests', '@bans', 192.0.2.0/24]", "src: ['@bans', 192.0.2.7]"),
        ("src: [0.0.0.0/0, '::/0']", "src: '@guests'"),
        ("family: [ipv4, ipv6]", "dst: '@guests'"),
    ],
)
def test_one_rule_covers_another(first: str, second: str) -> None:
    head = "sets: {nets: {type: prefix, elements: [10.0.0.0/8]}, guests: {type: prefix, dynamic: true}}\n"
    drop, keep = f"match: {{{first}}}, action: drop", f"match: {{{second}}}, action: pass"
    assert unreached(drop, keep, head=head) == {"r1": ("r0",)}
    assert unreached(keep, drop, head=head) == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("src: 192.0.2.0/25", "src: 192.0.2.0/24"),
        ("family: ipv4", "dst: '@mixed'"),
        ("fragment: none", "proto: udp, dport: 53"),
        ("proto: tcp, dport: 0-65535", "proto: tcp"),  # later fragments have no ports
        ("ttl: 0-255", "vlan: 7"),  # ARP has no TTL
        ("vlan: 0-4095", "vlan: [none, 7]"),
        ("src_mac: 02:00:00:00:00:00/ff:ff:ff:00:00:00", "src_mac: 02:00:01:00:00:00"),
        ("state: [new, established]", "family: ipv4"),  # later fragments have no state
        ("state: [new, established]", "src: 192.0.2.1"),
        ("state: new", "proto: tcp"),
        ("src: '@guests'", "src: '@bans'"),
        ("src: '@guests'", "src: ['@guests', 192.0.2.1]"),
        ("src: '@guests'", "dst: '@guests'"),
        ("src: ['@guests', 0.0.0.0/0]", "src: '::/0'"),
        ("src: 0.0.0.0/0", "src: '@guests'"),  # its members of IPv6
        ("src: '@guests'", "src: 0.0.0.0/0"),
    ],
)
def test_what_is_not_covered_is_not_reported(first: str, second: str) -> None:
    mixed = "{type: prefix, elements: [10.0.0.0/8, '2001:db8::/32']}"
    head = f"sets: {{mixed: {mixed}, guests: {{type: prefix, dynamic: true}}}}\n"
    rules = f"match: {{{first}}}, action: drop", f"match: {{{second}}}, action: pass"
    assert unreached(*rules, head=head) == {}


def test_several_rules_cover_another_in_one_field() -> None:
    rules = [
        "match: {proto: tcp, dport: 0-1023}, action: drop",
        "match: {proto: tcp, dport: 80}, action: pass",
        "match: {proto: tcp, dport: 1024-65535}, action: drop",
        "match: {proto: tcp, dport: [22, 8080], src: 10.0.0.0/8}, action: pass",
    ]
    assert unreached(*rules) == {"r1": ("r0",), "r3": ("r0", "r2")}


def test_families_cover_everything_together() -> None:
    rules = [f"match: {{family: {family}}}, action: drop" for family in ("ipv4", "ipv6", "other")]
    assert unreached(*rules, "action: pass") == {"r3": ("r0", "r1", "r2")}


def test_halves_of_all_addresses_cover_everything_together() -> None:
    halves = [f"match: {{src: {half}, proto: tcp}}, action: drop" for half in ("0.0.0.0/1", "128.0.0.0/1")]
    later = ["match: {family: ipv4, proto: tcp, dport: 80}, action: pass", "match: {proto: tcp}, action: pass"]
    assert unreached(*halves, *later) == {"r2": ("r0", "r1")}
    v6 = "match: {src: '::/0', proto: tcp}, action: drop"
    assert unreached(*halves, v6, *later) == {"r3": ("r0", "r1"), "r4": ("r0", "r1", "r2")}


def test_rules_that_count_take_nothing_but_may_be_unreached() -> None:
    assert unreached("action: count", "action: drop", "action: count") == {"r2": ("r1",)}


@pytest.mark.parametrize(
    ("rule", "covered"),
    [
        ("match: {src: 192.0.2.7}, action: drop", True),
        ("match: {src: 192.0.2.1}, action: drop", False),
        ("match: {src: 192.0.2.0/25}, action: drop", False),
        ("match: {src: 192.0.2.0/25}, except: {src: 192.0.2.0/29}, action: drop", True),
        ("match: {src: 192.0.2.0/25}, except: {src: 192.0.2.7}, action: drop", False),
        ("match: {src: 192.0.2.0/24, proto: udp}, action: drop", False),
    ],
)
def test_an_exception_leaves_its_packets_to_later_rules(rule: str, covered: bool) -> None:
    first = "match: {src: 192.0.2.0/24}, except: {src: 192.0.2.1}, action: drop"
    assert unreached(first, rule) == ({"r1": ("r0",)} if covered else {})


def test_the_multicast_bit_is_no_prefix() -> None:
    """Whether such a mask overlaps other addresses is not known, so that nothing is said of what it leaves."""
    group = "{dst_mac: '01:00:00:00:00:00/01:00:00:00:00:00'}"
    assert unreached(f"except: {group}, action: pass", "action: drop") == {}
    assert unreached(f"except: {group}, action: pass", f"match: {group}, action: drop") == {}
    assert unreached(f"match: {group}, action: pass", f"match: {group}, action: drop") == {"r1": ("r0",)}


def test_empty_sets_are_no_trouble() -> None:
    head = "sets: {nobody: {type: prefix, elements: []}}\n"
    rules = ["match: {src: '@nobody'}, action: drop", "except: {src: '@nobody'}, action: drop", "action: pass"]
    assert unreached(*rules, head=head) == {"r2": ("r1",)}


@pytest.mark.parametrize(
    ("match", "allowance"),
    [
        ("ethertype: arp", "allow.arp"),
        ("proto: icmpv6, icmp_type: 135, ttl: 255, fragment: none", "allow.ndp"),
        ("family: ipv4, proto: udp, sport: 67, dport: 68", "allow.dhcp"),
        ("proto: icmp, icmp_type: 3", "allow.icmp_errors"),
        ("state: established", "allow.established"),
        ("state: established, proto: tcp, dport: 22", "allow.established"),
    ],
)
def test_allowances_come_first(match: str, allowance: str) -> None:
    rule = f"match: {{{match}}}, action: drop"
    assert unreached(rule, default="drop") == {"r0": (allowance,)}
    assert unreached(rule, default="pass") == {}
    assert unreached(f"match: {{{match}}}, action: pass", default="drop") == {}


@pytest.mark.parametrize("first", ["src: 192.0.2.0/24", "src: ['@guests', 192.0.2.0/24]"])
@pytest.mark.parametrize("second", ["src: 192.0.2.7", "src: '@guests'", "src: 198.51.100.1"])
def test_an_exception_for_a_dynamic_set_may_be_for_anybody(first: str, second: str) -> None:
    head = "sets: {guests: {type: prefix, dynamic: true}}\n"
    rules = f"match: {{{first}}}, except: {{src: '@guests'}}, action: drop", f"match: {{{second}}}, action: pass"
    assert unreached(*rules, head=head) == {}


def test_both_states_make_all_packets_that_have_one() -> None:
    states = [f"match: {{state: {state}}}, action: drop" for state in ("new", "established")]
    later = ["match: {proto: tcp, dport: 80}, action: pass", "match: {proto: tcp}, action: pass"]
    assert unreached(*states, *later) == {"r2": ("r0", "r1")}


def test_a_rule_with_a_limit_decides_on_all_of_its_packets() -> None:
    first = "match: {proto: tcp}, action: pass, limit: {rate: 1/s, exceed: pass}"
    assert unreached(first, "match: {proto: tcp, dport: 80}, action: drop") == {"r1": ("r0",)}


def test_messages_name_a_few_and_say_how_many_more() -> None:
    ports = [f"match: {{proto: tcp, dport: {port}}}, action: drop" for port in range(10, 16)]
    (found,) = never_reached(policy(*ports, "match: {proto: tcp, dport: 10-15}, action: pass"))
    assert str(found) == 'rule "r6" is never reached: "r0", "r1", "r2", "r3" and 2 more decide all of its packets'


CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "src": st.sampled_from(["192.0.2.0/30", "192.0.2.0/31", "192.0.2.2/31", "192.0.2.1", "192.0.2.0-192.0.2.2"]),
        "proto": st.sampled_from(["tcp", "udp", "[tcp, udp]"]),
        "family": st.sampled_from(["ipv4", "ipv6", "other", "[ipv4, other]"]),
        "vlan": st.sampled_from(["none", "any", "7", "[none, 7]"]),
        "interface": st.sampled_from(["eth0", "eth1"]),
        "fragment": st.sampled_from(["none", "later", "[none, first]"]),
    },
)
PACKETS = [
    (
        parse_packet(f"{proto} 192.0.2.{host}{'' if later else ':1'} > 192.0.2.9{'' if later else ':2'}{tag}{later}"),
        index,
    )
    for proto in ("tcp", "udp")
    for host in range(4)
    for tag in ("", " vlan=7", " vlan=8")
    for later in ("", " frag=later")
    for index in (0, 1)
] + [(parse_packet(text), 0) for text in ("arp 192.0.2.1 > 192.0.2.2", "udp [2001:db8::1]:1 > [2001:db8::2]:2")]


def written(conditions: dict[str, str]) -> str:
    return ", ".join(f"{field}: {value}" for field, value in conditions.items())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(CONDITIONS, CONDITIONS, st.sampled_from(["pass", "drop", "count"])), min_size=2, max_size=8))
def test_no_packet_gets_to_a_rule_that_is_reported(rules: list[tuple[dict[str, str], dict[str, str], str]]) -> None:
    texts = [
        f"match: {{{written(match)}}}, {f'except: {{{written(unless)}}}, ' if unless else ''}action: {action}"
        for match, unless, action in rules
    ]
    try:
        drawn = policy(*texts)
    except PolicyError:  # drawn conditions contradict each other
        assume(False)
    reported = {found.rule.name for found in never_reached(drawn)}
    for frame, interface in PACKETS:
        decision = evaluate(drawn, frame, interface)
        assert not reported & {decision.rule, *decision.counted}
