# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811 fixtures of another module
"""xdpfw set, ban, unban and bans, in maps of the kernel and with test packets of none; and apply, which keeps them."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_in_force import Firewall, firewall  # noqa: F401
from xdpfw.compiler import ir
from xdpfw.errors import KernelError
from xdpfw.kernel import abi
from xdpfw.kernel.interface import Link
from xdpfw.kernel.members import MemberSet, keys_of
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.sets import make_set, members_at
from xdpfw.kernel.state import State, boot_ns
from xdpfw.observe import metadata
from xdpfw.observe.events import EventStream

pytestmark = pytest.mark.needs("privileges", "data plane", "bpffs")

MAIN = "from xdpfw.cli import main; main()"
POLICY = """\
version: 1
interfaces: {veth0: {}}
default: drop
sets:
  guests: {type: prefix, dynamic: true, size: 100, timeout: 1h}
  few: {type: prefix, dynamic: true, size: 4}
  fixed: {type: prefix, elements: [192.0.2.0/24]}
never_ban: [10.0.0.0/8, '@few']
rules:
  - {name: guests, match: {src: ['@guests', '@fixed']}, action: pass}
"""


@pytest.fixture
def applied(firewall: Firewall, write: Callable[[str], Path]) -> Path:
    path = write(POLICY)
    ran = firewall("apply", path)
    assert ran.status == 0, ran.err
    return path


def pins(firewall: Firewall) -> Pins:
    return Pins(firewall.instance)


def prefixes(firewall: Firewall, name: str) -> list[str]:
    return [entry["prefix"] for entry in firewall("set", "list", name, "--json").json["entries"]]


def slots(firewall: Firewall) -> dict[str, int]:
    directory = pins(firewall)
    meta = metadata.read(directory.generation(max(directory.generations())))
    return {each.name: each.slot for each in meta.dynamic_sets}


def test_entries_are_put_in_listed_and_taken_out(firewall: Firewall, applied: Path) -> None:
    assert firewall("set", "list", "guests").lines == ["guests is empty"]
    ran = firewall("set", "add", "guests", "198.51.100.7", "2001:db8::/32", "10.0.0.0/8", "--timeout", "10m", "--json")
    assert (ran.status, ran.json["added"], ran.json["renewed"]) == (0, 3, 0)
    assert prefixes(firewall, "guests") == ["10.0.0.0/8", "198.51.100.7", "2001:db8::/32"]
    first, *_ = firewall("set", "list", "guests", "--json").json["entries"]
    assert 590 < first.pop("remaining_s") <= 600
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first.pop("until"))
    first.pop("since")
    assert first == {"prefix": "10.0.0.0/8", "permanent": False, "by": "command"}
    lines = firewall("set", "list", "guests").lines
    assert lines[0].split() == ["prefix", "since", "until", "remaining", "by"]
    assert len(lines) == 4
    assert firewall("set", "del", "guests", "10.0.0.0/8", "10.0.0.1").lines == [
        "guests: 1 entry deleted, 1 entry not there"
    ]
    assert firewall("set", "del", "guests", "10.0.0.0/8").status == 1
    assert firewall("set", "flush", "guests", "--json").json == {"set": "guests", "deleted": 2}
    assert prefixes(firewall, "guests") == []


def test_a_time_is_the_commands_else_the_sets_else_none(firewall: Firewall, applied: Path) -> None:
    firewall("set", "add", "guests", "198.51.100.7")
    firewall("set", "add", "guests", "198.51.100.8", "--timeout", "never")
    firewall("set", "add", "few", "198.51.100.7")
    first, second = firewall("set", "list", "guests", "--json").json["entries"]
    assert 3590 < first["remaining_s"] <= 3600
    assert (second["permanent"], second["until"], second["remaining_s"]) == (True, None, None)
    assert firewall("set", "list", "few", "--json").json["entries"][0]["permanent"]
    ran = firewall("set", "add", "guests", "198.51.100.7", "198.51.100.8", "--timeout", "1m", "--json")
    assert (ran.json["added"], ran.json["renewed"]) == (0, 2)
    assert all(entry["remaining_s"] <= 60 for entry in firewall("set", "list", "guests", "--json").json["entries"])


def test_what_is_over_is_not_listed_and_makes_room(firewall: Firewall, applied: Path) -> None:
    firewall("set", "add", "few", "10.0.0.1", "10.0.0.2", "10.0.0.3", "--timeout", "1ms")
    firewall("set", "add", "few", "10.0.0.4")
    assert prefixes(firewall, "few") == ["10.0.0.4"]
    ran = firewall("set", "add", "few", "10.0.0.1", "10.0.0.6", "--json")
    assert (ran.status, ran.json["added"], ran.json["refused"]) == (0, 2, 0)
    assert prefixes(firewall, "few") == ["10.0.0.1", "10.0.0.4", "10.0.0.6"]


def test_a_full_set_takes_what_it_can_and_says_so(firewall: Firewall, applied: Path) -> None:
    ran = firewall("set", "add", "few", *(f"10.0.0.{number}" for number in range(6)), "--json")
    assert (ran.status, ran.json["added"], ran.json["refused"]) == (1, 4, 2)
    ran = firewall("set", "add", "few", "10.0.9.9")
    assert ran.status == 1
    assert "few is full: no room for 1 entry" in ran.err
    assert firewall("set", "add", "few", prefixes(firewall, "few")[0]).status == 0  # it is there already


def test_what_rules_have_put_in_gives_way_to_commands(firewall: Firewall, applied: Path) -> None:
    slot = slots(firewall)["few"]
    with State.open(pins(firewall).state) as state:
        members = MemberSet.open(state, slot)
        assert members is not None
        with members:
            members.add(keys_of((abi.Family.IPV4, number, 32) for number in range(4)), 0, boot_ns())
        by_rule = abi.pack("member", [0, boot_ns(), abi.SetOrigin.RULE])
        found = members_at(state.dynamic_sets, slot)
        assert found is not None
        for key, _ in [*found.items()]:
            found.write(key, by_rule)
    assert {entry["by"] for entry in firewall("set", "list", "few", "--json").json["entries"]} == {"rule"}
    ran = firewall("set", "add", "few", "10.0.0.1", "--json")
    assert (ran.status, ran.json["added"], ran.json["displaced"]) == (0, 1, 1)
    assert len(prefixes(firewall, "few")) == 4


def test_bans_and_their_events(firewall: Firewall, applied: Path) -> None:
    assert firewall("ban", "198.51.100.7", "2001:db8::/64").lines == ["bans: 2 entries added"]
    assert firewall("ban", "198.51.100.7", "--timeout", "1h").lines == ["bans: 0 entries added, 1 entry renewed"]
    firewall("set", "add", "guests", "192.0.2.9")
    assert firewall("unban", "2001:db8::/64").status == 0
    assert firewall("unban", "2001:db8::/64").status == 1
    assert prefixes(firewall, "bans") == ["198.51.100.7"]
    assert firewall("bans", "--json").json["size"] == abi.SetLimit.BANS_SIZE
    with EventStream(pins(firewall)) as stream:
        found = [(event.event.value, event.set, event.source) for event in stream.take()]
    assert sorted(found) == [
        ("ban", "bans", "198.51.100.7"),
        ("ban", "bans", "2001:db8::/64"),
        ("set-add", "guests", "192.0.2.9"),
        ("unban", "bans", "2001:db8::/64"),
    ]
    told = firewall("events").lines
    assert len(told) == 4


def test_a_ban_without_effect_is_told(firewall: Firewall, applied: Path) -> None:
    ran = firewall("ban", "10.1.2.3", "10.0.0.0/7", "198.51.100.7", "--json")
    assert ran.json["without_effect"] == ["10.1.2.3"]
    firewall("set", "add", "few", "198.51.100.0/24")
    ran = firewall("ban", "198.51.100.7", "198.51.0.0/16")
    assert ran.status == 0
    assert ran.err == "198.51.100.7: the policy's never_ban has it, so that this ban has no effect\n"


def test_a_ban_of_ones_own_ssh_session_takes_force(
    firewall: Firewall, applied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.7 40000 203.0.113.1 22")
    for prefix in ("198.51.100.7", "198.51.100.0/24"):
        ran = firewall("ban", prefix)
        assert (ran.status, "--force" in ran.err) == (2, True)
    assert prefixes(firewall, "bans") == []
    assert firewall("ban", "198.51.100.8").status == 0
    assert firewall("ban", "198.51.100.7", "--force").status == 0


def test_a_ban_around_an_ssh_session_that_is_never_banned_takes_no_force(
    firewall: Firewall, applied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.1.2.3 40000 203.0.113.1 22")
    assert firewall("ban", "10.0.0.0/7").status == 0
    # Entries of the dynamic sets in never_ban may be gone before the ban is.
    firewall("set", "add", "few", "198.51.100.7")
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.7 40000 203.0.113.1 22")
    assert firewall("ban", "198.51.100.0/24").status == 2


def test_a_ban_of_everybody_takes_force_and_is_told_with_its_length(
    firewall: Firewall, applied: Path, tmp_path: Path
) -> None:
    everybody = tmp_path / "everybody.txt"
    everybody.write_text("192.0.2.1\n::/0\n")
    for arguments in (["0.0.0.0/0"], ["192.0.2.1", "::/0"], ["--file", str(everybody)]):
        ran = firewall("ban", *arguments)
        assert (ran.status, "would ban every address of its family (--force" in ran.err) == (2, True), ran.err
    assert prefixes(firewall, "bans") == []
    assert firewall("ban", "0.0.0.0/0", "::/0", "--force").status == 0
    assert firewall("unban", "::/0").status == 0
    assert firewall("set", "add", "guests", "0.0.0.0/0").status == 0
    with EventStream(pins(firewall)) as stream:
        found = sorted((event.event.value, event.source) for event in stream.take())
    assert found == [("ban", "0.0.0.0/0"), ("ban", "::/0"), ("set-add", "0.0.0.0/0"), ("unban", "::/0")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["ban", "10.0.0.1/8"],
            "10.0.0.1/8 has host bits set (the prefix is 10.0.0.0/8; the address alone is 10.0.0.1)",
        ),
        (["ban", "10.0.0.1-10.0.0.2"], "10.0.0.1-10.0.0.2 is no prefix, and dynamic sets hold nothing else"),
        (["ban", "example.org"], "example.org is not an address"),
        (["ban", "@few"], "@few is a set, and not an entry of one"),
        (["ban"], "nothing says which entries"),
        (["ban", "10.0.0.1", "--timeout", "1x"], "--timeout "),
        (["ban", "10.0.0.1", "--timeout", "forever"], '7d ("never" keeps it for good)'),
        (["ban", "10.0.0.1", "--timeout", "0s"], "--timeout 0"),
        (["set", "add", "nosuch", "10.0.0.1"], "dynamic set nosuch: is not in the policy in force"),
        (["set", "list", "fixed"], "dynamic set fixed: is in the policy, which alone says what is in it"),
        (["ban", "--file", "/nonexistent"], "cannot read /nonexistent"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(
    firewall: Firewall, applied: Path, arguments: list[str], message: str
) -> None:
    ran = firewall(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert prefixes(firewall, "bans") == []


def test_a_file_is_read_whole_or_its_lines_are_told(firewall: Firewall, applied: Path, tmp_path: Path) -> None:
    file = tmp_path / "addresses"
    file.write_text("# bad ones\n198.51.100.7\n\n2001:db8::/32 ; a net\n198.51.100.7\n")
    assert firewall("ban", "--file", file).lines == ["bans: 2 entries added"]
    file.write_text("198.51.100.7\n10.0.0.1/8\n10.0.0.0-10.0.0.2\n")
    ran = firewall("unban", "--file", file)
    assert ran.status == 2
    assert ran.err.splitlines()[0].startswith(f"{file}:2:1: 10.0.0.1/8 has host bits set")
    assert ran.err.splitlines()[1].startswith(f"{file}:3:1: 10.0.0.0-10.0.0.2 is no prefix")
    assert len(prefixes(firewall, "bans")) == 2


def test_standard_input(firewall: Firewall, applied: Path) -> None:
    program = [sys.executable, "-c", MAIN, "ban", "--file", "-", "--instance", firewall.instance]
    subprocess.run(program, input=b"198.51.100.7\n198.51.100.8\n", check=True, timeout=60, capture_output=True)
    assert len(prefixes(firewall, "bans")) == 2


def test_many_entries_from_a_file(firewall: Firewall, applied: Path, tmp_path: Path) -> None:
    file = tmp_path / "many"
    file.write_text("\n".join(f"{a}.{b}.{c}.1" for a in (5, 6) for b in range(100) for c in range(250)) + "\n")
    assert firewall("ban", "--file", file, "--json").json["added"] == 50_000
    assert firewall("ban", "--file", file, "--json").json["renewed"] == 50_000
    file.write_text(file.read_text() + "7.0.0.1\n")
    assert firewall("ban", "--file", file, "--timeout", "1d", "--json").json["added"] == 1
    assert firewall("unban", "--file", file, "--json").json == {"set": "bans", "deleted": 50_001, "missing": 0}
    with EventStream(pins(firewall)) as stream:
        events = stream.take()
    assert sum(1 + (event.suppressed or 0) for event in events if event.event.value == "ban") == 50_001


def test_entries_stay_when_policies_change(firewall: Firewall, applied: Path, write: Callable[[str], Path]) -> None:
    firewall("ban", "198.51.100.7")
    firewall("set", "add", "guests", "198.51.100.8")
    firewall("set", "add", "few", "198.51.100.9")
    before = slots(firewall)
    changed = POLICY.replace("few:", "other:").replace("'@few'", "'@other'").replace("size: 100", "size: 5000")
    assert firewall("apply", write(changed)).status == 0
    after = slots(firewall)
    assert (prefixes(firewall, "bans"), prefixes(firewall, "guests")) == (["198.51.100.7"], ["198.51.100.8"])
    assert prefixes(firewall, "other") == []
    assert (after["bans"], after["guests"]) == (before["bans"], before["guests"])
    assert after["other"] != before["few"]  # while both policies were there
    assert firewall("set", "list", "guests", "--json").json["size"] == 5000
    assert firewall("set", "list", "few").status == 2
    assert firewall("apply", write(POLICY)).status == 0
    assert prefixes(firewall, "few") == []
    assert prefixes(firewall, "guests") == ["198.51.100.8"]
    with State.open(pins(firewall).state) as state:
        used = {slot for slot in range(state.dynamic_sets.max_entries) if MemberSet.open(state, slot) is not None}
    assert used == set(slots(firewall).values())


def test_a_size_below_the_entries_is_refused(firewall: Firewall, applied: Path, write: Callable[[str], Path]) -> None:
    firewall("set", "add", "guests", *(f"10.0.0.{number}" for number in range(10)))
    ran = firewall("apply", write(POLICY.replace("size: 100", "size: 9")))
    assert ran.status == 2
    assert "dynamic set guests: 10 members, and a size of 9" in ran.err
    assert len(prefixes(firewall, "guests")) == 10
    assert firewall("apply", write(POLICY.replace("size: 100", "size: 10"))).status == 0
    assert len(prefixes(firewall, "guests")) == 10
    assert firewall("set", "add", "guests", "10.0.1.1").status == 1


def test_plan_foresees_what_becomes_of_entries(firewall: Firewall, applied: Path, write: Callable[[str], Path]) -> None:
    firewall("set", "add", "guests", *(f"10.0.0.{number}" for number in range(10)))
    assert firewall("plan", applied).lines == ["nothing would change"]
    fewer = firewall("plan", write(POLICY.replace("size: 100", "size: 9")), "--json")
    refusal = "dynamic set guests: 10 members, and a size of 9 (a larger size, or xdpfw set flush guests)"
    assert (fewer.status, fewer.json["notes"]) == (0, [f"apply would refuse: {refusal}"])
    assert firewall("plan", write(POLICY.replace("size: 100", "size: 10")), "--json").json["notes"] == []
    other = POLICY.replace("few:", "other:").replace("'@few'", "'@other'")
    assert firewall("plan", write(other), "--json").json["notes"] == []  # it has no entries
    firewall("set", "add", "few", "198.51.100.9", "--timeout", "1ms")
    firewall("set", "add", "few", "198.51.100.7", "198.51.100.8")
    assert firewall("plan", write(other), "--json").json["notes"] == [
        "apply would end dynamic set few, and with it entries that are live: 2"
    ]


def test_a_switch_that_fails_leaves_sets_as_they_were(
    firewall: Firewall, applied: Path, write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    firewall("set", "add", "few", "198.51.100.9")
    before = slots(firewall)

    def refuse(*_: object) -> None:
        raise KernelError("replace", "the program", errno.EIO)

    with monkeypatch.context() as patched:
        patched.setattr(Link, "replace", refuse)
        changed = POLICY.replace("few:", "other:").replace("'@few'", "'@other'").replace("size: 100", "size: 5000")
        assert firewall("apply", write(changed)).status == 3
    assert slots(firewall) == before
    assert prefixes(firewall, "few") == ["198.51.100.9"]
    assert firewall("set", "list", "guests", "--json").json["size"] == 100
    with State.open(pins(firewall).state) as state:
        used = {slot for slot in range(state.dynamic_sets.max_entries) if MemberSet.open(state, slot) is not None}
    assert used == set(before.values())


def test_what_a_killed_apply_left_is_taken_up(firewall: Firewall, applied: Path, write: Callable[[str], Path]) -> None:
    with State.open(pins(firewall).state) as state:
        make_set(state.set_heads, state.dynamic_sets, 17, 10)  # before its switch
    assert firewall("apply", applied).status == 0
    with State.open(pins(firewall).state) as state:
        assert MemberSet.open(state, 17) is None


def test_status_says_how_full_sets_are(firewall: Firewall, applied: Path) -> None:
    firewall("set", "add", "few", "10.0.0.1", "2001:db8::/32")
    fill = firewall("status", "--json").json["fill"]
    assert fill["entries of few"] == {"used": 2, "capacity": 4}
    assert fill["entries of bans"] == {"used": 0, "capacity": abi.SetLimit.BANS_SIZE}


def test_nothing_in_force_is_status_1(firewall: Firewall) -> None:
    for arguments in (["bans"], ["ban", "10.0.0.1"], ["unban", "10.0.0.1"], ["set", "flush", "bans"]):
        assert firewall(*arguments).status == 1
    assert not pins(firewall).root.exists()


def test_another_command_that_is_at_it_is_waited_for(firewall: Firewall, applied: Path) -> None:
    program = [sys.executable, "-c", MAIN, "ban", "198.51.100.7", "--instance", firewall.instance]
    with pins(firewall).lock():
        waiting = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=2)
    assert waiting.wait(timeout=60) == 0
    assert prefixes(firewall, "bans") == ["198.51.100.7"]


def test_the_reference_has_room_for_as_many_bans() -> None:
    from xdpfw.reference.sets import BANS_SIZE

    assert abi.SetLimit.BANS_SIZE == BANS_SIZE
    assert ir.BANS == "bans"
