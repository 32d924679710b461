# SPDX-License-Identifier: GPL-2.0-or-later
"""What a plan tells between two policies."""

from __future__ import annotations

import random

import pytest

from xdpfw.compiler.lower import lower
from xdpfw.knock.keys import ServerHalf, ServerKey
from xdpfw.plan import Change, Kind, Plan, SetChange, Snapshot, compare
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

A, B, C = (f"{{name: {name}, match: {{proto: tcp, dport: {ord(name) - 96}}}, action: pass}}" for name in "abc")


def snapshot(*rules: str, interfaces: str = "{eth0: {}}", head: str = "default: drop\n") -> Snapshot:
    text = f"version: 1\ninterfaces: {interfaces}\n{head}rules: [{', '.join(rules)}]\n"
    loaded = load("p.yaml", Sources.from_bundle({"p.yaml": text}))
    return Snapshot(lower(loaded), loaded.sets)


def kinds(plan: Plan) -> list[tuple[str, str]]:
    return [(change.kind, change.name) for change in plan.rules]


def test_nothing() -> None:
    plan = compare(snapshot(A, B), snapshot(A, B))
    assert not plan.changes
    assert plan.to_json() == {
        "changes": False,
        "first": False,
        "interfaces": (),
        "settings": (),
        "knocks": (),
        "rules": (),
        "sets": (),
    }


def test_the_first_policy_is_all_added() -> None:
    plan = compare(None, snapshot(A))
    assert plan.first
    assert plan.changes
    assert plan.interfaces == (Change(Kind.ADDED, "eth0", None, "mode auto"),)
    assert plan.rules == (Change(Kind.ADDED, "a", None, "match proto tcp, dport 1 → pass"),)
    assert [change.name for change in plan.settings][:2] == ["default", "invalid"]


def test_rules_come_and_go_by_name() -> None:
    assert kinds(compare(snapshot(A, B), snapshot(B, C))) == [("removed", "a"), ("added", "c")]


def test_a_changed_rule_has_both_texts() -> None:
    plan = compare(snapshot(A), snapshot(A.replace("pass", "drop")))
    before, after = "match proto tcp, dport 1 → pass", "match proto tcp, dport 1 → drop"
    assert plan.rules == (Change(Kind.CHANGED, "a", before, after),)


def test_a_comment_is_a_change() -> None:
    assert kinds(compare(snapshot(A), snapshot(A.replace("action", "comment: why, action")))) == [("changed", "a")]


def test_the_end_of_a_long_list_counts() -> None:
    rule = "{{name: a, match: {{proto: tcp, dport: [1, 3, 5, 7, 9, 11, 13, 15, 17, {}]}}, action: pass}}"
    assert kinds(compare(snapshot(rule.format(19)), snapshot(rule.format(21)))) == [("changed", "a")]


def test_as_few_rules_as_possible_are_moved() -> None:
    assert kinds(compare(snapshot(A, B, C), snapshot(C, A, B))) == [("moved", "c")]
    assert kinds(compare(snapshot(A, B, C), snapshot(C, B))) == [("removed", "a"), ("moved", "c")]


@pytest.mark.parametrize("seed", range(5))
def test_what_stays_keeps_its_order(seed: int) -> None:
    names = [f"r{number}" for number in range(12)]
    shuffled = random.Random(seed).sample(names, len(names))
    before, after = (snapshot(*(f"{{name: {name}, action: count}}" for name in order)) for order in (names, shuffled))
    moved = {change.name for change in compare(before, after).rules}
    assert [name for name in names if name not in moved] == [name for name in shuffled if name not in moved]


def test_interfaces_and_settings() -> None:
    before = snapshot(interfaces="{eth0: {}, eth1: {}}")
    after = snapshot(interfaces="{eth1: {mode: generic}, eth2: {}}", head="default: drop\nallow: {arp: false}\n")
    plan = compare(before, after)
    assert plan.interfaces == (
        Change(Kind.REMOVED, "eth0", "mode auto", None),
        Change(Kind.CHANGED, "eth1", "mode auto", "mode generic"),
        Change(Kind.ADDED, "eth2", None, "mode auto"),
    )
    assert plan.settings == (Change(Kind.CHANGED, "allow.arp", "true", "false"),)


def test_what_lives_at_run_time_is_settings() -> None:
    guests = "default: drop\nsets: {{guests: {{type: prefix, {}}}}}\n"
    before = snapshot(head=guests.format("dynamic: true") + "never_ban: ['@guests', 192.0.2.1]\n")
    after = snapshot(
        head=guests.format("dynamic: true, size: 10, timeout: 90m")
        + "never_ban: 192.0.2.1\nprotect: {syn: [80, 443]}\n"
    )
    plan = compare(before, after)
    assert plan.settings == (
        Change(Kind.CHANGED, "sets.guests", "dynamic, size 65536", "dynamic, size 10, timeout 90m"),
        Change(Kind.CHANGED, "never_ban", "@guests, 192.0.2.1", "192.0.2.1"),
        Change(Kind.ADDED, "protect.syn", None, "80, 443"),
    )
    assert not plan.sets
    static = snapshot(head=guests.format("elements: [192.0.2.0/24]"))
    plan = compare(static, after)
    assert plan.sets == (SetChange(Kind.REMOVED, "guests", added=0, removed=1),)
    assert Change(Kind.ADDED, "sets.guests", None, "dynamic, size 10, timeout 90m") in plan.settings


