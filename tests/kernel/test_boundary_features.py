# SPDX-License-Identifier: GPL-2.0-or-later
"""What a system can do, asked of the system itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xdpfw.kernel import features
from xdpfw.kernel.interface import attach, find, namespace
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.program import Generation


def test_every_check_has_a_name_of_its_own_and_a_fix_where_it_fails() -> None:
    checks = features.system()
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        print(f"{'ok' if check.ok else 'NO':3} {check.name}: {check.detail} {check.fix}")
        assert check.detail
        assert check.ok or check.fix


@pytest.mark.needs("privileges", "data plane")
def test_probes_leave_nothing_open(open_descriptors: Callable[[], set[str]]) -> None:
    features.system()
    before = open_descriptors()
    assert all(check.ok for check in features.system() if check.required)
    features.interface("lo")
    assert open_descriptors() == before


def test_a_directory_that_is_no_bpffs_is_told_with_the_command(tmp_path: Path) -> None:
    check = features.bpf_file_system(tmp_path)
    assert (check.ok, check.required) == (False, True)
    assert f"mount -t bpf bpf {tmp_path}" in check.fix


@pytest.mark.needs("privileges")
def test_a_bpffs_that_is_read_only_is_told_with_the_command(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "bpf", "-o", "ro", "bpf", tmp_path], check=True, timeout=30)
    try:
        check = features.bpf_file_system(tmp_path)
        assert (check.ok, check.fix) == (False, f"mount -o remount,rw {tmp_path}")
        subprocess.run(check.fix.split(), check=True, timeout=30)
        assert features.bpf_file_system(tmp_path).ok
    finally:
        subprocess.run(["umount", tmp_path], check=True, timeout=30)


def test_an_interface_that_is_not_there() -> None:
    (check,) = features.interface("no-such-name")
    assert not check.ok
    assert "interfaces here: lo" in check.fix


@pytest.mark.needs("privileges", "data plane")
def test_an_interface_tells_its_holder(veth: Any, generation: Generation) -> None:
    with namespace(veth.namespace), attach(find(veth.name), generation.program, "native").link:
        checks = {check.name: check for check in features.interface(veth.name)}
    holder = checks["veth0: XDP program"]
    assert (holder.ok, holder.required) == (False, True)
    assert holder.detail == f"taken by xdpfw (id {generation.program_id}), native"
    assert "ip link set dev veth0 xdp off" in holder.fix
    assert checks["interface veth0"].detail == "veth, MTU 1500, up, link type 1"
    assert "veth0: VLAN tags" in checks


@pytest.mark.needs("privileges", "data plane", "bpffs")
def test_an_instance_of_ones_own_may_hold_an_interface(veth: Any, generation: Generation, bpffs: Path) -> None:
    own = Pins("own", bpffs)
    with namespace(veth.namespace), own.lock(), attach(find(veth.name), generation.program, "native").link as link:
        link.pin(str(own.link(veth.name)))
        holder = next(check for check in features.interface(veth.name, bpffs) if check.name == "veth0: XDP program")
        own.remove()
    assert holder.ok
    assert holder.detail.endswith(", of instance own")


IMPORT_BUDGET = ("pyroute2", "numpy", "pydantic", "yaml", "rich", "cffi", "asyncio", "ctypes")


def test_reading_counters_imports_little() -> None:
    script = "import sys, xdpfw.kernel.program, xdpfw.kernel.pins, xdpfw.kernel.interface;print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert not set(IMPORT_BUDGET) & set(loaded.stdout.split())
