# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw demo."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.cli.conftest import Run
from xdpfw.kernel.interface import NAMESPACES
from xdpfw.kernel.pins import BPFFS, instances

pytestmark = pytest.mark.needs("privileges", "data plane", "bpffs")


def left_behind(process: int) -> list[str]:
    names = [path.name for path in NAMESPACES.glob("*")] + instances(BPFFS)
    return [name for name in names if f"demo-{process}" in name]


def demo() -> subprocess.Popen[str]:
    entry = (sys.executable, "-u", "-c", "from xdpfw.cli import main; main()", "demo")
    return subprocess.Popen(entry, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_everything_is_as_the_policy_says() -> None:
    with demo() as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "FAILED" not in out
    assert "\nblocklist " in out
    assert left_behind(process.pid) == []


def test_json(run: Run) -> None:
    answer = run("demo", "--json").json
    assert answer["ok"]
    assert all(attempt["expected"] == attempt["found"] for attempt in answer["traffic"])
    rules = {rule["name"]: rule["packets"] for rule in answer["statistics"]["rules"]}
    assert all(rules.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_in_between_leaves_nothing(number: signal.Signals) -> None:
    with demo() as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("5."):
            assert process.poll() is None, process.communicate()
        assert left_behind(process.pid) != []
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert left_behind(process.pid) == []


def test_without_root_it_says_what_is_missing(run: Run, unprivileged: None) -> None:
    ran = run("demo")
    assert ran.status == 3
    assert "this takes root" in ran.err
