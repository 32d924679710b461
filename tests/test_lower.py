# SPDX-License-Identifier: GPL-2.0-or-later
"""What golden files cannot say of lowering: identities, and equality whatever the spelling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from xdpfw.compiler import ir
from xdpfw.compiler.cutsets import with_sets_cut_up
from xdpfw.compiler.lower import lower, rules_digest
from xdpfw.kernel import abi
from xdpfw.policy import names, rulefaults
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

SETS = """\
sets:
  lan: {type: prefix, elements: [192.0.2.0/24, 2001:db8::/32]}
  web: {type: port, elements: [80, 443]}
"""


LISTS = """\
  good: {type: prefix, file: good.txt}
  bad: {type: prefix, file: bad.txt}
  none: {type: prefix, file: none.txt}
"""
FILES = {
    "good.txt": "10.0.0.0/8\n2001:db8:1::/48\n",
    "bad.txt": "0.0.0.0/7\n2.0.0.0\n10.1.0.0/16\n10.1.0.0/16\n::/1",
    "none.txt": "",
}


def lowered(text: str, default: str = "drop", sets_stay_whole: bool = False) -> ir.Policy:
    head = f"version: 1\ninterfaces: {{eth0: {{}}}}\ndefault: {default}\n"
    loaded = load("policy.yaml", Sources.from_bundle({"policy.yaml": head + text, **FILES}))
    return lower(loaded, sets_stay_whole=sets_stay_whole)


def test_a_condition_that_is_one_set_is_the_set_itself() -> None:
    policy = lowered(
        SETS
        + """\
rules:
  - {match: {src: "@lan", proto: tcp, dport: "@web"}, except: {dst: ["@lan"]}, action: pass}
  - {match: {src: ["@lan", 10.0.0.1]}, action: pass}
  - {match: {src: ["@lan", 10.0.0.1]}, action: pass}
"""
    )
    first, second, third = policy.rules
    assert first.unless is not None
    assert first.match.src is first.unless.dst
    assert first.match.dport is policy.port_sets[0].ranges
    assert second.match.src is third.match.src is not first.match.src


def test_sets_with_a_file_can_stay_whole() -> None:
    text = f"""\
{SETS}{LISTS}\
rules:
  - {{match: {{src: "@bad"}}, except: {{dst: ["@bad"]}}, action: drop}}
  - {{match: {{src: ["@good", 192.0.2.7, "@bad", "@lan", "@good"]}}, action: drop}}
  - {{match: {{src: "@lan", dst: "@none"}}, action: drop}}
