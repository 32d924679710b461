# SPDX-License-Identifier: GPL-2.0-or-later
"""The event stream, from rings that are written by hand as the program writes them."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.kernel.state_maps import record_in_kernel, state_maps
from xdpfw.kernel import abi
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.ring import EventRecord
from xdpfw.kernel.state import STATE_MAPS, Grant, State, boot_ns
from xdpfw.observe import metadata, names
from xdpfw.observe.events import Event, EventKind, EventStream, rfc3339
from xdpfw.observe.metadata import InterfaceMeta, KeyMeta, KnockMeta, Metadata, RuleMeta

pytestmark = pytest.mark.needs("privileges", "libbpf", "mmapable arrays", "bpffs")

SOURCE: Final = 0xC6336407  # 198.51.100.7
DESTINATION: Final = 0xCB007101  # 203.0.113.1
IPV4, IPV6 = int(abi.Family.IPV4), int(abi.Family.IPV6)
NS: Final = 1_000_000_000
UNIT: Final = 10_000_000
"""Of time, in ns: so short that a hundred of them have gone by since the machine was booted."""
SLOTS: Final = 16

SSH: Final = KnockMeta("ssh", 111, "ssh: ...", 3, ("22/tcp", "443/tcp"))
ADMIN: Final = KnockMeta("admin", 222, "admin: ...", 0, ("22/tcp",), (KeyMeta(1, "laptop", 0xABC),))
META: Final = Metadata(
    policy_file="/etc/p.yaml",
    source_digest="",
    rules_digest="",
    image_digest="",
    program_digest="",
    applied_at=0.0,
    netns=None,
    interfaces=(InterfaceMeta("eth0", 2, "auto"), InterfaceMeta("eth1", 3, "auto")),
    targets=(),
    rules=(RuleMeta("web", "pass", "", None, ()), RuleMeta("late", "drop", "", None, ())),
    sets=(),
    knocks=(SSH, ADMIN),
)
PACKET: Final[dict[str, int]] = {
    "generation": 1,
    "family": IPV4,
    "source": SOURCE,
    "destination": DESTINATION,
    "protocol": 6,
    "sport": 40000,
    "dport": 7000,
    "interface": 1,
    "bytes": 74,
}


@pytest.fixture
def pins(bpffs: Path) -> Pins:
    made = Pins("test", bpffs)
    directory = made.generation(1)
    directory.mkdir(0o700, parents=True)
    metadata.pin(directory, META, {}, b"")
    return made


@pytest.fixture
def state(pins: Pins) -> Iterator[State]:
    with state_maps(events=SLOTS, notes=SLOTS, progress=1) as made:
        pins.state.mkdir(0o700)
        made.pin(pins.state)
        yield made


@pytest.fixture
def stream(pins: Pins, state: State) -> Iterator[EventStream]:
    with EventStream(pins) as opened:
        yield opened


@pytest.fixture
def start() -> int:
    """A time that is over: what is recorded in the next 50 units is settled."""
    return boot_ns() - 100 * UNIT


def happened(kind: abi.EventKind, time_ns: int, **members: int) -> EventRecord:
    return EventRecord(int(kind), time_ns, **{**PACKET, **members})


def grant(time_ns: int, units: int, **members: int) -> EventRecord:
    members = {"knock": SSH.id, "prefix_bits": 32, **members}
    return happened(abi.EventKind.EVENT_GRANT, time_ns, duration_ns=units * UNIT, **members)


def kinds(events: list[Event]) -> list[str]:
    return [str(event.cause or event.event) for event in events]


def without_times(event: Event) -> dict[str, Any]:
    found = event.to_json()
    del found["time"]
    return found


def test_times_are_rfc_3339_in_utc() -> None:
    assert rfc3339(1_795_227_187_610_000_999) == "2026-11-21T02:13:07.610000Z"
    assert rfc3339(1_795_227_187_000_000_000) == "2026-11-21T02:13:07.000000Z"


WHERE: Final = {"interface": "eth1", "destination": "203.0.113.1", "proto": "tcp", "sport": 40000, "dport": 7000}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            happened(abi.EventKind.EVENT_STEP, 1, knock=SSH.id, step=2, steps=3),
            {
                "event": "knock-step",
                "knock": "ssh",
                "source": "198.51.100.7",
                "step": 2,
                "steps": 3,
                **WHERE,
                "bytes": 74,
            },
        ),
        (
            happened(abi.EventKind.EVENT_RESET, 1, knock=SSH.id, step=1, steps=3, suppressed=5),
            {
                "event": "knock-reset",
                "knock": "ssh",
                "source": "198.51.100.7",
                "step": 1,
                "steps": 3,
                **WHERE,
                "bytes": 74,
                "suppressed": 5,
            },
        ),
        (
            happened(abi.EventKind.EVENT_GRANT_REFUSED, 1, knock=SSH.id, prefix_bits=24),
            {
                "event": "grant-refused",
                "knock": "ssh",
                "source": "198.51.100.0/24",
                "services": ("22/tcp", "443/tcp"),
                **WHERE,
                "bytes": 74,
            },
        ),
        (
            happened(
                abi.EventKind.EVENT_SPA_FAILURE,
                1,
                knock=ADMIN.id,
                key_number=1,
                service=9,
                protocol=17,
                detail=int(abi.Reason.KNOCK_SPA_FORGED),
            ),
            {
                "event": "spa-failure",
                "knock": "admin",
                "source": "198.51.100.7",
                "service": 9,
                "key": "laptop",
                "key_id": 1,
                "failure": "forged",
                **WHERE,
                "proto": "udp",
                "bytes": 74,
            },
        ),
        (
            happened(abi.EventKind.EVENT_SPA_FAILURE, 1, protocol=17, detail=int(abi.Reason.KNOCK_SPA_UNKNOWN_KEY)),
            {
                "event": "spa-failure",
                "source": "198.51.100.7",
                "failure": "unknown_key",
                **WHERE,
                "proto": "udp",
                "bytes": 74,
            },
        ),
        (
            happened(abi.EventKind.EVENT_RULE, 1, rule=1, detail=int(abi.Verdict.DROP), protocol=47, sport=0, dport=0),
            {
                "event": "rule",
                "source": "198.51.100.7",
                "rule": "late",
                "verdict": "drop",
                "interface": "eth1",
                "destination": "203.0.113.1",
                "proto": 47,
                "bytes": 74,
            },
        ),
        (
            happened(
                abi.EventKind.EVENT_RULE,
                1,
                rule=0,
                family=int(abi.Family.OTHER),
                source=0,
                destination=0,
                protocol=0,
                interface=int(abi.Absent.NO_INTERFACE),
                detail=int(abi.Verdict.PASS),
            ),
            {"event": "rule", "rule": "web", "verdict": "pass", "bytes": 74},
        ),
    ],
    ids=lambda value: None if isinstance(value, EventRecord) else value["event"],
)
def test_an_event_says_what_its_kind_has(
    state: State, stream: EventStream, record: EventRecord, expected: dict[str, Any]
) -> None:
    record_in_kernel(state, record)
    (event,) = stream.take()
    assert without_times(event) == expected
    assert [*event.to_json()][:2] == ["time", "event"]


def test_ipv6_addresses_and_icmp(state: State, stream: EventStream) -> None:
    source = 0x20010DB8 << 96 | 7
    record_in_kernel(
        state,
        happened(abi.EventKind.EVENT_STEP, 1, knock=SSH.id, family=IPV6, source=source, destination=1, protocol=58),
    )
    (event,) = stream.take()
    assert (event.source, event.destination, event.proto, event.dport) == ("2001:db8::7", "::1", "icmpv6", None)


def test_time_is_that_of_the_wall(state: State, stream: EventStream) -> None:
    before = time.time_ns()
    record_in_kernel(state, happened(abi.EventKind.EVENT_STEP, boot_ns()))
    (event,) = stream.take()
    assert before - NS < event.time <= time.time_ns() + NS


def test_a_grant_says_what_it_is_for_and_ends_when_its_time_is_up(
    state: State, stream: EventStream, start: int
) -> None:
    record_in_kernel(state, grant(start, 30, knock=ADMIN.id, key_number=1, service=1))
    first, second = stream.take()
    assert (first.services, first.key, first.key_id, first.service) == (("22/tcp",), "laptop", 1, 1)
    assert first.until is not None
    assert first.until - first.time == 30 * UNIT
    assert second.time == first.until
    assert without_times(second) == {
        "event": "grant-end",
        "knock": "admin",
        "source": "198.51.100.7",
        "services": ("22/tcp",),
        "cause": "expired",
    }


def test_events_and_ends_are_in_order_of_time(state: State, stream: EventStream, start: int) -> None:
    record_in_kernel(state, happened(abi.EventKind.EVENT_STEP, start + 9))  # another CPU was faster
    record_in_kernel(state, grant(start, 10))
    record_in_kernel(state, happened(abi.EventKind.EVENT_RESET, start + 20 * UNIT))
    assert kinds(stream.take()) == ["grant", "knock-step", "expired", "knock-reset"]


def test_a_renewal_extends(state: State, stream: EventStream, start: int) -> None:
    record_in_kernel(state, grant(start, 10))
    record_in_kernel(state, grant(start + 5 * UNIT, 10))
    record_in_kernel(state, grant(start + 6 * UNIT, 1))
    first, second, third, end = stream.take()
    assert kinds([first, second, third, end]) == ["grant", "grant", "grant", "expired"]
    assert (end.time - first.time, third.until) == (15 * UNIT, second.until)


def test_a_renewal_at_the_end_is_a_new_grant(state: State, stream: EventStream, start: int) -> None:
    record_in_kernel(state, grant(start, 10))
    record_in_kernel(state, grant(start + 10 * UNIT, 1))
    assert kinds(stream.take()) == ["grant", "expired", "grant", "expired"]


def test_one_prefix_s_members_share_a_grant(state: State, stream: EventStream, start: int) -> None:
    record_in_kernel(state, grant(start, 10, prefix_bits=24))
    record_in_kernel(state, grant(start + UNIT, 10, prefix_bits=24, source=SOURCE + 1))
    events = stream.take()
    assert kinds(events) == ["grant", "grant", "expired"]
    assert {event.source for event in events} == {"198.51.100.0/24"}


def test_what_was_closed_does_not_expire(state: State, stream: EventStream, start: int) -> None:
    record_in_kernel(state, grant(start, 10))
    record_in_kernel(
        state,
        happened(
            abi.EventKind.EVENT_GRANT_END, start + UNIT, knock=SSH.id, prefix_bits=32, detail=int(abi.GrantEnd.CLOSED)
        ),
    )
    assert kinds(stream.take()) == ["grant", "closed"]


def test_one_service_is_closed_and_the_other_expires(state: State, stream: EventStream, start: int) -> None:
    record_in_kernel(state, grant(start, 10))
    closed = happened(abi.EventKind.EVENT_GRANT_END, start + UNIT, knock=SSH.id, prefix_bits=32, service=1)
    record_in_kernel(state, closed)
    _, end, expired = stream.take()
    assert (end.services, expired.services) == (("22/tcp",), ("443/tcp",))


def test_what_user_space_ended_is_in_the_stream(state: State, stream: EventStream, start: int) -> None:
    record_in_kernel(state, grant(start, 1000))
    entries = [
        Grant(IPV4, SOURCE, 32, SSH.id, protocol, port, start + 1000 * UNIT, start)
        for protocol, port in ((6, 22), (6, 443), (0, 0))
    ]
    for entry in entries:
        state.put_grant(entry)
    assert state.end_grants(entries, abi.GrantEnd.REVOKED, generation=1) == entries
    first, second = stream.take()
    assert kinds([first, second]) == ["grant", "revoked"]
    assert without_times(second) == {
        "event": "grant-end",
        "knock": "ssh",
        "source": "198.51.100.7",
        "services": ("22/tcp", "443/tcp"),
        "cause": "revoked",
    }
    assert state.list_grants() == []


def test_user_space_may_end_one_service(state: State, stream: EventStream, start: int) -> None:
    entries = [Grant(IPV4, SOURCE, 32, SSH.id, 6, port, start + 1000 * UNIT, start, key_number=3) for port in (22, 443)]
    for entry in entries:
        state.put_grant(entry)
    state.end_grants(entries[1:], abi.GrantEnd.KEY_REMOVED, generation=1)
    (event,) = stream.take()
    assert (event.services, event.cause, event.key_id, event.proto) == (("443/tcp",), "key-removed", 3, None)
    assert state.list_grants() == entries[:1]


def test_expired_entries_are_taken_away_without_a_word(state: State, stream: EventStream, start: int) -> None:
    entry = Grant(IPV4, SOURCE, 32, SSH.id, 6, 22, start + UNIT, start)
    state.put_grant(entry)
    assert state.end_grants([entry], abi.GrantEnd.REVOKED, generation=1) == []
    assert (stream.take(), state.list_grants()) == ([], [])


def test_who_follows_gets_what_is_settled_and_the_rest_later(state: State, stream: EventStream) -> None:
    now = boot_ns()
    record_in_kernel(state, happened(abi.EventKind.EVENT_STEP, now - NS))
    record_in_kernel(state, happened(abi.EventKind.EVENT_RESET, now + 3600 * NS))
    assert kinds(stream.take(settled=True)) == ["knock-step"]
    assert kinds(stream.take(settled=True)) == []
    assert kinds(stream.take()) == ["knock-reset"]


def test_who_follows_is_told_of_ends_when_the_time_has_come(state: State, stream: EventStream) -> None:
    until_ns = boot_ns() + NS // 5
    record_in_kernel(state, grant(until_ns - 50 * UNIT, 50))
    found: list[Event] = []
    while len(found) < 2:
        found += stream.take(settled=True)
        assert len(found) < 2 or boot_ns() >= until_ns
    assert kinds(found) == ["grant", "expired"]


def test_grants_from_before_the_stream_run_out_too(state: State, stream: EventStream) -> None:
    until_ns = boot_ns() + NS // 5
    for protocol, port in ((6, 22), (0, 0)):
        state.put_grant(Grant(IPV4, SOURCE, 32, SSH.id, protocol, port, until_ns, until_ns - NS))
    record_in_kernel(state, happened(abi.EventKind.EVENT_STEP, 1, knock=SSH.id))  # tells which generation to ask
    found = stream.take(settled=True)
    while len(found) < 2:
        found += stream.take(settled=True)
    assert (kinds(found), found[1].services, found[1].knock) == (["knock-step", "expired"], ("22/tcp",), "ssh")


def test_a_stream_begins_with_the_oldest_and_says_what_was_lost_since(state: State, stream: EventStream) -> None:
    for number in range(SLOTS + 3):
        record_in_kernel(state, happened(abi.EventKind.EVENT_STEP, number + 1))
    lost, *events = stream.take()  # opened while the ring was empty
    assert (lost.event, lost.lost, len(events), stream.lost) == (EventKind.LOST, 3, SLOTS, 3)
    assert without_times(lost) == {"event": "lost", "lost": 3}
    assert lost.time == events[0].time


def test_whoever_comes_late_has_lost_nothing(pins: Pins, state: State) -> None:
    for number in range(SLOTS + 3):
        record_in_kernel(state, happened(abi.EventKind.EVENT_STEP, number + 1))
    with EventStream(pins) as stream:
        assert kinds(stream.take()) == ["knock-step"] * SLOTS
        assert stream.take() == []


def test_what_was_before_is_left_out_but_still_known(pins: Pins, state: State, start: int) -> None:
    record_in_kernel(state, grant(start, 10))
    record_in_kernel(state, grant(start + 5 * UNIT, 20))
    with EventStream(pins, since_ns=start + 5 * UNIT) as stream:
        first, end = stream.take()
    assert kinds([first, end]) == ["grant", "expired"]
    assert end.time - first.time == 20 * UNIT


def test_suppressed_events_are_summed_by_kind(state: State, stream: EventStream) -> None:
    for suppressed in (2, 0, 3):
        record_in_kernel(state, happened(abi.EventKind.EVENT_STEP, 1, suppressed=suppressed))
    assert [event.suppressed for event in stream.take()] == [2, None, 3]
    assert stream.suppressed == {EventKind.KNOCK_STEP: 5}
    state.event_limits.write(int(abi.EventKind.EVENT_RULE), abi.pack("event_limit", {"suppressed": 4}))
    assert stream.not_told() == {EventKind.RULE: 4}


def test_names_that_are_gone_are_null(state: State, stream: EventStream) -> None:
    record_in_kernel(state, happened(abi.EventKind.EVENT_RULE, 1, generation=7))
    record_in_kernel(state, happened(abi.EventKind.EVENT_STEP, 2, knock=999))
    record_in_kernel(state, grant(boot_ns(), 10, knock=999))
    rule, step, granted = stream.take()
    assert (rule.to_json()["rule"], rule.interface) == (None, None)
    assert (step.to_json()["knock"], granted.services) == (None, None)


def test_names_of_a_generation_that_goes_meanwhile_are_kept(pins: Pins, state: State, stream: EventStream) -> None:
    record_in_kernel(state, happened(abi.EventKind.EVENT_RULE, 1))
    assert [event.rule for event in stream.take()] == ["web"]
    pins.remove_generation(1)
    record_in_kernel(state, happened(abi.EventKind.EVENT_RULE, 2))
    assert [event.rule for event in stream.take()] == ["web"]


def test_names_of_generations_that_were_replaced_are_remembered(pins: Pins, state: State) -> None:
    for number in (2, 3):
        pins.generation(number).mkdir()
        renamed = dataclasses.replace(META, rules=(RuleMeta(f"rule-of-{number}", "pass", "", None, ()),))
        metadata.pin(pins.generation(number), renamed, {}, b"")
    names.remember(pins, [1])
    names.remember(pins, [2])
    names.remember(pins, [])
    for number in (1, 2):
        pins.remove_generation(number)
    for number in (1, 2, 3):
        record_in_kernel(state, happened(abi.EventKind.EVENT_RULE, number, generation=number))
    record_in_kernel(state, grant(boot_ns(), 10))
    with EventStream(pins) as stream:
        *rules, granted = stream.take()
    assert [(event.rule, event.interface) for event in rules] == [
        ("web", "eth1"),
        ("rule-of-2", "eth1"),
        ("rule-of-3", "eth1"),
    ]
    assert (granted.knock, granted.services) == ("ssh", ("22/tcp", "443/tcp"))
    assert {path.name for path in pins.state.iterdir()} == {*STATE_MAPS, names.NAMES}


def test_only_so_many_generations_are_remembered(pins: Pins, state: State) -> None:
    numbers = range(1, names.MOST_REMEMBERED + 3)
    for number in numbers:
        if number > 1:
            pins.generation(number).mkdir()
            metadata.pin(pins.generation(number), META, {}, b"")
        names.remember(pins, [number])
        pins.remove_generation(number)
    known = names.Names(pins)
    assert [number for number in numbers if known.rule(0, number) == "web"] == [*numbers][2:]


def test_without_state_there_is_nothing_to_remember(pins: Pins) -> None:
    names.remember(pins, [1])
    assert not pins.state.exists()


def test_kinds_of_a_later_xdpfw_are_passed_over(state: State, stream: EventStream) -> None:
    record_in_kernel(state, EventRecord(kind=200))
    record_in_kernel(state, happened(abi.EventKind.EVENT_STEP, 1))
    assert kinds(stream.take()) == ["knock-step"]


def test_a_stream_knows_when_the_firewall_was_detached(pins: Pins, state: State, stream: EventStream) -> None:
    assert not stream.is_gone
    shutil.rmtree(pins.state)
    assert stream.is_gone
    record_in_kernel(state, happened(abi.EventKind.EVENT_STEP, 1))
    assert kinds(stream.take()) == ["knock-step"]  # of before
    pins.state.mkdir()
    with state_maps(progress=1) as other:
        other.pin(pins.state)
        assert stream.is_gone


def test_without_state_there_is_no_stream(pins: Pins) -> None:
    with pytest.raises(FileNotFoundError):
        EventStream(pins)
