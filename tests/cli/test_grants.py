# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: F811 fixtures of another module
"""xdpfw grants, and what status says of grants, in maps that are written by hand."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.cli import knocking as setting
from tests.cli.knocking import ADMIN, ALICE, BOB, IPV4, IPV6, LAPTOP, NS, SSH, Knocking
from tests.cli.test_in_force import Firewall, applied, firewall  # noqa: F401
from xdpfw.cli.output import span_text
from xdpfw.kernel import abi
from xdpfw.kernel import state as kernel_state
from xdpfw.kernel.state import Grant, State, boot_ns
from xdpfw.observe.events import EndCause, EventStream

pytestmark = pytest.mark.needs("privileges", "data plane", "bpffs")


@pytest.fixture
def knocking(firewall: Firewall, applied: Path) -> Iterator[Knocking]:
    yield from setting.knocking(firewall)


def ends(knocking: Knocking) -> list[tuple[str | None, str | None, tuple[str, ...] | None]]:
    """What the event stream says of grants that were ended."""
    with EventStream(knocking.pins) as stream:
        events = stream.take()
    assert {event.cause for event in events} <= {EndCause.REVOKED}
    return [(event.source, event.knock, event.services) for event in events]


def test_grants_say_who_holds_what_until_when(knocking: Knocking) -> None:
    knocking.grant(SSH, ALICE & ~0xFF, prefix_bits=24, left_s=100)
    knocking.grant(ADMIN, BOB, left_s=50, key=LAPTOP, key_number=1)
    knocking.grant(SSH, BOB, left_s=-1)  # expired, and not swept yet
    first, second = knocking("grants", "--json").json["grants"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first.pop("until"))
    assert 90 < first.pop("remaining_s") <= 100
    assert first == {
        "source": "198.51.100.0/24",
        "knock": "ssh",
        "knock_id": SSH.id,
        "services": ["22/tcp", "443/tcp"],
        "key": None,
        "key_id": None,
    }
    assert (second["source"], second["knock"], second["key"], second["key_id"]) == ("2001:db8::7", "admin", "laptop", 1)
    lines = knocking("grants").lines
    assert lines[0].split() == ["source", "knock", "services", "until", "remaining", "key"]
    assert re.fullmatch(r"198\.51\.100\.0/24  ssh    22/tcp, 443/tcp  [\d :-]+ 1 min \d+ s  -", lines[1])
    assert lines[2].endswith("laptop")
    assert len(lines) == 3


def test_services_that_last_longer_have_a_row_of_their_own(knocking: Knocking) -> None:
    knocking.grant(SSH, left_s=50)
    until_ns = boot_ns() + 100 * NS
    for entry in knocking.state.list_grants():
        if entry.port in (443, 0):
            knocking.state.put_grant(entry._replace(until_ns=until_ns))
    assert [grant["services"] for grant in knocking("grants", "--json").json["grants"]] == [["22/tcp"], ["443/tcp"]]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (59.999, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (8 * 3600 - 0.1, "7 h 59 min"),
        (366 * 86400, "366 d 0 h"),
        (90000, "1 d 1 h"),
    ],
)
def test_what_remains_is_told_in_its_two_largest_units(seconds: float, shown: str) -> None:
    assert span_text(int(seconds * NS)) == shown


def test_grants_and_events_agree_on_when_a_grant_ends(knocking: Knocking, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes to read the grants; here, both clocks go on by 100 s."""
    until_ns = boot_ns() + 1000 * NS
    knocking.state.put_grant(Grant(IPV4, ALICE, 32, SSH.id, 6, 22, until_ns, until_ns))
    listed, passed, wall_ns = State.list_grants, [0], time.time_ns

    def slow(state: State) -> list[Grant]:
        passed[0] += 100 * NS
        return listed(state)

    boot = kernel_state.boot_ns
    monkeypatch.setattr(State, "list_grants", slow)
    monkeypatch.setattr(kernel_state, "boot_ns", lambda: boot() + passed[0])
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + passed[0])
    (grant,) = knocking("grants", "--json").json["grants"]
    until = datetime.fromisoformat(grant["until"]).timestamp()
    assert passed[0]
    assert abs(until - (wall_ns() - boot() + until_ns) / NS) < 50


