# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw doctor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.kernel.conftest import Pair

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


def test_an_interface_that_is_not_there(run: Run) -> None:
    ran = run("doctor", "nowhere0", "--json")
    assert ran.status == 1
    assert not ran.json["checks"][-1]["ok"]
