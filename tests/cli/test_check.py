# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import POLICY, Run

ESTABLISHED = "allow.established is not in force yet: packets of open connections meet the rules like any other"
FRAGMENTS = "allow.fragments is not in force yet: later fragments meet the rules like any other packet"


def test_a_policy_that_is_right(run: Run, policy: Path) -> None:
    ran = run("check", policy)
    assert ran.status == 0
    assert ran.lines == [ESTABLISHED, FRAGMENTS, f"{policy}: ok (2 interfaces, 3 rules, 0 sets, 1 test)"]


def test_json_of_a_policy_that_is_right(run: Run, policy: Path) -> None:
    assert run("check", policy, "--json").json == {
        "ok": True,
        "errors": [],
        "lints": [],
        "notes": [ESTABLISHED, FRAGMENTS],
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


def test_a_set_whose_file_has_no_entries_is_told(run: Run, write: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# gone\n")
    sets = "sets: {bad: {type: prefix, file: list.txt}, none: {type: prefix, elements: []}}\nrules:\n"
    ran = run("check", write(POLICY.replace("rules:\n", sets)))
    assert ran.status == 0
    assert [line for line in ran.lines if "empty" in line] == [
        f"set bad is empty: {tmp_path / 'list.txt'} has no entries"
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
