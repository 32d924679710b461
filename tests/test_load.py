# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole policies: bundles, errors in bulk, and that nothing but PolicyError ever comes out."""

from __future__ import annotations

from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.compiler import ir
from xdpfw.compiler.lower import lower
from xdpfw.errors import PolicyError
from xdpfw.policy import models
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

HEAD = "version: 1\ninterfaces: {eth0: {}}\ndefault: drop\n"


def load_text(text: str, **files: str) -> ir.Policy:
    return lower(load("policy.yaml", Sources.from_bundle({"policy.yaml": text, **files})))


def errors_of(text: str) -> list[PolicyError]:
    try:
        load_text(text)
    except PolicyError as error:
        return [error, *error.others]
    return []


def test_a_policy_comes_back_from_its_bundle_alone(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    rules = 'rules: [{match: {src: "@l"}, action: pass}]'
    (tmp_path / "policy.yaml").write_text(f"version: 1\ninclude: [lists/base.yaml]\n{rules}")
    (tmp_path / "lists/base.yaml").write_text(f"{HEAD}sets: {{l: {{type: prefix, file: l.txt}}}}")
    (tmp_path / "lists/l.txt").write_text("192.0.2.0/24")
    path = str(tmp_path / "policy.yaml")
    from_disk = load(path, Sources.from_disk())
    from_bundle = load(path, Sources.from_bundle(from_disk.sources.files))
    assert len(from_disk.sources.files) == 3
    assert lower(from_disk) == lower(from_bundle)
    assert from_disk.sources.digest == from_bundle.sources.digest


def test_all_errors_come_at_once_in_order_of_the_text() -> None:
    rules = [f"  - {{match: {{proto: tcp, dport: {70000 + n}}}, action: no}}" for n in range(9)]
    errors = errors_of("\n".join([HEAD, "rules:", *rules]))
    assert len(errors) == 18
    positions = [(error.position.line, error.position.column) for error in errors if error.position]
    assert positions == sorted(positions)
    assert not any(error.others for error in errors[1:])


def test_a_number_too_high_names_rule_field_value_and_limit() -> None:
    text = HEAD + "rules:\n  - name: ssh\n    match:\n      proto: tcp\n      dport: 70000\n    action: pass\n"
    assert [str(error) for error in errors_of(text)] == ['policy.yaml:8:14: rule "ssh": dport 70000 is above 65535']


def test_a_hundred_thousand_entries_of_a_set() -> None:
    entries = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(100_000)]
    policy = load_text(HEAD + "sets: {l: {type: prefix, file: l}}", l="\n".join(entries))
    (found,) = policy.address_sets
    assert found.entries == 100_000
    assert found.ranges.v4 == ((10 << 24, (10 << 24) + 99_999),)


@given(st.text())
def test_no_text_raises_anything_but_policy_error(text: str) -> None:
    assert all(error.position for error in errors_of(text))


KEYS = sorted(
    {
        name
        for model in vars(models).values()
        if isinstance(model, type) and issubclass(model, models.Model)
        for name in model.model_fields
    }
    | {"except", "eth0", "<<", ""}
)
SCALARS = st.sampled_from(
    ["pass", "drop", "eth0", "@lan", "192.0.2.0/24", "::1", "tcp", "icmp", "echo-request", "syn,!ack", "80-90", "none",
     "any", "prefix", "port", "rule-1", "30s", 0, 1, 22, 70000, True, None, "", "02:00:00:00:00:01"]
)  # fmt: skip
trees = st.recursive(
    SCALARS | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(KEYS), children, max_size=5),
    max_leaves=30,
)
policies = st.fixed_dictionaries(
    {"version": st.just(1), "interfaces": st.just({"eth0": {}}), "default": st.just("drop")},
    optional={
        "rules": st.lists(
            st.dictionaries(st.sampled_from(["name", "match", "except", "action", "enabled", "comment"]), trees),
            max_size=3,
        ),
        "sets": st.dictionaries(st.sampled_from(["lan", "web"]), trees),
        "tests": st.lists(trees, max_size=3),
        "allow": trees,
    },
)


@given(policies | trees)
def test_no_tree_raises_anything_but_policy_error(tree: object) -> None:
    errors = errors_of(yaml.safe_dump(tree, allow_unicode=True))
    assert all(error.position and error.message.isprintable() for error in errors)


matches = st.fixed_dictionaries(
    {},
    optional={
        "src": st.lists(st.sampled_from(["192.0.2.0/24", "::1", "@lan", "10.0.0.1-10.0.0.9"]), min_size=1, max_size=3),
        "dst": st.sampled_from(["192.0.2.1", "2001:db8::/32", "@lan"]),
        "proto": st.lists(st.sampled_from(["tcp", "udp", "icmp", "icmpv6", "gre", 1, 58]), min_size=1, max_size=3),
        "dport": st.sampled_from([22, "80-90", "@web", ["ssh", "@web"]]),
        "tcp_flags": st.sampled_from(["syn,!ack", "none"]),
        "icmp_type": st.sampled_from(["echo-request", "packet-too-big", 3, "0-255"]),
        "icmp_code": st.sampled_from([0, "port-unreachable", "no-route"]),
        "family": st.sampled_from(["ipv4", "ipv6", "other", ["ipv4", "ipv6"]]),
        "ethertype": st.sampled_from(["arp", "ipv4", "ipv6", ["arp", "ipv4"]]),
        "vlan": st.sampled_from(["none", "any", 5]),
        "inner_vlan": st.sampled_from(["none", "any", 5]),
        "fragment": st.sampled_from(["first", "later", "any", "none"]),
        "ttl": st.just(255),
    },
)
rules = st.fixed_dictionaries(
    {"match": matches, "action": st.sampled_from(["pass", "drop", "count"])}, optional={"except": matches}
)


@given(st.lists(rules, max_size=4))
def test_what_is_accepted_has_no_condition_that_nothing_meets(drawn: list[object]) -> None:
    sets = {"lan": {"type": "prefix", "elements": ["10.0.0.0/8"]}, "web": {"type": "port", "elements": [80]}}
    tree = {"version": 1, "interfaces": {"eth0": {}}, "default": "drop", "sets": sets, "rules": drawn}
    try:
        policy = load_text(yaml.safe_dump(tree))
    except PolicyError:
        return
    for rule in policy.rules:
        for match in (rule.match, rule.unless):
            if match is not None:
                fields = (getattr(match, field) for field in match.__slots__)
                assert all(any(value) if isinstance(value, ir.AddressRanges) else value != () for value in fields)