"""
    policy = lowered(text, sets_stay_whole=True)
    lan, good, bad, none = policy.address_sets
    assert (bad.name, bad.entries, len(bad.table), bad.file) == ("bad", 5, 3, "bad.txt")
    first, second, third = (rule.match for rule in policy.rules)
    assert first.src == ir.AddressRanges(sets=(bad,))
    assert policy.rules[0].unless == ir.Match(dst=ir.AddressRanges(sets=(bad,)))
    v4, v6 = ((ir.Range(*span) for span in lan.table.spans(bits)) for bits in (32, 128))
    assert second.src == ir.AddressRanges(tuple(v4), tuple(v6), (bad, good))
    assert (third.src, third.dst) == (second.src._replace(sets=()), ir.AddressRanges(sets=(none,)))
    assert policy == lowered(text, sets_stay_whole=True)
    assert hash(policy) == hash(lowered(text, sets_stay_whole=True))
    assert policy != lowered(text)


def test_sets_of_knocks_never_stay_whole() -> None:
    knock = "knocks: {k: {sequence: [1/tcp], opens: [22/tcp], to: '@good', except: {src: ['@bad', '@lan']}}}\n"
    (one,), (other,) = (lowered(SETS + LISTS + knock, sets_stay_whole=whole).knocks for whole in (True, False))
    assert one == other
    assert one.to == ir.AddressRanges((ir.Range(10 << 24, (11 << 24) - 1),), one.to.v6 if one.to else ())


def test_a_set_means_the_same_whole_or_not() -> None:
    rules = [
        f"  - {{match: {{src: {names}, proto: tcp}}, except: {{dst: {names}}}, action: drop}}"
        for names in ("'@good'", "['@bad', '@good']", "['@bad', 192.0.2.7, '@lan']", "['@none', '::1']", "'@none'")
    ]
    text = "\n".join([f"{SETS}{LISTS}rules:", *rules])
    pairs = zip(lowered(text, sets_stay_whole=True).rules, lowered(text).rules, strict=True)
    ends = {1 << 127, 1, 0xC0000207, *(end for text in FILES.values() for end in ends_in(text))}
    near = sorted({max(end + step, 0) for end in ends for step in (-1, 0, 1)})
    held = 0
    for whole, expanded in pairs:
        one, other = whole.match.src, expanded.match.src
        assert one is not None
        assert other is not None
        for family, bits in ((ir.Family.IPV4, 32), (ir.Family.IPV6, 128), (ir.Family.OTHER, 32)):
            for address in near:
                if address < 1 << bits:
                    assert one.contains(family, address) == other.contains(family, address)
                    held += one.contains(family, address)
    assert held > 20


def ends_in(text: str) -> Iterator[int]:
    for line in text.split():
        network = ip_network(line)
        yield from (int(network[0]), int(network[-1]))


def test_where_a_set_is_written_and_how_often_makes_no_other_policy() -> None:
    (one,) = lowered("sets: {bad: {type: prefix, file: bad.txt}}").address_sets
    (other,) = lowered(
        "sets: {bad: {type: prefix, elements: ['::/1', 10.1.0.0/16, 0.0.0.0-2.0.0.0, 1.0.0.0/8]}}"
    ).address_sets
    assert one == other
    assert hash(one) == hash(other)
    assert (one.entries, other.entries) == (5, 4)
    assert one != replace(one, name="worse")
    assert one != replace(one, table=lowered("sets: {bad: {type: prefix, file: good.txt}}").address_sets[0].table)


RULES_OF_LISTS = """\
knocks: {k: {sequence: [1/tcp], opens: [22/tcp], to: '@good', except: {src: ['@none', '@lan']}}}
rules: [{match: {src: '@bad', dst: '@good'}, action: pass}]
"""


@pytest.mark.parametrize(
    ("more", "file", "is_compiled"),
    [
        ("", "bad.txt", False),
        ("", "good.txt", True),  # a knock listens on it
        ("", "none.txt", True),  # and excepts this
        ("  again: {type: prefix, file: ./none.txt}\n", "none.txt", True),
        ("  again: {type: prefix, file: ./bad.txt}\n", "bad.txt", False),
    ],
)
def test_rules_do_not_depend_on_the_files_of_sets_that_stay_whole(more: str, file: str, is_compiled: bool) -> None:
    head = "version: 1\ninterfaces: {eth0: {}}\ndefault: drop\n"
    policy = head + SETS + LISTS + more + RULES_OF_LISTS
    texts = {"p.yaml": policy, **FILES}
    first, second, third = (
        load("p.yaml", Sources.from_bundle(files))
        for files in (texts, {**texts, file: "198.51.100.55"}, {**texts, "p.yaml": policy.replace("pass", "drop")})
    )
    changed = rules_digest(first, sets_stay_whole=True) != rules_digest(second, sets_stay_whole=True)
    assert changed == is_compiled
    assert rules_digest(first, sets_stay_whole=True) != rules_digest(third, sets_stay_whole=True)
    assert rules_digest(first, sets_stay_whole=False) != rules_digest(second, sets_stay_whole=False)
    one, other = (lower(loaded, sets_stay_whole=True) for loaded in (first, second))
    assert (one.knocks != other.knocks) == is_compiled


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("proto: tcp, dport: [80, 443]", "dport: [443-443, http], proto: [6]"),
        ("src: 192.0.2.0/24", "src: [192.0.2.128/25, 192.0.2.0-192.0.2.127]"),
        ("src: 2001:DB8::1", "src: 2001:db8:0:0::1/128"),
        ("vlan: any", "vlan: [0-100, 101-4095]"),
        ("tcp_flags: syn", "tcp_flags: syn, proto: tcp"),
        ("fragment: any", "fragment: [later, first]"),
        ("ethertype: arp", "ethertype: 0x806"),
        ("proto: icmp, icmp_code: port-unreachable", "proto: icmp, icmp_type: 3, icmp_code: 3"),
        ("src_mac: aa:bb:cc:dd:ee:ff/ff:ff:ff:00:00:00", "src_mac: AA:BB:CC:00:00:00/FF:FF:FF:00:00:00"),
    ],
)
def test_equal_meaning_is_equal_ir(one: str, other: str) -> None:
    policy = lowered(f"rules: [{{match: {{{one}}}, action: drop}}, {{match: {{{other}}}, action: drop}}]")
    assert policy.rules[0].match == policy.rules[1].match


@pytest.mark.parametrize(("default", "allowed"), [("drop", True), ("pass", False)])
def test_allowances_follow_the_default(default: str, allowed: bool) -> None:
    assert lowered("", default).allow == ir.Allow(*[allowed] * 6)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("rate: 1000/s", "rate: 1k/s, burst: 1000, per: rule, bytes: false, exceed: drop"),
        ("rate: 5/m, per: src", "rate: 5/m, burst: 5, per: {v4: 32, v6: 128}"),
        ("rate: 5/m, per: src/24", "rate: 5/m, per: {v4: 24}"),
        ("rate: 5/m, per: src/48", "rate: 5/m, per: {v6: 48}"),
        ("rate: 10M/s, bytes: true", "rate: 10000k/s, bytes: true, burst: 10M"),
        ("rate: 1k/s, bytes: true", "rate: 1k/s, bytes: true, burst: 65536"),
    ],
)
def test_a_limit_means_the_same_whatever_its_spelling(one: str, other: str) -> None:
    policy = lowered(f"rules: [{{action: pass, limit: {{{one}}}}}, {{action: pass, limit: {{{other}}}}}]")
    assert policy.rules[0].limit == policy.rules[1].limit


def test_the_bans_have_the_size_of_the_program_and_a_name_of_their_own() -> None:
    (bans,) = lowered("sets: {bans: {type: prefix, dynamic: true}}").dynamic_sets
    assert (bans.name, bans.size) == (ir.BANS, abi.SetLimit.BANS_SIZE)
    assert names.BANS == ir.BANS


def test_limits_of_the_language_are_those_of_the_program() -> None:
    assert rulefaults.MAX_DYNAMIC_SETS == abi.Limit.MAX_DYNAMIC_SETS
    assert rulefaults.MAX_ASKED_SETS == abi.Limit.MAX_ASKED_SETS


def test_sets_that_no_ban_hits_are_merged_and_dynamic_ones_named() -> None:
    policy = lowered(
        "sets:\n  guests: {type: prefix, dynamic: true}\n"
        + LISTS
        + """\
