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
from tests.kernel.conftest import Pair, ip

pytestmark = pytest.mark.needs("privileges", "data plane", "bpffs")


@pytest.mark.parametrize("command", ["detach", "status", "stats", "grants", "events"])
def test_without_root_it_says_what_it_takes(
    firewall: Firewall, applied: Path, unprivileged: None, command: str
) -> None:
    ran = firewall.run(command, "--instance", firewall.instance)
    assert (ran.status, ran.out) == (3, "")
    assert re.fullmatch(r"xdpfw: list /sys/fs/bpf/xdpfw\S*: Permission denied \(this takes root\)\n", ran.err)


@pytest.mark.parametrize("option", ["--netns", "--instance"])
@pytest.mark.parametrize("command", ["apply", "plan", "status", "stats", "grants", "events", "detach"])
def test_an_empty_name_is_refused(run: Run, policy: Path, command: str, option: str) -> None:
    ran = run(command, *([policy] if command in ("apply", "plan") else []), option, "")
    assert ran.status == 2
    assert f"Invalid value for '{option}': a name is expected, and this is empty" in ran.err


@pytest.mark.parametrize("command", ["apply", "plan", "status", "stats", "grants", "events", "detach"])
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


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("veth0", "veth9"),
            ":2:14: interface veth9 does not exist here (did you mean veth0? interfaces here: lo, veth0)",
        ),
        (
            ("action: pass", "action: {redirect: veth9}"),
            ":7:5: interface veth9 does not exist here (did you mean veth0? interfaces here: lo, veth0)",
        ),
    ],
)
def test_apply_says_where_the_policy_names_what_does_not_exist(
    firewall: Firewall, write: Callable[[str], Path], change: tuple[str, str], expected: str
) -> None:
    path = write(POLICY.replace(*change))
    ran = firewall("apply", path, "--skip-tests")
    assert (ran.status, ran.err) == (3, f"{path}{expected}\n")


def test_apply_names_the_instance_that_has_the_interface(firewall: Firewall, applied: Path) -> None:
    other = f"{firewall.instance}-other"
    ran = firewall.run("apply", applied, "--netns", firewall.pair.namespace, "--instance", other)
    assert ran.status == 3
    assert ran.err.startswith(f"{applied}:2:14: attach to veth0: Device or resource busy ")
    assert f"instance {firewall.instance} of xdpfw is on it: xdpfw detach --instance {firewall.instance}" in ran.err
    assert firewall.run("detach", "--instance", other).status == 2


def test_a_change_of_mode_is_refused_where_the_policy_asks_for_it(
    firewall: Firewall, applied: Path, write: Callable[[str], Path]
) -> None:
    ran = firewall("apply", write(POLICY.replace("veth0: {}", "veth0: {mode: generic}")))
    assert ran.status == 2
    assert ran.err.startswith(f"{applied}:2:14: veth0 runs in native mode and the policy asks for generic ")


def test_status_where_the_interface_is_gone(firewall: Firewall, applied: Path) -> None:
    ip("-n", firewall.pair.namespace, "link", "delete", "veth0")
    ran = firewall("status")
    assert ran.status == 1
    assert "in force    nowhere: no interface of the policy runs it (applied " in ran.out
    assert "the interface is gone: xdpfw apply attaches a new one" in ran.out
    assert firewall("status", "--json").status == 1
    assert firewall("stats").status == 0


def test_status_where_one_of_the_interfaces_is_gone(firewall: Firewall, write: Callable[[str], Path]) -> None:
    ip("-n", firewall.pair.namespace, "link", "add", "veth1", "type", "veth", "peer", "peer1")
    path = write(POLICY.replace("{veth0: {}}", "{veth0: {}, veth1: {}}"))
    assert firewall("apply", path).status == 0
    ip("-n", firewall.pair.namespace, "link", "delete", "veth1")
    ran = firewall("status")
    assert ran.status == 0
    assert "in force    since " in ran.out
    assert "the interface is gone" in ran.out


