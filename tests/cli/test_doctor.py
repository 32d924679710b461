# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw doctor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.kernel.conftest import Pair
from xdpfw.kernel.interface import attach, find, namespace
from xdpfw.kernel.program import Generation

KEYS = {"name", "ok", "detail", "fix", "required"}


@pytest.mark.needs("privileges", "data plane", "bpffs")
def test_a_system_that_can_run_the_firewall(run: Run) -> None:
    ran = run("doctor", "lo", "--json")
    assert (ran.status, ran.json["ok"]) == (0, True)
    assert all(check.keys() == KEYS for check in ran.json["checks"])
    assert {"kernel", "libbpf", "privileges", "interface lo"} <= {check["name"] for check in ran.json["checks"]}
    assert run("doctor", "lo").lines[-1] == "the firewall can run here"


@pytest.mark.needs("privileges")
def test_the_interfaces_of_a_namespace(run: Run, veth: Pair) -> None:
    names = {check["name"] for check in run("doctor", "--netns", veth.namespace, "--json").json["checks"]}
    assert f"interface {veth.name}" in names
    assert "interface lo" not in names


def test_what_is_missing_is_status_1_with_the_remedy(run: Run, tmp_path: Path) -> None:
    ran = run("doctor", "lo", bpffs=tmp_path)
    assert ran.status == 1
    assert any(line.startswith(f"to mend bpffs: mount -t bpf bpf {tmp_path}") for line in ran.lines)
    assert ran.lines[-1] == "the firewall cannot run here"


@pytest.mark.needs("privileges", "data plane", "bpffs")
def test_an_interface_of_another_program_is_status_1_with_the_remedy(
    run: Run, veth: Pair, generation: Generation
) -> None:
    with namespace(veth.namespace):
        link = attach(find(veth.name), generation.program, "generic").link
    with link:
        ran = run("doctor", veth.name, "--netns", veth.namespace)
        assert run("doctor", "--netns", veth.namespace).status == 0
    assert (ran.status, ran.lines[-1]) == (1, "the firewall cannot run here")
    assert "ip link set dev veth0 xdpgeneric off" in ran.out


@pytest.mark.needs("privileges")
def test_a_fix_of_several_checks_is_told_once(run: Run, unprivileged: None) -> None:
    lines = [line for line in run("doctor", "lo").lines if line.startswith("to mend ")]
    assert any(line.startswith("to mend privileges, ") for line in lines)
    fixes = [line.partition(": ")[2] for line in lines]
    assert len(fixes) == len(set(fixes))


def test_an_interface_that_is_not_there(run: Run) -> None:
    ran = run("doctor", "nowhere0", "--json")
    assert ran.status == 1
    assert not ran.json["checks"][-1]["ok"]


def test_an_empty_namespace_is_refused(run: Run) -> None:
    ran = run("doctor", "--netns", "")
    assert (ran.status, ran.out) == (2, "")
    assert "Invalid value for '--netns': a name is expected, and this is empty" in ran.err
