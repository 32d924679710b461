# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw check."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import POLICY, Run


def test_a_policy_that_is_right(run: Run, policy: Path) -> None:
    ran = run("check", policy)
    assert ran.status == 0
    assert ran.lines == [f"{policy}: ok (2 interfaces, 3 rules, 0 sets, 1 test)"]


def test_json_of_a_policy_that_is_right(run: Run, policy: Path) -> None:
    assert run("check", policy, "--json").json == {
        "ok": True,
        "errors": [],
        "lints": [],
        "notes": [],
        "interfaces": 2,
        "rules": 3,
        "sets": 0,
        "knocks": 0,
        "tests": 1,
    }


def test_rules_that_are_never_reached_are_status_1(run: Run, write: Callable[[str], Path]) -> None:
    path = write(POLICY.replace("tests:\n", "  - {name: late, match: {proto: tcp, dport: 80}, action: drop}\ntests:\n"))
    message = 'rule "late" is never reached: "web" decides all of its packets'
    ran = run("check", path)
    assert ran.status == 1
    assert ran.lines[0] == f"{path}:8:5: {message}"
    ran = run("check", path, "--json")
    assert ran.status == 1
    assert ran.json["lints"] == [
        {
            "kind": "never-reached",
            "rule": "late",
            "covered_by": ["web"],
            "file": str(path),
            "line": 8,
            "column": 5,
            "message": message,
        }
    ]


def test_limits_that_change_nothing_are_status_1(run: Run, write: Callable[[str], Path]) -> None:
    rule = "  - {name: slow, match: {proto: sctp}, action: drop, limit: {rate: 1/s}}\ntests:\n"
    path = write(POLICY.replace("tests:\n", rule))
    ran = run("check", path)
    assert ran.status == 1
    assert ran.lines[0].startswith(
        f'{path}:8:5: rule "slow": its limit changes nothing: drop within it, and drop beyond'
    )
    assert ran.lines[-1].startswith(f"{path}: 1 warning about limits and protected ports (")
    (lint,) = run("check", path, "--json").json["lints"]
    assert (lint["kind"], lint["rule"], lint["line"]) == ("limit-idle", "slow", 8)


def test_a_set_whose_file_has_no_entries_is_told(run: Run, write: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# gone\n")
    sets = "sets: {bad: {type: prefix, file: list.txt}, none: {type: prefix, elements: []}}\nrules:\n"
    ran = run("check", write(POLICY.replace("rules:\n", sets)))
    assert ran.status == 0
    assert [line for line in ran.lines if "empty" in line] == [
        f"set bad is empty: {tmp_path / 'list.txt'} has no entries"
    ]


def test_a_set_whose_file_has_all_addresses_is_told(run: Run, write: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "wide.txt").write_text("192.0.2.0/24\n0.0.0.0/0\n2001:db8::/32\n")
    (tmp_path / "wider.txt").write_text("::/1\n8000::/1\n0.0.0.0-255.255.255.254")
    sets = (
        "a: {type: prefix, file: wide.txt}, b: {type: prefix, file: wider.txt}, c: {type: prefix, elements: ['::/0']}"
    )
    ran = run("check", write(POLICY.replace("rules:\n", f"sets: {{{sets}}}\nrules:\n")))
    assert ran.status == 0
    assert [line for line in ran.lines if "every" in line] == [
        f"set a has every IPv4 address: an entry of {tmp_path / 'wide.txt'} is too wide",
        f"set b has every IPv6 address: an entry of {tmp_path / 'wider.txt'} is too wide",
    ]


def test_a_wrong_packet_in_a_test_is_found_at_its_word(run: Run, write: Callable[[str], Path]) -> None:
    path = write(POLICY.replace("203.0.113.1:80 S", "203.0.113.1:80 X"))
    ran = run("check", path)
    assert ran.status == 2
    assert ran.err.startswith(f'{path}:9:55: "X" in "X" is no TCP flag')


def test_json_of_a_policy_that_is_wrong(run: Run, write: Callable[[str], Path]) -> None:
    path = write("version: 1\ninterfaces: {eth0: {}}\ndefault: dorp\n")
    ran = run("check", path, "--json")
    assert ran.status == 2
    (error,) = ran.json["errors"]
    assert (error["file"], error["line"], error["column"]) == (str(path), 3, 10)
    assert "dorp" in error["message"]
    assert (ran.json["ok"], ran.json["lints"], ran.json["notes"]) == (False, [], [])
    assert ran.err


KNOCKS = """\
version: 1
interfaces: {eth0: {}}
default: drop
knocks:
  ssh: {sequence: [7000/tcp, 8000/tcp, 9000/tcp], opens: [22/tcp]}
  home: {rotate: {secret: home.secret, ports: 10000-60000}, opens: [22/tcp]}
"""


def test_knocks_that_a_scan_opens_are_status_1(run: Run, write: Callable[[str], Path]) -> None:
    path = write(KNOCKS)
    secret = path.with_name("home.secret")
    secret.write_text("correct horse battery staple")
    secret.chmod(0o644)
    message = 'knock "ssh": its steps go up: a scan of these ports in order opens it (mix the order)'
    ran = run("check", path)
    assert ran.status == 1
    assert ran.lines[0] == f"{path}:5:3: {message}"
    assert ran.lines[-1] == f"{path}: 1 warning about knocks (1 interface, 0 rules, 0 sets, 2 knocks, 0 tests)"
    found = run("check", path, "--json").json
    place = {"file": str(path), "line": 5, "column": 3}
    assert found["lints"] == [{"kind": "knock-monotone", "knock": "ssh", "others": [], **place, "message": message}]
    assert found["ok"] is False
    assert found["knocks"] == 2
    assert found["notes"][-1].startswith(f"{secret} holds secrets, and others than its owner have access to it")
    write(KNOCKS.replace("8000/tcp, 9000/tcp", "9000/tcp, 8000/tcp"))
    secret.chmod(0o600)
    ran = run("check", path)
    assert (ran.status, len(ran.lines)) == (0, 1)


@pytest.mark.needs("privileges")
@pytest.mark.parametrize(("owner", "name"), [(65534, "nobody"), (4_000_000_000, "user 4000000000")])
def test_a_secret_of_somebody_else_is_told(run: Run, write: Callable[[str], Path], owner: int, name: str) -> None:
    path = write(KNOCKS)
    secret = path.with_name("home.secret")
    secret.write_text("correct horse battery staple")
    secret.chmod(0o600)
    before = run("check", path, "--json").json["notes"]
    os.chown(secret, owner, -1)
    os.chown(path, owner, -1)
    line = f"{secret} holds secrets, and belongs to {name}, who can read and change it: chown root {secret}"
    assert run("check", path, "--json").json["notes"] == [*before, line]


@pytest.mark.needs("privileges")
def test_a_secret_that_may_not_be_read_says_who_may(run: Run, unprivileged: None) -> None:
    with tempfile.TemporaryDirectory() as directory:  # that of pytest is root's alone
        rules, secret = Path(directory) / "p.yaml", Path(directory) / "home.secret"
        rules.write_text(KNOCKS)
        secret.touch(0)
        ran = run("check", rules)
    assert ran.status == 2
    hint = "it holds secrets: run this as root, or as its owner"
    assert ran.err == f"{rules}:6:27: cannot read '{secret}': Permission denied ({hint})\n"
