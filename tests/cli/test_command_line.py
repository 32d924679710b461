# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for every command: quick help, an example, messages instead of tracebacks, an exit status."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cli.conftest import POLICY, Run
from tests.cli.imports import SLOW_IMPORTS, imported
from xdpfw.cli import COMMANDS

ENTRY = (sys.executable, "-c", "from xdpfw.cli import main; main()")
HEAVY = ("numpy", "pydantic", "pyroute2", "rich", "yaml", "cffi")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_tells_of_json(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.status == 0
    assert f"  xdpfw {command}" in ran.out.partition("Example")[2]
    assert command == "demo" or "--json" in ran.out


def test_help_lists_every_command(run: Run) -> None:
    ran = run("--help")
    for command in COMMANDS:
        assert f"\n  {command} " in ran.out


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, xdpfw.cli\n"
        f"try: xdpfw.cli.cli({arguments!r})\n"
        f"finally: print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize(
    "arguments", [[], ["no-such-command"], ["check"], ["check", "a", "b"], ["check", "--what", "a"]]
)
def test_a_wrong_command_line_is_status_2(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert ran.status == 2
    assert "Usage:" in ran.out + ran.err


def test_a_command_that_is_nearly_one_is_told_which(run: Run) -> None:
    ran = run("explian", "a", "b")
    assert ran.status == 2
    assert "No such command 'explian'. Did you mean explain?" in ran.err
    assert "mean" not in run("no-such-command").err


@pytest.mark.needs("privileges")
@pytest.mark.parametrize("command", ["check", "replay"])
def test_a_file_that_may_not_be_read_is_told_as_any_other(run: Run, unprivileged: None, command: str) -> None:
    with tempfile.TemporaryDirectory() as directory:  # that of pytest is root's alone
        rules, secret = Path(directory) / "p.yaml", Path(directory) / "secret"
        rules.write_text(POLICY)
        secret.touch(0)
        ran = run("check", secret) if command == "check" else run("replay", rules, secret, "--reference")
    assert ran.status == 2
    assert ran.err.startswith("xdpfw: cannot read ")
    assert ran.err.endswith(": Permission denied\n")


def test_a_missing_file_is_status_2(run: Run) -> None:
    ran = run("check", "/nowhere/p.yaml")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == "xdpfw: cannot read '/nowhere/p.yaml': No such file or directory\n"


def test_all_errors_are_told_with_their_places(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: 1\ninterfaces: {eth0: {}}\ndefault: drop\nrules:\n  - {match: {src: 10.0.0.1/8}, action: pas}\n"
    )
    ran = run("check", path)
    assert ran.status == 2
    first, second = ran.err.splitlines()
    assert first.startswith(f"{path}:5:19: ")
    assert "10.0.0.0/8" in first
    assert second.startswith(f"{path}:5:40: ")


def test_an_unexpected_error_is_one_line(run: Run, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("xdpfw.explain.explain", fail)
    monkeypatch.delenv("XDPFW_DEBUG", raising=False)
    ran = run("explain", policy, "tcp 192.0.2.1:1 > 192.0.2.2:2")
    assert (ran.status, ran.out) == (70, "")
    assert ran.err == "xdpfw: internal error: ZeroDivisionError: of all things (please report it)\n"
    monkeypatch.setenv("XDPFW_DEBUG", "1")
    assert "Traceback" in run("explain", policy, "tcp 192.0.2.1:1 > 192.0.2.2:2").err


def test_an_interrupt_is_quiet(run: Run, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("xdpfw.explain.explain", interrupt)
    ran = run("explain", policy, "tcp 192.0.2.1:1 > 192.0.2.2:2")
    assert (ran.status, ran.out, ran.err) == (130, "", "")


def test_a_reader_that_goes_away_is_no_error(policy: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*ENTRY, "check", policy], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=30)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_without_the_characters_gets_them_escaped(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\ninterfaces: {eth0: {}}\ndefault: drop\nrules: [{match: {src: ü}, action: pass}]\n")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*ENTRY, "check", path], env=environment, capture_output=True, check=False, timeout=30)
    assert done.returncode == 2
    assert rb"\xfc" in done.stderr


def test_help_imports_nothing_slow() -> None:
    assert not imported("--help") & SLOW_IMPORTS
