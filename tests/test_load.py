# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole policies: bundles, errors in bulk, and that nothing but PolicyError ever comes out."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.compiler import ir
from xdpfw.compiler.lower import lower
from xdpfw.errors import PolicyError
from xdpfw.knock import rotation
from xdpfw.policy import models
from xdpfw.policy.addresses import parse_addresses
from xdpfw.policy.entries import Entries
from xdpfw.policy.knocks import secret_notes
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


def test_files_of_sets_are_stored_packed(tmp_path: Path) -> None:
    """So what is in force is known by its entries, not by the text that they were in."""
    path, file = tmp_path / "policy.yaml", tmp_path / "l.txt"
    sets = "sets: {a: {type: prefix, file: l.txt}, b: {type: prefix, file: ./l.txt}}\n"
    path.write_text(HEAD + sets + "rules: [{match: {src: '@a', dst: '@b'}, action: pass}]")

    def stored(text: str) -> tuple[str, dict[str, str], ir.Policy]:
        file.write_text(text)
        loaded = load(str(path), Sources.from_disk())
        again = load(str(path), Sources.from_bundle(loaded.sources.files))
        assert dict(again.sources.files) == dict(loaded.sources.files)
        assert again.sources.digest == loaded.sources.digest
        assert [each.entries for each in again.sets.values()] == [each.entries for each in loaded.sets.values()]
        assert lower(again) == lower(loaded)
        return loaded.sources.digest, dict(loaded.sources.files), lower(loaded)

    lines = [f"192.0.2.{n}" for n in range(0, 256, 2)] + [f"2001:db8::{n:x}/127" for n in range(0, 256, 4)]
    digest, files, policy = stored("\n".join(lines))
    assert "192.0.2.2" not in files[str(file)]
    assert stored("# another order\r\n" + "\r\n".join(lines[::-1])) == (digest, files, policy)
    other_digest, _, other_policy = stored("\n".join(lines[1:]))
    assert (other_digest != digest, other_policy != policy) == (True, True)


def test_only_what_is_stored_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(HEAD + "sets: {l: {type: prefix, file: l.txt}}")
    (tmp_path / "l.txt").write_text(Entries.of([parse_addresses("192.0.2.1")]).packed())
    with pytest.raises(PolicyError, match=r"l.txt:1:1: .* is not a range"):
        load(str(tmp_path / "p.yaml"), Sources.from_disk())


KNOCKS = """\
knocks:
  admin: {spa: {port: 62201, keys: admin.keys}, opens: [22/tcp]}
  home: {rotate: {secret: home.secret, ports: 10000-60000}, opens: [22/tcp]}
"""
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
KEYS_TEXT = f"xdpfw-spa-server 1\nserver 0011223344556677\nkey 1 laptop {KEY}\n"
SECRET = "correct horse battery staple"


