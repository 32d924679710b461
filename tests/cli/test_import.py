# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw import: the policy on standard output, what differs on standard error, and an exit status for scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run

TINYKNOCK = """\
policies:
  - target: 8000
    action: open
    sequence: [{value: 1000, protocol: tcp}, {value: 3000, protocol: udp}, {value: 2000, protocol: tcp}]
"""
CLOSES = "  - {target: 80, action: close, sequence: [{value: 1, protocol: tcp}, {value: 2, protocol: tcp}]}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policies.yaml"
    path.write_text(TINYKNOCK)
    return path


def test_the_policy_is_the_answer_and_what_differs_a_message(run: Run, file: Path, tmp_path: Path) -> None:
    ran = run("import", "tinyknock", file, "--interface", "wan0", "--interface", "lan0", "--for", "8h")
    assert ran.status == 0
    assert "interfaces: {wan0: {}, lan0: {}}\n" in ran.out
    assert "    for: 8h\n" in ran.out
    assert ran.err.startswith("a grant ends after 8h, ")
    assert "guess" not in ran.err
    made = tmp_path / "made.yaml"
    made.write_text(ran.out)
    checked = run("check", made, "--json").json
    assert (checked["errors"], checked["interfaces"]) == ([], 2)


def test_an_interface_that_is_a_guess_is_said_to_be_one(run: Run, file: Path) -> None:
    ran = run("import", "tinyknock", file)
    assert "interfaces: {eth0: {}}\n" in ran.out
    assert ran.err.splitlines()[-1] == f"interfaces: eth0 is a guess, as {file} does not say: --interface NAME does"


def test_what_is_left_out_makes_the_answer_no(run: Run, file: Path) -> None:
    file.write_text(TINYKNOCK + CLOSES)
    ran = run("import", "tinyknock", file, "--interface", "eth0")
    why = "close 80 by 1/tcp, 2/tcp: no sequence opens 80, so it is closed as it is"
    assert ran.status == 1
    assert f"# Left out, line 5: {why}\n" in ran.out
    assert ran.err.splitlines()[0] == f"{file}:5:5: left out: {why}"


def test_json_has_the_policy_and_the_differences(run: Run, file: Path) -> None:
    file.write_text(TINYKNOCK + CLOSES)
    ran = run("import", "tinyknock", file, "--json")
    assert (ran.status, ran.err) == (1, "")
    assert ran.json["policy"] == run("import", "tinyknock", file).out
    first, *_, last = ran.json["differences"]
    assert (first["left_out"], first["file"], first["line"], first["column"]) == (True, str(file), 5, 5)
    assert last == {
        "text": f"interfaces: eth0 is a guess, as {file} does not say: --interface NAME does",
        "left_out": False,
        "file": None,
        "line": None,
        "column": None,
    }


def test_a_policy_beyond_a_limit_is_none(run: Run, file: Path) -> None:
    policy = "  - {target: %d, action: open, sequence: [{value: 1, protocol: tcp}, {value: %d, protocol: udp}]}\n"
    file.write_text("policies:\n" + "".join(policy % (number, number) for number in range(1000, 1040)))
    ran = run("import", "tinyknock", file)
    assert (ran.status, ran.out) == (2, "")
    assert "makes 33 sequences, each close being one, and 32 are the most" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "1"], "--for 1 is not a duration such as 500ms, 30s, 10m, 2h or 7d (write 1s for seconds)"),
        (["--interface", "a b"], '--interface "a b" has a character that no interface\'s name can have'),
        (["--interface", "a", "--interface", "a"], "--interface names one twice"),
    ],
)
def test_what_cannot_be_is_refused(run: Run, file: Path, arguments: list[str], message: str) -> None:
    ran = run("import", "tinyknock", file, *arguments)
    assert (ran.status, ran.out, ran.err) == (2, "", f"xdpfw: {message}\n")


def test_errors_have_their_places(run: Run, file: Path) -> None:
    file.write_text("policies: [{target: 1, action: no}]\n")
    ran = run("import", "tinyknock", file)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == f"{file}:1:12: sequence is missing (tinyknock needs all of its keys)\n"
    ran = run("import", "tinyknock", file.with_name("none"))
    assert (ran.status, ran.err) == (2, f"xdpfw: cannot read '{file.with_name('none')}': No such file or directory\n")


def test_an_unknown_format_is_told_with_those_that_are_known(run: Run, file: Path) -> None:
    ran = run("import", "knockd", file)
    assert ran.status == 2
    assert "tinyknock" in ran.err
