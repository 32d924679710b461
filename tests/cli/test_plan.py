# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811 fixtures of another module
"""What xdpfw plan tells of files that change, by whichever way it finds it out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_in_force import Firewall, firewall  # noqa: F401

pytestmark = pytest.mark.needs("privileges", "data plane", "bpffs")

POLICY = """\
version: 1
interfaces: {veth0: {}}
default: drop
sets: {bad: {type: prefix, file: bad.txt}, home: {type: prefix, file: home.txt}}
knocks:
  door: {rotate: {secret: door.secret, every: 30s, ports: 20000-60000, length: 4}, opens: [22/tcp], to: '@home'}
rules:
  - {name: bad, match: {src: ['@bad', 192.0.2.1]}, action: drop}
  - {name: seen, action: count}
"""
FILES = {"p.yaml": POLICY, "bad.txt": "10.0.0.0/8\n", "home.txt": "203.0.113.1\n", "door.secret": "0123456789abcdef\n"}
DOOR = "rotate every 30s ports 20000-60000 length 4 within 10s → opens 22/tcp for 30s, to @home"


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Path]:
    """Writes the policy's files, changed ones by their stems; returns the policy's path."""

    def written(**changed: str) -> Path:
        for name, text in FILES.items():
            (tmp_path / name).write_text(changed.get(name.split(".")[0], text))
            (tmp_path / name).chmod(0o600)
        return tmp_path / "p.yaml"

    return written


def test_what_is_in_force_changes_nothing(firewall: Firewall, files: Callable[..., Path]) -> None:
    assert firewall("apply", files()).status == 0
    assert firewall("plan", files()).lines[0] == "nothing would change"
    path = files(bad="# the same entry\n10.0.0.0/8\n")
    assert firewall("plan", path).lines[0] == "nothing would change"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"bad": "10.0.0.0/9\n192.0.2.0/24\n"},
            {"sets": [{"kind": "changed", "name": "bad", "added": 2, "removed": 1}]},
        ),
        (
            {"home": "203.0.113.2\n"},
            {
                "knocks": [
                    {"kind": "changed", "name": "door", "before": DOOR, "after": f"{DOOR} (its set home changes)"}
                ],
                "sets": [{"kind": "changed", "name": "home", "added": 1, "removed": 1}],
            },
        ),
        (
            {"door": "0123456789abcdeF\n", "bad": ""},
            {
                "knocks": [
                    {"kind": "changed", "name": "door", "before": DOOR, "after": f"{DOOR} (its keys or secret change)"}
                ],
                "sets": [{"kind": "changed", "name": "bad", "added": 0, "removed": 1}],
            },
        ),
        (
            {"p": POLICY.replace("name: seen, ", "name: all, ")},
            {
                "rules": [
                    {"kind": "removed", "name": "seen", "before": "match all → count", "after": None},
                    {"kind": "added", "name": "all", "before": None, "after": "match all → count"},
                ]
            },
        ),
    ],
    ids=["a set of rules", "a set of a knock", "a secret and a set", "the policy"],
)
def test_a_file_that_changes(
    firewall: Firewall,
    files: Callable[..., Path],
    tmp_path: Path,
    changed: dict[str, str],
    expected: dict[str, Any],
) -> None:
    """The same wherever the files lie: at the paths that are stored, sets are compared without the rest."""
    assert firewall("apply", files()).status == 0
    path = files(**changed)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in FILES:
        shutil.copy(tmp_path / name, elsewhere)
    nothing = {"first": False, "interfaces": [], "settings": [], "knocks": [], "rules": [], "sets": []}
    for each in (path, elsewhere / path.name):
        found = firewall("plan", each, "--json").json
        del found["notes"]
        assert found == {**nothing, "changes": True, **expected}
    assert firewall("apply", path).status == 0
    assert not firewall("plan", elsewhere / path.name, "--json").json["changes"]


def test_what_does_not_fit_is_refused(firewall: Firewall, files: Callable[..., Path]) -> None:
    """Though no answer of plan is about tables."""
    assert firewall("apply", files()).status == 0
    macs = ", ".join(f"'{(n.to_bytes(2, 'big') * 3).hex(':')}'" for n in range(2100))
    path = files(p=f"{POLICY}  - {{match: {{src_mac: [{macs}]}}, action: drop}}\n")
    ran = firewall("plan", path)
    assert "distinct MAC addresses" in ran.err
    assert (ran.status, ran.err) == (2, firewall("apply", path).err)