def test_the_end_of_a_long_never_ban_counts() -> None:
    head = "default: drop\nnever_ban: [{}, 192.0.2.{}]\n"
    many = ", ".join(f"10.0.{number}.1" for number in range(12))
    plan = compare(snapshot(head=head.format(many, 1)), snapshot(head=head.format(many, 3)))
    (change,) = plan.settings
    assert change.name == "never_ban"
    assert change.before is not None
    assert " and 5 more (" in change.before


@pytest.mark.parametrize(
    "effect", ["limit: {rate: 1/s}", "limit: {rate: 1/s, per: src}", "add_to: {set: bans}", "log: true"]
)
def test_a_rule_that_does_more_is_another(effect: str) -> None:
    more = f"{A[:-1]}, {effect}}}"
    assert kinds(compare(snapshot(A), snapshot(more))) == [("changed", "a")]
    assert not compare(snapshot(more), snapshot(more)).rules


def test_rules_know_their_interfaces_by_name() -> None:
    rule = "{name: a, match: {interface: eth1}, action: pass}"
    before, after = snapshot(rule, interfaces="{eth0: {}, eth1: {}}"), snapshot(rule, interfaces="{eth1: {}, eth0: {}}")
    assert not compare(before, after).rules


def test_sets_by_their_entries() -> None:
    head = "default: drop\nsets: {{nets: {{type: prefix, elements: [{}]}}, web: {{type: port, elements: [{}]}}}}\n"
    rule = "{name: a, match: {src: '@nets', proto: tcp, dport: '@web'}, action: pass}"
    before = snapshot(rule, head=head.format("192.0.2.0/24, 10.0.0.0/8", "80"))
    after = snapshot(rule, head=head.format("192.0.2.0/24, 10.0.0.0/9, '2001:db8::/32'", "80"))
    plan = compare(before, after)
    assert plan.sets == (SetChange(Kind.CHANGED, "nets", added=2, removed=1),)
    assert not plan.rules
    assert compare(None, after).sets == (SetChange(Kind.ADDED, "nets", 3, 0), SetChange(Kind.ADDED, "web", 1, 0))
    assert compare(after, snapshot()).sets[1] == SetChange(Kind.REMOVED, "web", 0, 1)


def with_list(*entries: str, file: str = "bad.txt", sets_stay_whole: bool = False) -> Snapshot:
    text = (
        f"version: 1\ninterfaces: {{eth0: {{}}}}\ndefault: drop\nsets: {{bad: {{type: prefix, file: {file}}}}}\n"
        "rules: [{name: a, match: {src: ['@bad', 192.0.2.1]}, action: drop}]\n"
    )
    sources = Sources.from_bundle({"p.yaml": text, file: "\n".join(entries)})
    stored = load("p.yaml", sources).sources.files
    assert not any(entry in stored[file] for entry in entries)
    loaded = load("p.yaml", Sources.from_bundle(stored))
    return Snapshot(lower(loaded, sets_stay_whole=sets_stay_whole), loaded.sets)


@pytest.mark.parametrize("sets_stay_whole", [False, True])
def test_sets_from_files_by_their_entries(sets_stay_whole: bool) -> None:
    def changes(*entries: str, file: str = "bad.txt") -> tuple[SetChange, ...]:
        plan = compare(before, with_list(*entries, file=file, sets_stay_whole=sets_stay_whole))
        assert not plan.rules
        return plan.sets

    v4 = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(2000)]
    v6 = [f"2001:db8:{n:x}::/48" for n in range(1000)]
    before = with_list(*v4, *v6, sets_stay_whole=sets_stay_whole)
    assert changes(*v6, *v4, v4[7], "# the same in another order, and one twice") == ()
    assert changes(*v4, *v6, file="worse.txt") == ()
    assert changes(*v4[5:], "192.0.2.7", *v6[3:]) == (SetChange(Kind.CHANGED, "bad", added=1, removed=8),)
    assert changes("10.0.0.0/8", *v4, *v6) == (SetChange(Kind.CHANGED, "bad", added=1, removed=0),)


def with_keys(*keys: ServerKey, to: str = "192.0.2.1") -> Snapshot:
    text = (
        "version: 1\ninterfaces: {eth0: {}}\ndefault: drop\n"
        f"sets: {{here: {{type: prefix, elements: [{to}]}}}}\n"
        "knocks: {admin: {spa: {port: 62201, keys: k}, opens: [22/tcp], to: '@here'}}\n"
    )
    sources = Sources.from_bundle({"p.yaml": text, "k": str(ServerHalf(bytes(8), keys))})
    loaded = load("p.yaml", Sources.from_bundle(load("p.yaml", sources).sources.files))
    return Snapshot(lower(loaded), loaded.sets)


