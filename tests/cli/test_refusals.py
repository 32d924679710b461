# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811 fixtures of another module
"""What the commands of a running firewall say where they cannot do what was asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.test_in_force import POLICY, Firewall, applied, firewall  # noqa: F401
from tests.kernel.conftest import Pair

pytestmark = pytest.mark.needs("privileges", "data plane", "bpffs")


@pytest.mark.parametrize("command", ["detach", "status", "stats"])
def test_without_root_it_says_what_it_takes(
    firewall: Firewall, applied: Path, unprivileged: None, command: str
) -> None:
    ran = firewall.run(command, "--instance", firewall.instance)
    assert (ran.status, ran.out) == (3, "")
    assert re.fullmatch(r"xdpfw: list /sys/fs/bpf/xdpfw\S*: Permission denied \(this takes root\)\n", ran.err)


@pytest.mark.parametrize("option", ["--netns", "--instance"])
@pytest.mark.parametrize("command", ["apply", "plan", "status", "stats", "detach"])
def test_an_empty_name_is_refused(run: Run, policy: Path, command: str, option: str) -> None:
    ran = run(command, *([policy] if command in ("apply", "plan") else []), option, "")
    assert ran.status == 2
    assert f"Invalid value for '{option}': a name is expected, and this is empty" in ran.err


@pytest.mark.parametrize("command", ["apply", "plan", "status", "stats", "detach"])
def test_a_namespace_that_is_not_there_is_named_with_those_that_are(
    run: Run, veth: Pair, write: Callable[[str], Path], command: str
) -> None:
    ran = run(command, *([write(POLICY)] if command in ("apply", "plan") else []), "--netns", "no-such")
    assert (ran.status, ran.out) == (3, "")
    assert ran.err.startswith("xdpfw: open network namespace no-such: No such file or directory (ip netns add no-such")
    assert veth.namespace in ran.err


def test_the_path_of_the_policy_is_absolute(
    firewall: Firewall,
    write: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(POLICY)
    monkeypatch.chdir(path.parent)
    assert firewall("apply", path.name).status == 0
    assert firewall("status", "--json").json["policy_file"] == str(path)
    assert not firewall("plan", path.name, "--json").json["changes"]