never_ban: ["@guests", "@good", 10.0.0.1, 11.0.0.0/8]
""",
        sets_stay_whole=True,
    )
    assert policy.never_ban is not None
    assert policy.never_ban.sets == ()
    assert policy.never_ban.dynamic == ("guests",)
    assert policy.never_ban.v4 == (ir.Range(10 << 24, (12 << 24) - 1),)
    assert len(policy.never_ban.v6) == 1


def test_a_dynamic_set_stays_beside_sets_that_are_cut_up() -> None:
    policy = lowered(
        "sets:\n  guests: {type: prefix, dynamic: true}\n" + LISTS + 'rules: [{match: {src: ["@guests", "@good"]}, '
        "action: drop}]\n",
        sets_stay_whole=True,
    )
    cut = with_sets_cut_up(policy)
    assert cut is not None
    assert cut.rules[0].match.src is not None
    assert cut.rules[0].match.src.dynamic == ("guests",)
    assert not cut.rules[0].match.src.sets


def test_a_knock_means_the_same_whatever_its_spelling() -> None:
    one, other = (
        lowered(f"{SETS}knocks: {{k: {{{text}}}}}\n").knocks[0]
        for text in (
            "sequence: [7000/tcp], opens: ssh/tcp, to: '@lan', except: {src: 10.0.0.0/8, sport: 1024-65535}",
            "sequence: 7000/tcp, opens: [22/tcp], to: [192.0.2.0/25, '@lan'], scope: {v4: 32, v6: 128}, within: 10s, "
            "step: 10000ms, for: 30s, except: {src: [10.0.0.0/9, 10.128.0.0/9], sport: 1024-65535}",
        )
    )
    assert replace(one, text="") == replace(other, text="")


def test_ports_in_an_except_need_no_proto_of_their_own() -> None:
    (knock,) = lowered("knocks: {k: {sequence: [1/tcp], opens: [22/tcp], except: {dport: 22, dst: 10.0.0.1}}}\n").knocks
    assert knock.unless is not None
    assert (knock.unless.proto, knock.unless.dport) == (None, (ir.Range(22, 22),))


def test_disabled_rules_count_in_default_names() -> None:
    policy = lowered("rules: [{action: count}, {action: count, enabled: false}, {action: drop}]")
    assert [rule.name for rule in policy.rules] == ["rule-1", "rule-3"]


def test_positions_do_not_make_policies_differ() -> None:
    assert lowered("rules: [{action: drop}]") == lowered("\n\nrules:\n - action: drop")