def test_a_knock_that_is_no_more_has_no_name(knocking: Knocking) -> None:
    gone = setting.KnockMeta("gone", 999, "", 1, ("25/tcp",))
    knocking.grant(gone)
    (grant,) = knocking("grants", "--json").json["grants"]
    assert (grant["knock"], grant["knock_id"], grant["services"]) == (None, 999, ["25/tcp"])
    assert "(removed knock)" in knocking("grants").out


def test_nobody_holds_a_grant(knocking: Knocking, firewall: Firewall) -> None:
    assert knocking("grants").lines == ["nobody holds a grant"]
    assert knocking("grants", "--json").json == {"grants": [], "capacity": abi.Limit.MAX_GRANTS, "refused": 0}
    ran = knocking.revoke("--all")
    assert (ran.status, ran.lines) == (1, ["there is no such grant"])


def test_without_state_nobody_holds_a_grant(firewall: Firewall, applied: Path) -> None:
    assert firewall("grants").lines == ["nobody holds a grant"]
    assert firewall("grants", "revoke", "--all").status == 1


def test_where_nothing_is_in_force_there_are_no_grants(firewall: Firewall) -> None:
    for arguments in ([], ["revoke", "--all"]):
        ran = firewall("grants", *arguments)
        assert (ran.status, ran.out) == (1, "")
        assert ran.err == f"xdpfw: instance {firewall.instance} has no firewall in force (xdpfw apply RULES)\n"


@pytest.mark.parametrize(
    ("arguments", "revoked"),
    [
        (["198.51.100.7"], {("198.51.100.7", "ssh")}),
        (["2001:db8::/32"], {("2001:db8::7", "ssh"), ("2001:db8::7", "admin")}),
        (["198.51.100.0/24", "2001:db8::7", "--knock", "ssh"], {("198.51.100.7", "ssh"), ("2001:db8::7", "ssh")}),
        (["--knock", "admin"], {("2001:db8::7", "admin")}),
        (["--key", "laptop"], {("2001:db8::7", "admin")}),
        (["--key", "laptop", "--knock", "ssh"], set()),
        (["--all"], {("198.51.100.7", "ssh"), ("2001:db8::7", "ssh"), ("2001:db8::7", "admin")}),
        (["192.0.2.1"], set()),
    ],
)
def test_revoke_ends_what_fits_and_notes_it(
    knocking: Knocking, arguments: list[str], revoked: set[tuple[str, str]]
) -> None:
    knocking.grant(SSH, ALICE)
    knocking.grant(SSH, BOB)
    knocking.grant(ADMIN, BOB, key=LAPTOP, key_number=1)
    before = len(knocking.state.list_grants())
    ran = knocking.revoke(*arguments, "--json")
    assert ran.status == (0 if revoked else 1)
    assert {(grant["source"], grant["knock"]) for grant in ran.json["revoked"]} == revoked
    sizes = {"ssh": 3, "admin": 2}
    assert len(knocking.state.list_grants()) == before - sum(sizes[knock] for _, knock in revoked)
    told = ends(knocking)
    assert {(source, knock) for source, knock, _ in told} == revoked
    assert len(told) == len(revoked)
    assert knocking.revoke(*arguments).status == 1


def test_revoke_tells_what_it_ended(knocking: Knocking) -> None:
    knocking.grant(SSH, ALICE)
    ran = knocking.revoke("--all")
    assert ran.lines[0].split() == ["source", "knock", "revoked", "until", "remaining", "key"]
    assert ran.lines[1].startswith("198.51.100.7  ssh    22/tcp, 443/tcp")


def test_an_address_ends_the_grant_of_its_prefix(knocking: Knocking) -> None:
    knocking.grant(SSH, ALICE & ~0xFF, prefix_bits=24)
    assert knocking.revoke("198.51.100.9").status == 0
    assert knocking.state.list_grants() == []


