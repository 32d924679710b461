# SPDX-License-Identifier: GPL-2.0-or-later
"""The wheel carries what a machine without a compiler cannot make."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", directory],
        cwd=ROOT,
        check=True,
    )
    (built,) = directory.glob("*.whl")
    return built


def test_wheel_carries_the_generated_files(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for module in ("xdpfw.bpf.o", "_bindings.py", "_enums.py"):
        assert f"xdpfw/kernel/{module}" in names


def test_wheel_carries_nothing_but_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"xdpfw", f"xdpfw-{PROJECT['version']}.dist-info"}
    assert "xdpfw/kernel/bindings_build.py" not in names


def test_wheel_carries_the_action_for_fail2ban(wheel: Path) -> None:
    assert "xdpfw/integrations/fail2ban.conf" in zipfile.ZipFile(wheel).namelist()


def test_object_keeps_its_types_but_not_the_debugger_s(wheel: Path) -> None:
    program = zipfile.ZipFile(wheel).read("xdpfw/kernel/xdpfw.bpf.o")
    assert b".BTF.ext\0" in program
    assert b".debug_info\0" not in program
    assert str(ROOT).encode() not in program


def test_changelog_knows_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{PROJECT['version']}]" in changelog or "## [Unreleased]" in changelog