def key(number: int, material: int, name: str = "") -> ServerKey:
    return ServerKey(number, name or f"k{number}", bytes([material] * 32))


MANY = [key(number, number) for number in range(1, 100)]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([key(1, 1)], [key(1, 2)], True),
        ([key(1, 1)], [key(1, 2, "phone")], True),
        ([key(1, 1), key(2, 2)], [key(1, 3)], True),
        ([key(1, 1)], [key(1, 2), key(2, 1)], True),
        ([key(1, 1)], [key(1, 1), key(2, 2)], False),  # the text has it
        ([key(1, 1)], [key(2, 1)], False),
        ([key(1, 1)], [key(1, 1, "phone")], False),
        (MANY, [*MANY[:-1], key(100, 100)], True),
    ],
)
def test_keys_that_change_are_told_beside_what_the_text_has(
    before: list[ServerKey], after: list[ServerKey], told: bool
) -> None:
    (change,) = compare(with_keys(*before), with_keys(*after)).knocks
    assert (change.kind, "(its keys or secret change)" in str(change.after)) == (Kind.CHANGED, told)


def test_a_knock_on_other_addresses_keeps_its_keys() -> None:
    (change,) = compare(with_keys(key(1, 1)), with_keys(key(1, 1), to="192.0.2.2")).knocks
    assert change.after == f"{change.before} (its set here changes)"


def test_a_knock_tells_of_all_that_its_text_leaves_out() -> None:
    (change,) = compare(with_keys(key(1, 1)), with_keys(key(1, 2), to="192.0.2.2")).knocks
    assert change.after == f"{change.before} (its keys or secret change; its set here changes)"


def test_a_knock_is_as_it_was_where_its_set_has_the_same_addresses() -> None:
    plan = compare(with_keys(key(1, 1)), with_keys(key(1, 1), to="192.0.2.1, 192.0.2.1/32, 192.0.2.1-192.0.2.1"))
    assert not plan.knocks


def with_sets(*, nets: str, ours: str = "203.0.113.1", extra: str = "") -> Snapshot:
    text = (
        f"version: 1\ninterfaces: {{eth0: {{}}}}\ndefault: drop\nsets:\n{extra}"
        "  nets: {type: prefix, file: nets.txt}\n"
        "  ours: {type: prefix, file: ours.txt}\n"
        "knocks: {admin: {sequence: [100/udp, 200/udp], opens: [22/tcp], to: '@ours', except: {src: '@nets'}}}\n"
    )
    loaded = load("p.yaml", Sources.from_bundle({"p.yaml": text, "nets.txt": nets, "ours.txt": ours}))
    return Snapshot(lower(loaded), loaded.sets)


def test_a_knock_tells_of_its_sets_that_change() -> None:
    before, extra = with_sets(nets="10.0.0.0/8"), "  more: {type: prefix, elements: [192.0.2.9]}\n"
    (change,) = compare(before, with_sets(nets="10.0.0.0/9", extra=extra)).knocks
    assert change == Change(Kind.CHANGED, "admin", change.before, f"{change.before} (its set nets changes)")
    (change,) = compare(before, with_sets(nets="10.0.0.0/9", ours="203.0.113.2")).knocks
    assert str(change.after).endswith("except src @nets (its set ours changes; its set nets changes)")
    assert not compare(before, with_sets(nets="10.0.0.0/8", extra=extra)).knocks


def test_nothing_changes_from_a_policy_to_itself() -> None:
    only = with_sets(nets="10.0.0.0/8")
    assert compare(only, only) == compare(only, with_sets(nets="10.0.0.0/8"))
    assert not compare(only, only).changes


def knocks(name: str, secret: str, within: str = "10s") -> Snapshot:
    text = (
        "version: 1\ninterfaces: {eth0: {}}\ndefault: drop\nknocks:\n"
        f"  {name}: {{rotate: {{secret: s, every: 30s, ports: 10000-60000, length: 4}}, within: {within}, "
        "opens: [22/tcp]}\n"
    )
    loaded = load("p.yaml", Sources.from_bundle({"p.yaml": text, "s": secret}))
    return Snapshot(lower(loaded), loaded.sets)


def test_knocks_by_name_and_by_what_they_keep_secret() -> None:
    one, other = "0123456789abcdef", "0123456789abcdeF"
    assert not compare(knocks("home", one), knocks("home", one)).changes
    (change,) = compare(knocks("home", one), knocks("home", other)).knocks
    assert (change.kind, change.name) == (Kind.CHANGED, "home")
    assert change.after == f"{change.before} (its keys or secret change)"
    assert one not in str(change)
    (change,) = compare(knocks("home", one), knocks("home", one, within="5s")).knocks
    assert change.before != change.after
    assert "secret" not in str(change.after)
    (change,) = compare(knocks("home", one), knocks("home", other, within="5s")).knocks
    assert str(change.after).endswith("for 30s (its keys or secret change)")
    assert [(each.kind, each.name) for each in compare(knocks("a", one), knocks("b", one)).knocks] == [
        (Kind.REMOVED, "a"),
        (Kind.ADDED, "b"),
    ]
