# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands run in this process, with an environment of the test's own; and what those of the kernel need."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.kernel.conftest import _needs, bpffs, generation, image, pytest_configure, unprivileged, veth  # noqa: F401
from xdpfw.cli import cli
from xdpfw.cli.app import App

POLICY = """\
version: 1
interfaces: {eth0: {}, eth1: {}}
default: drop
rules:
  - {name: seen, action: count}
  - {name: web, match: {proto: tcp, dport: [80, 443]}, action: pass}
  - {name: out, match: {interface: eth1, proto: udp}, action: {redirect: eth0}}
tests:
  - {packet: "tcp 198.51.100.7:40000 > 203.0.113.1:80 S", expect: pass, rule: web}
"""


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Ran]


@pytest.fixture
def run() -> Run:
    """Runs ``xdpfw ARGUMENTS``. Keyword arguments are those of App."""

    def run_command(*arguments: object, **app: Any) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        result = CliRunner().invoke(cli, [*map(str, arguments)], obj=App(stdout=out, stderr=err, **app))
        # What click itself says (help, errors of usage) goes past App.
        return Ran(result.exit_code, out.getvalue() + result.stdout, err.getvalue() + result.stderr)

    return run_command


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_policy(text: str) -> Path:
        path = tmp_path / "p.yaml"
        path.write_text(text)
        return path

    return write_policy


@pytest.fixture
def policy(write: Callable[[str], Path]) -> Path:
    return write(POLICY)