def test_options_may_stand_behind_revoke(knocking: Knocking) -> None:
    knocking.grant(SSH, ALICE)
    assert knocking("grants", "revoke", "198.51.100.7").status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing says which grants (a SOURCE, --knock, --key or --all does)"),
        (["--all", "--knock", "ssh"], "--all and a SOURCE, --knock or --key do not go together"),
        (["--knock", "shh"], "--knock shh: the policy in force has no such knock (it has admin, ssh)"),
        (["--key", "phone"], "--key phone: the policy in force has no such key (it has laptop)"),
        (
            ["10.0.0.1/8"],
            "'10.0.0.1/8' is no address or prefix: 10.0.0.1/8 has host bits set "
            "(the prefix is 10.0.0.0/8; the address alone is 10.0.0.1)",
        ),
        (
            ["edge"],
            "'edge' is no address or prefix: 'edge' does not appear to be an IPv4 or IPv6 network "
            "(as in 198.51.100.7 or 2001:db8::/32)",
        ),
    ],
)
def test_revoke_says_what_is_wrong(knocking: Knocking, arguments: list[str], message: str) -> None:
    knocking.grant(SSH, ALICE)
    ran = knocking.revoke(*arguments)
    assert (ran.status, ran.out, ran.err) == (2, "", f"xdpfw: {message}\n")
    assert len(knocking.state.list_grants()) == 3


def test_revoke_keeps_out_of_another_s_way(knocking: Knocking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xdpfw.kernel.pins.SHORT_CHANGE_S", 0.1)
    knocking.grant(SSH, ALICE)
    with knocking.pins.lock():
        ran = knocking.revoke("--all")
    assert (ran.status, ran.out) == (3, "")
    assert "Resource temporarily unavailable" in ran.err
    assert len(knocking.state.list_grants()) == 3


# --- status ---


def test_status_tells_of_grants_and_failures(knocking: Knocking) -> None:
    knocking.grant(SSH, ALICE)
    knocking.grant(SSH, BOB, left_s=-5)
    shared = abi.unpack("shared", knocking.state.shared.read(0))
    shared.grants_refused = 4
    knocking.state.shared.write(0, abi.to_bytes(shared))
    slots = [0] * abi.Limit.MARKER_SLOTS
    slots[9] = ((boot_ns() >> abi.Marker.SHIFT) + 100) & 0xFFFFFFFF
    knocking.state.markers.write(0, abi.pack("markers", {"slots": slots}))
    for slot in range(7):
        value = {"prefix": (0x0A000000 + (slot << 8)) << 32, "family": IPV4, "packets": slot + 1, "last_wall_ns": NS}
        knocking.state.spa_failures.write(slot, abi.pack("spa_failures", value))
    value = {"prefix": 0x20010DB8_00000000, "family": IPV6, "packets": 1000, "last_wall_ns": 3 * NS}
    knocking.state.spa_failures.write(9, abi.pack("spa_failures", value))
    status = knocking("status", "--json").json
    assert (status["knocks"], status["notes"]) == (["ssh", "admin"], [])
    failures = status["knocking"].pop("spa_failures")
    assert status["knocking"] == {"grants": {"used": 3, "capacity": 65536, "refused": 4}, "half_done": 1}
    assert status["fill"]["grants"] == {"used": 3, "capacity": 65536}
    assert failures[0] == {"prefix": "2001:db8::/64", "packets": 1000, "last": "1970-01-01T00:00:03.000000Z"}
    assert [failure["prefix"] for failure in failures[1:]] == [f"10.0.{part}.0/24" for part in (6, 5, 4, 3)]
    out = knocking("status").out
    assert "\nknocks      ssh, admin\n" in out
    assert "\ngrants      3 of 65536, 4 refused as there was no room\n" in out
    assert "\nhalf done   1 source\n" in out
    assert "\nnot let in  1000 from 2001:db8::/64; 7 from 10.0.6.0/24; " in out


def test_status_without_knocks_says_nothing_of_them(firewall: Firewall, applied: Path) -> None:
    status = firewall("status", "--json").json
    assert (status["knocks"], status["knocking"]) == ([], None)
    assert "grants" not in firewall("status").out


@pytest.mark.parametrize("command", ["status", "grants", "events"])
def test_the_offset_of_tai_is_kept_fresh(knocking: Knocking, command: str) -> None:
    right = knocking.state.read_shared().tai_offset_ns
    knocking.state.set_tai_offset(right - 37 * NS)
    ran = knocking(command)
    assert knocking.state.read_shared().tai_offset_ns == right
    told = "the time that SPA and rotating knocks go by was 37 s ahead, as the offset of TAI has changed since"
    assert (told in ran.out) == (command == "status")
    assert told not in knocking(command).out
