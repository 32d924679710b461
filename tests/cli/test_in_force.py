# SPDX-License-Identifier: GPL-2.0-or-later
"""xdpfw apply, status, stats, plan and detach, on an interface in a namespace of the test's own.

What traffic meets them is in netns-tests.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import Ran, Run
from tests.cli.imports import SLOW_IMPORTS, imported
from tests.kernel.conftest import Pair
from xdpfw.kernel.interface import namespace
from xdpfw.kernel.pins import BPFFS

pytestmark = pytest.mark.needs("privileges", "data plane", "bpffs")

POLICY = """\
version: 1
interfaces: {veth0: {}}
default: drop
sets: {web: {type: port, elements: [80, 443]}}
rules:
  - {name: seen, action: count, comment: everything}
  - {name: web, match: {proto: tcp, dport: '@web'}, action: pass}
tests:
  - {packet: "tcp 198.51.100.7:40000 > 203.0.113.1:80 S", expect: pass}
"""
NOT_IN_FORCE = 2  # lines


@dataclass(frozen=True)
class Firewall:
    run: Run
    instance: str
    pair: Pair

    def __call__(self, command: str, *arguments: object, **app: object) -> Ran:
        netns = [] if command == "detach" else ["--netns", self.pair.namespace]
        return self.run(command, *arguments, *netns, "--instance", self.instance, **app)


@pytest.fixture
def firewall(run: Run, veth: Pair) -> Iterator[Firewall]:
    found = Firewall(run, f"test-{os.getpid()}", veth)
    yield found
    found("detach")
    assert not (BPFFS / "xdpfw" / found.instance).exists()


@pytest.fixture
def applied(firewall: Firewall, write: Callable[[str], Path]) -> Path:
    path = write(POLICY)
    assert firewall("apply", path).status == 0
    return path


def test_nothing_is_in_force(firewall: Firewall) -> None:
    ran = firewall("status")
    assert (ran.status, ran.lines) == (1, [f"instance {firewall.instance}: nothing is in force"])
    assert firewall("status", "--json").json == {"instance": firewall.instance, "generation": None}
    ran = firewall("stats")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == f"xdpfw: instance {firewall.instance} has no firewall in force (xdpfw apply RULES)\n"
    assert firewall("detach").status == 2


def test_apply_puts_a_policy_in_force_once(firewall: Firewall, write: Callable[[str], Path]) -> None:
    path = write(POLICY)
    ran = firewall("apply", path)
    assert ran.status == 0
    assert ran.lines[:2] == [f"{path} is in force (generation 1)", "  veth0: native"]
    again = firewall("apply", path, "--json").json
    assert again == {
        "changed": False,
        "generation": 1,
        "interfaces": {"veth0": "native"},
        "tests": {"passed": 1, "failed": 0},
        "notes": [],
    }


def test_apply_refuses_a_policy_whose_tests_fail(firewall: Firewall, write: Callable[[str], Path]) -> None:
    path = write(POLICY.replace("expect: pass", "expect: drop"))
    ran = firewall("apply", path)
    assert ran.status == 1
    assert ran.lines[0] == "FAILED  test-1"
    assert ran.lines[-1] == "nothing is changed: 1 of 1 tests failed (--skip-tests overrides)"
    ran = firewall("apply", path, "--json")
    assert (ran.status, ran.json["changed"], ran.json["tests"]) == (1, False, {"passed": 0, "failed": 1})
    assert firewall("status").status == 1
    assert firewall("apply", path, "--skip-tests").status == 0


def test_apply_warns_of_rules_that_are_never_reached(firewall: Firewall, write: Callable[[str], Path]) -> None:
    late = "  - {name: late, match: {proto: tcp, dport: 80}, action: drop}\ntests:"
    path = write(POLICY.replace("tests:", late))
    ran = firewall("apply", path)
    assert ran.status == 0
    assert ran.lines[-1] == f'{path}:8:5: rule "late" is never reached: "web" decides all of its packets'


def test_apply_tells_of_some_rules_that_are_never_reached_and_of_how_many_more(
    firewall: Firewall, write: Callable[[str], Path]
) -> None:
    late = "  - {match: {proto: tcp, dport: 80}, action: drop}\n" * 1031
    path = write(POLICY.replace("tests:", f"{late}tests:"))
    lines = firewall("apply", path).lines
    assert lines[0] == f"{path} is in force (generation 1)"
    assert sum("is never reached" in line for line in lines) == 20
    assert lines[-1] == "and 1,011 more: xdpfw check lists them"
    notes = firewall("apply", path, "--json").json["notes"]
    assert sum("is never reached" in note for note in notes) == 1031
    assert not any("xdpfw check" in note for note in notes)


@pytest.mark.parametrize("command", ["apply", "plan"])
def test_set_files_that_look_lost_or_too_wide_are_told(
    firewall: Firewall, write: Callable[[str], Path], tmp_path: Path, command: str
) -> None:
    (tmp_path / "lost.txt").write_text("# gone\n")
    (tmp_path / "wide.txt").write_text("::/0\n")
    sets = "sets: {a: {type: prefix, file: lost.txt}, b: {type: prefix, file: wide.txt}, "
    path = write(POLICY.replace("sets: {", sets))
    wanted = [
        f"set a is empty: {tmp_path / 'lost.txt'} has no entries",
        f"set b has every IPv6 address: an entry of {tmp_path / 'wide.txt'} is too wide",
    ]
    assert [line for line in firewall(command, path).lines if line.startswith("set ") and ":" in line] == wanted
    assert [note for note in firewall(command, path, "--json").json["notes"] if note.startswith("set ")] == wanted


def interrupt_in(monkeypatch: pytest.MonkeyPatch, name: str, *, is_done: bool = False) -> None:
    """Whoever calls the function of this name is interrupted, before it does anything or when it is done."""
    module, _, function = name.rpartition(":")
    parent, _, attribute = function.rpartition(".")
    owner = importlib.import_module(module)
    owner = getattr(owner, parent) if parent else owner
    real = getattr(owner, attribute)

    def interrupted(*arguments: object, **options: object) -> None:
        if is_done:
            real(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, attribute, interrupted)


@pytest.mark.parametrize(
    "name",
    [
        "xdpfw.cli.policyfile:load",
        "xdpfw.compiler.image:compile_policy",
        "xdpfw.simulate.policytest:prepare",
        "xdpfw.compiler.lint:never_reached",
    ],
)
def test_an_apply_that_is_interrupted_before_the_switch_says_that_nothing_is_changed(
    firewall: Firewall, applied: Path, write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write(POLICY.replace("80, 443", "80"))
    interrupt_in(monkeypatch, name)
    ran = firewall("apply", applied)
    assert (ran.status, ran.out, ran.err) == (130, "", "interrupted: nothing is changed\n")
    assert firewall("status", "--json").json["generation"] == 1


def test_an_apply_that_is_interrupted_while_it_switches_says_where_to_look(
    firewall: Firewall, applied: Path, write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(POLICY.replace("80, 443", "80"))
    interrupt_in(monkeypatch, "xdpfw.controller:Controller.apply", is_done=True)
    ran = firewall("apply", applied)
    assert (ran.status, ran.err) == (130, "interrupted: xdpfw status tells which policy is in force\n")
    assert firewall("status", "--json").json["generation"] == 2


def test_apply_does_not_confirm_yet(firewall: Firewall, write: Callable[[str], Path]) -> None:
    ran = firewall("apply", write(POLICY), "--confirm", "30s")
    assert (ran.status, ran.err) == (2, "xdpfw: --confirm is not supported yet (leave it out)\n")


def test_apply_without_the_interface_is_the_systems_refusal(firewall: Firewall, write: Callable[[str], Path]) -> None:
    ran = firewall("apply", write(POLICY.replace("veth0", "veth9")))
    assert ran.status == 3
    assert "did you mean veth0?" in ran.err


def test_status(firewall: Firewall, applied: Path) -> None:
    found = firewall("status", "--json").json
    assert (found["instance"], found["generation"], found["policy_file"]) == (firewall.instance, 1, str(applied))
    assert (found["rules"], found["sets"]) == (2, [{"name": "web", "kind": "port", "entries": 2}])
    (interface,) = found["interfaces"]
    assert (interface["name"], interface["mode"], interface["generation"]) == ("veth0", "native", 1)
    assert all(level.keys() == {"used", "capacity"} for level in found["fill"].values())
    text = firewall("status", clock=lambda: time.time() + 7300).out
    assert ", 2 h\n" in text
    assert "\nsets        @web (2 entries)\n" in text


def test_plan(firewall: Firewall, write: Callable[[str], Path]) -> None:
    path = write(POLICY)
    first = firewall("plan", path, "--json").json
    assert first["first"]
    assert {change["kind"] for change in first["rules"]} == {"added"}
    firewall("apply", path)
    assert not firewall("plan", path, "--json").json["changes"]
    assert firewall("plan", path).lines[0] == "nothing would change"
    write(POLICY.replace("443", "8443").replace("comment: everything", "comment: all"))
    changed = firewall("plan", path, "--json").json
    assert changed["sets"] == [{"kind": "changed", "name": "web", "added": 1, "removed": 1}]
    assert changed["rules"] == [
        {
            "kind": "changed",
            "name": "seen",
            "before": "match all → count # everything",
            "after": "match all → count # all",
        }
    ]
    assert firewall("plan", path).lines[:3] == [
        "what  change   name",
        "rule  changed  seen  match all → count # everything  =>  match all → count # all",
        "set   changed  web   +1 -1 entries",
    ]


def send(pair: Pair, count: int) -> None:
    """UDP datagrams into ``pair.name``, through the kernel of the other end."""
    code = (
        "import socket, sys\n"
        "with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:\n"
        "    raw.bind((sys.argv[1], 0))\n"
        "    for _ in range(int(sys.argv[2])): raw.send(bytes(12) + b'\\x88\\xb5' + bytes(46))"
    )
    with namespace(pair.peer_namespace):
        subprocess.run([sys.executable, "-c", code, pair.peer, str(count)], check=True, timeout=30)


def dropped_by_default(firewall: Firewall) -> int:
    packets = firewall("stats", "--json").json["reasons"]["default"]["packets"]
    assert isinstance(packets, int)
    return packets


def test_stats(firewall: Firewall, applied: Path) -> None:
    before = dropped_by_default(firewall)
    send(firewall.pair, 5)
    assert dropped_by_default(firewall) >= before + 5
    found = firewall("stats", "--json").json
    assert [rule["name"] for rule in found["rules"]] == ["seen", "web"]
    assert found["verdicts"].keys() == {"pass", "drop", "tx", "redirect"}
    assert found["interfaces"].keys() == {"veth0"}
    assert [row["name"] for row in found["sets"]] == ["@web", "(no set)"]
    assert sum(row["packets"] for row in found["sets"]) == sum(row["packets"] for row in found["verdicts"].values())
    lines = firewall("stats").lines
    assert lines[0].split() == ["rule", "action", "packets", "bytes", "comment"]
    assert lines[1].split()[:2] == ["seen", "count"]
    for by, title in (("reason", "reason"), ("interface", "interface"), ("set", "set")):
        assert firewall("stats", "--by", by).lines[0].split()[0] == title


@pytest.mark.parametrize("terminal", [False, True])
def test_watching_shows_rates_until_it_is_interrupted(firewall: Firewall, applied: Path, terminal: bool) -> None:
    now = 1000.0
    naps = 0

    def nap(seconds: float) -> None:
        nonlocal now, naps
        naps += 1
        if naps == 2:
            raise KeyboardInterrupt
        send(firewall.pair, 20)
        now += 2

    ran = firewall("stats", "--watch", "--by", "reason", clock=lambda: now, sleep=nap, terminal=terminal)
    assert ran.status == 0
    assert "packets/s" in ran.out
    (line,) = (line for line in ran.lines if line.split()[:1] == ["default"] and len(line.split()) == 7)
    assert int(line.split()[4]) >= 10


def test_a_table_fits_the_terminal(firewall: Firewall, applied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "4")
    lines = firewall("stats", terminal=True).lines
    assert max(map(len, lines)) <= 40
    (seen,) = (line.split() for line in lines if line.startswith("seen"))
    assert seen[1] == "count"
    assert seen[-1].endswith("…")
    lines = firewall("stats", "--watch", terminal=True, sleep=interrupt).lines
    assert [line.split()[0] for line in lines if line.split()[:1] in (["seen"], ["web"], ["(default)"])] == ["seen"]
    assert re.search("[0-9] more rows than this", " ".join(lines))


def test_watching_in_json_is_a_line_a_sample(firewall: Firewall, applied: Path) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    ran = firewall("stats", "--watch", "--json", sleep=interrupt)
    assert len(ran.lines) == 1
    assert ran.json["rules"][0]["name"] == "seen"


def test_detach(firewall: Firewall, applied: Path) -> None:
    ran = firewall("detach", "--json")
    assert ran.json == {"detached": {firewall.instance: ["veth0"]}}
    assert firewall("status").status == 1


def test_detaching_all_and_one_is_a_contradiction(run: Run) -> None:
    ran = run("detach", "--all", "--instance", "some")
    assert ran.status == 2
    assert "--all and --netns or --instance do not go together" in ran.err


def test_the_instance_is_named_after_the_namespace(run: Run, veth: Pair, write: Callable[[str], Path]) -> None:
    path = write(POLICY)
    try:
        assert run("apply", path, "--netns", veth.namespace).status == 0
        assert run("status", "--netns", veth.namespace, "--json").json["instance"] == veth.namespace
    finally:
        assert run("detach", "--netns", veth.namespace).lines == [f"instance {veth.namespace} is gone from veth0"]


@pytest.mark.parametrize("command", ["stats", "status"])
def test_stats_and_status_import_nothing_slow(firewall: Firewall, applied: Path, command: str) -> None:
    assert not imported(command, "--instance", firewall.instance) & SLOW_IMPORTS