def test_auto_that_is_left_in_generic_mode_is_told_each_time(firewall: Firewall, write: Callable[[str], Path]) -> None:
    note = "veth0 runs in generic mode (native is tried when the firewall is attached anew: xdpfw detach, then apply)"
    generic = write(POLICY.replace("veth0: {}", "veth0: {mode: generic}"))
    assert note not in firewall("apply", generic).lines
    auto = write(POLICY)
    assert note in firewall("apply", auto).lines
    again = firewall("apply", auto, "--json").json
    assert not again["changed"]
    assert note in again["notes"]


def foreseen(firewall: Firewall, path: Path) -> list[str]:
    """What plan notes of the system; the same as text and as JSON."""
    ran = firewall("plan", path, "--json")
    assert ran.status == 0, ran.err
    notes = [note for note in ran.json["notes"] if not note.startswith("allow.")]
    lines = firewall("plan", path).lines
    assert all(note in lines for note in notes)
    return notes


@pytest.mark.parametrize(
    "change",
    [
        ("veth0", "veth9"),
        ("action: pass", "action: {redirect: veth9}"),
        ("veth0: {}", "veth0: {mode: generic}"),
    ],
)
def test_plan_foresees_what_apply_refuses(
    firewall: Firewall, applied: Path, write: Callable[[str], Path], change: tuple[str, str]
) -> None:
    assert foreseen(firewall, applied) == []
    path = write(POLICY.replace(*change))
    (note,) = foreseen(firewall, path)
    assert note == f"apply would refuse: {firewall('apply', path, '--skip-tests').err.rstrip()}"


def test_plan_foresees_a_program_of_others(firewall: Firewall, applied: Path) -> None:
    other = Firewall(firewall.run, f"{firewall.instance}-other", firewall.pair)
    (note,) = foreseen(other, applied)
    assert f"instance {firewall.instance} of xdpfw is on it" in note


def test_plan_foresees_that_an_interface_is_attached_anew(firewall: Firewall, applied: Path) -> None:
    namespace = firewall.pair.namespace
    ip("-n", namespace, "link", "delete", "veth0")
    ip("-n", namespace, "link", "add", "veth0", "type", "veth", "peer", "peer1")
    assert foreseen(firewall, applied) == ["apply would attach to veth0 again: it was created anew"]
    assert firewall("plan", applied).lines[0] == "the policy would not change"
    assert firewall("apply", applied, "--json").json["changed"]
    assert foreseen(firewall, applied) == []
    assert firewall("plan", applied).lines[0] == "nothing would change"


def test_plan_foresees_that_a_redirect_target_is_another(firewall: Firewall, write: Callable[[str], Path]) -> None:
    namespace = firewall.pair.namespace
    ip("-n", namespace, "link", "add", "out0", "type", "veth", "peer", "out1")
    path = write(POLICY.replace("action: pass", "action: {redirect: out0}"))
    assert firewall("apply", path, "--skip-tests").status == 0
    assert foreseen(firewall, path) == []
    ip("-n", namespace, "link", "delete", "out0")
    ip("-n", namespace, "link", "add", "out0", "type", "veth", "peer", "out1")
    (note,) = foreseen(firewall, path)
    assert note == "apply would switch to where the redirect targets are now: one was created anew"
    assert firewall("apply", path, "--skip-tests", "--json").json["changed"]


def test_plan_in_a_namespace_that_is_gone(firewall: Firewall, applied: Path) -> None:
    ran = firewall.run("plan", applied, "--instance", firewall.instance, "--netns", "no-such")
    assert ran.status == 3
    assert "network namespace no-such" in ran.err


def test_plan_of_an_instance_in_another_namespace(firewall: Firewall, applied: Path) -> None:
    with_peers = Pair(firewall.pair.peer_namespace, "peer0", firewall.pair.namespace, "veth0")
    (note,) = foreseen(Firewall(firewall.run, firewall.instance, with_peers), applied)
    assert f"instance {firewall.instance} holds veth0 in another network namespace" in note