def with_secrets(folder: Path, keys: str = KEYS_TEXT, secret: str = SECRET) -> str:
    for name, text in (("policy.yaml", HEAD + KNOCKS), ("admin.keys", keys), ("home.secret", secret)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    return str(folder / "policy.yaml")


def test_secrets_are_not_stored(tmp_path: Path) -> None:
    path = with_secrets(tmp_path)
    from_disk = load(path, Sources.from_disk())
    admin, home = lower(from_disk).knocks
    assert isinstance(admin.way, ir.Spa)
    assert isinstance(home.way, ir.Rotation)
    (key,) = admin.way.keys
    assert key == ir.SpaKey(1, "laptop", base64.b64decode(KEY))
    assert home.way.secret == rotation.secret_key(SECRET)
    stored = "\n".join(from_disk.sources.files.values())
    for secret in (key.key, home.way.secret):
        assert base64.b64encode(secret).decode() not in stored
        assert secret.hex() not in stored
    assert SECRET not in stored
    assert KEY not in f"{from_disk} {lower(from_disk)} {admin.text}"


def test_what_is_stored_of_secrets_is_a_policy_that_compares(tmp_path: Path) -> None:
    path = with_secrets(tmp_path)
    from_disk = load(path, Sources.from_disk())
    once = load(path, Sources.from_bundle(from_disk.sources.files))
    twice = load(path, Sources.from_bundle(once.sources.files))
    assert lower(once) == lower(twice) != lower(from_disk)
    assert [knock.text for knock in lower(once).knocks] == [knock.text for knock in lower(from_disk).knocks]
    assert from_disk.sources.digest == once.sources.digest == twice.sources.digest
    assert dict(once.sources.files) == dict(from_disk.sources.files)


@pytest.mark.parametrize(
    ("keys", "secret", "changed"),
    [
        (KEYS_TEXT, SECRET + "\n", False),  # whitespace at its ends is no part of a secret
        (KEYS_TEXT, SECRET + "r", True),
        (KEYS_TEXT.replace(KEY, KEY[:-3] + "x8="), SECRET, True),
        (KEYS_TEXT.replace("laptop", "phone"), SECRET, True),
        (KEYS_TEXT.replace("key 1", "key 2"), SECRET, True),
        (KEYS_TEXT.replace(KEY, f"{KEY} nat"), SECRET, True),
    ],
)
def test_other_secrets_are_another_policy(tmp_path: Path, keys: str, secret: str, changed: bool) -> None:
    def stored() -> tuple[str, ir.Policy]:
        sources = load(path, Sources.from_disk()).sources
        return sources.digest, lower(load(path, Sources.from_bundle(sources.files)))

    path = with_secrets(tmp_path)
    digest, policy = stored()
    with_secrets(tmp_path, keys, secret)
    new_digest, new_policy = stored()
    assert (new_digest != digest, new_policy != policy) == (changed, changed)


def test_two_knocks_may_share_a_file_of_keys(tmp_path: Path) -> None:
    path = with_secrets(tmp_path)
    more = "  other: {spa: {port: 62202, keys: admin.keys}, opens: [80/tcp]}\n"
    Path(path).write_text(HEAD + KNOCKS + more)
    loaded = load(path, Sources.from_disk())
    assert loaded.knocks["admin"].keys == loaded.knocks["other"].keys
    assert len(loaded.sources.files) == 3


def test_a_secret_is_no_other_file() -> None:
    both = "sets: {l: {type: prefix, file: s}}\nknocks: {k: {rotate: {secret: s, ports: 1-9}, opens: [22/tcp]}}\n"
    first = "include: [s]\nknocks: {k: {rotate: {secret: s, ports: 1-9}, opens: [22/tcp]}}\n"
    for text in (both, first):
        sources = Sources.from_bundle({"policy.yaml": HEAD + text, "s": "version: 1 # and more than sixteen"})
        with pytest.raises(PolicyError, match=r"s is another file of the policy, too|s is the file of a secret, too"):
            load("policy.yaml", sources)


def notes(path: str) -> list[str]:
    loaded = load(path, Sources.from_disk())
    return secret_notes(loaded.knocks.values(), loaded.sources)


def test_secrets_that_others_can_read_are_told(tmp_path: Path) -> None:
    path = with_secrets(tmp_path)
    assert notes(path) == []
    (tmp_path / "admin.keys").chmod(0o640)
    (tmp_path / "policy.yaml").chmod(0o666)
    (line,) = notes(path)
    assert line.startswith(f"{tmp_path}/admin.keys holds secrets")
    assert "(mode 0640)" in line


def test_a_file_without_keys_is_told(tmp_path: Path) -> None:
    path = with_secrets(tmp_path, "".join(line for line in KEYS_TEXT.splitlines(True) if not line.startswith("key ")))
    file = tmp_path / "admin.keys"
    assert notes(path) == [f"knock admin opens to nobody: {file} has no keys (xdpfw keygen adds one)"]


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
    assert found.table.v4.tolist() == [[10 << 24, (10 << 24) + 99_999]]


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
     "any", "prefix", "port", "rule-1", "30s", 0, 1, 22, 70000, True, None, "", "02:00:00:00:00:01",
     "7000/tcp", "8.0/icmp", "1/10", "address"]
)  # fmt: skip
trees = st.recursive(
    SCALARS | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(KEYS), children, max_size=5),
    max_leaves=30,
)
steps = st.lists(
    st.sampled_from(["7000/tcp", "7001/udp", "22/tcp", "8/icmp", "8.0/icmp", "128/icmpv6", 22]), max_size=4
)
knocks = st.fixed_dictionaries(
    {"opens": st.lists(st.sampled_from(["22/tcp", "ssh/tcp", "7001/udp"]), min_size=1, max_size=3)},
    optional={
        "sequence": steps,
        "close": steps,
        "spa": st.just({"port": 7001, "keys": "policy.yaml"}) | trees,
        "rotate": st.just({"secret": "s", "ports": "1-9"}) | trees,
        "to": st.sampled_from(["192.0.2.1", "2001:db8::/32", "@lan"]),
        "except": st.just({"src": "@lan"}) | trees,
        **dict.fromkeys(("for", "within", "step", "scope"), trees),
    },
)
policies = st.fixed_dictionaries(
    {"version": st.just(1), "interfaces": st.just({"eth0": {}}), "default": st.just("drop")},
    optional={
        "rules": st.lists(
            st.dictionaries(st.sampled_from(["name", "match", "except", "action", "enabled", "comment", "log"]), trees),
            max_size=3,
        ),
        "sets": st.dictionaries(st.sampled_from(["lan", "web"]), trees),
        "knocks": st.dictionaries(st.sampled_from(["ssh", "web"]), knocks | trees, max_size=2),
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
