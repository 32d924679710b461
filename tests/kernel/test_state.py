# SPDX-License-Identifier: GPL-2.0-or-later
"""The maps that outlive generations, against the kernel's own: made by hand, as bpf/maps.h declares them."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.state_maps import WORD_BYTES, record_in_kernel, state_maps
from xdpfw.errors import KernelError
from xdpfw.kernel import abi
from xdpfw.kernel.maps import FLAG_MMAPABLE, HashMap
from xdpfw.kernel.ring import UNFINISHED_READS, EventRecord, Ring, address, halves
from xdpfw.kernel.state import STATE_MAPS, Grant, SpaTime, State, boot_ns, present_tai_offset_ns

pytestmark = pytest.mark.needs("privileges", "libbpf", "mmapable arrays")

IPV4, IPV6 = int(abi.Family.IPV4), int(abi.Family.IPV6)
SOURCE_V4 = 0xC6336407  # 198.51.100.7
SOURCE_V6 = 0x20010DB8_00000000_00000000_00000007
KNOCK = 0xFEEDBEEF
SLOTS = 8


@pytest.fixture
def state() -> Iterator[State]:
    with state_maps(events=SLOTS, notes=SLOTS, progress=1) as made:
        yield made


@pytest.fixture
def ring(state: State) -> Iterator[Ring]:
    with state.kernel_ring() as opened:
        yield opened


def event(time_ns: int, **members: int) -> EventRecord:
    return EventRecord(int(abi.EventKind.EVENT_STEP), time_ns, **members)


def times(records: list[EventRecord]) -> list[int]:
    return [record.time_ns for record in records]


def test_names_are_those_of_the_layout_in_bpffs() -> None:
    names = (
        "shared beginnings progress markers grants spa_times spa_failures events event_heads event_limits notes "
        "flow_tags flows incoming fragments limit_buckets acquaintances set_heads dynamic_sets"
    )
    assert names.split() == [*STATE_MAPS]


@pytest.mark.parametrize(
    ("family", "number"), [(IPV4, SOURCE_V4), (IPV4, 0), (IPV6, SOURCE_V6), (IPV6, (1 << 128) - 1)]
)
def test_addresses_survive_the_way_through_a_map(family: int, number: int) -> None:
    assert address(family, *halves(family, number)) == number


def test_an_ipv4_address_is_in_the_upper_half() -> None:
    assert halves(IPV4, SOURCE_V4) == (SOURCE_V4 << 32, 0)


# --- hashes ---


def test_a_hash_gives_back_what_was_put_in() -> None:
    with HashMap.create("hash", 6, 10, 3) as table:
        assert (table.key_size, table.value_size, table.max_entries) == (6, 10, 3)
        table.write(b"first.", b"1234567890")
        table.write(b"second", b"abcdefghij")
        assert (table.read(b"second"), table.read(b"other.")) == (b"abcdefghij", None)
        assert dict(table.items()) == {b"first.": b"1234567890", b"second": b"abcdefghij"}
        assert (table.delete(b"first."), table.delete(b"first.")) == (True, False)
        assert dict(table.items()) == {b"second": b"abcdefghij"}


def test_a_full_hash_is_read_whole_and_refuses_more() -> None:
    with HashMap.create("hash", 4, 8, 5000) as table:
        wanted = {number.to_bytes(4, "big"): number.to_bytes(8, "big") for number in range(5000)}
        for key, value in wanted.items():
            table.write(key, value)
        assert dict(table.items()) == wanted
        with pytest.raises(KernelError, match="write map hash") as caught:
            table.write((5000).to_bytes(4, "big"), bytes(8))
        assert caught.value.errno == errno.E2BIG


def test_an_empty_hash_has_no_items() -> None:
    with HashMap.create("hash", 4, 8, 10) as table:
        assert list(table.items()) == []


def test_what_does_not_fit_a_hash_is_refused_before_the_kernel_sees_it() -> None:
    with HashMap.create("hash", 4, 8, 1) as table:
        with pytest.raises(ValueError, match="keys of 4 bytes, not 3"):
            table.read(b"abc")
        with pytest.raises(ValueError, match="values of 8 bytes, not 2"):
            table.write(b"abcd", b"ab")


# --- the maps together ---


@pytest.mark.needs("bpffs")
def test_state_outlives_its_descriptors_while_it_is_pinned(state: State, bpffs: Path) -> None:
    state.put_grant(Grant(IPV4, SOURCE_V4, 32, KNOCK, 6, 22, until_ns=5, granted_ns=1))
    state.pin(bpffs)
    assert {path.name for path in bpffs.iterdir()} == set(STATE_MAPS)
    with State.open(bpffs) as opened:
        assert set(opened.descriptors()) == set(STATE_MAPS)
        assert [grant.port for grant in opened.list_grants()] == [22]
        assert opened.memory_bytes > 0


@pytest.mark.needs("bpffs")
def test_what_is_not_whole_is_not_opened(state: State, bpffs: Path, open_descriptors: Callable[[], set[str]]) -> None:
    state.pin(bpffs)
    (bpffs / "notes").unlink()
    before = open_descriptors()
    with pytest.raises(KernelError, match="notes: No such file"):
        State.open(bpffs)
    assert open_descriptors() == before


def test_closing_gives_all_back(open_descriptors: Callable[[], set[str]]) -> None:
    before = open_descriptors()
    with state_maps(progress=1) as made, made.kernel_ring(), made.notes_ring():
        made.set_tai_offset(1)
        made.list_spa_failures()
    made.close()
    assert open_descriptors() == before


# --- what is in them ---


def test_grants_come_back_as_they_were_put(state: State) -> None:
    wanted = {
        Grant(IPV4, SOURCE_V4, 32, KNOCK, 6, 22, until_ns=100, granted_ns=50),
        Grant(IPV4, SOURCE_V4, 32, KNOCK, 0, 0, until_ns=100, granted_ns=50),
        Grant(IPV6, SOURCE_V6 >> 64 << 64, 64, KNOCK, 17, 65535, 1 << 63, 3, key=(1 << 64) - 1, key_number=65535),
    }
    for grant in wanted:
        state.put_grant(grant)
    assert set(state.list_grants()) == wanted


def test_a_grant_ends_before_its_time_is_up_and_not_at_it() -> None:
    grant = Grant(IPV4, SOURCE_V4, 32, KNOCK, 6, 22, until_ns=100, granted_ns=50)
    assert (grant.is_live(99), grant.is_live(100)) == (True, False)


def test_live_grants_are_counted(state: State) -> None:
    for port, until_ns in ((1, 99), (2, 100), (3, 101), (4, 1 << 63)):
        state.put_grant(Grant(IPV4, SOURCE_V4, 32, KNOCK, 6, port, until_ns, granted_ns=50))
    assert state.count_grants(100) == sum(grant.is_live(100) for grant in state.list_grants()) == 2


def test_a_grant_is_deleted_even_if_it_was_extended(state: State) -> None:
    seen = Grant(IPV6, SOURCE_V6, 128, KNOCK, 6, 22, until_ns=100, granted_ns=50)
    other = seen._replace(port=443)
    state.put_grant(other)
    state.put_grant(seen._replace(until_ns=500))
    assert (state.delete_grant(seen), state.delete_grant(seen)) == (True, False)
    assert state.list_grants() == [other]


def test_only_the_offset_of_tai_is_written(state: State) -> None:
    state.initialise((1 << 63, 7), tai_offset_ns=37)
    whole = abi.unpack("shared", state.shared.read(0))
    whole.swept_ns, whole.grants_refused = 11, 12  # as the kernel may do
    state.shared.write(0, abi.to_bytes(whole))
    state.set_tai_offset(-5)
    assert state.read_shared() == ((1 << 63, 7), -5, 11, 12)


def test_the_present_offset_of_tai_is_whole_seconds() -> None:
    assert present_tai_offset_ns() % 1_000_000_000 == 0


def test_half_done_are_sources_whose_marker_is_not_over(state: State) -> None:
    now = boot_ns()
    quarter = now >> abi.Marker.SHIFT
    slots = [0] * abi.Limit.MARKER_SLOTS
    for slot, until in ((0, quarter), (7, quarter + 40), (9, quarter - 1), (65535, quarter + 1)):
        slots[slot] = until
    state.markers.write(0, abi.pack("markers", {"slots": slots}))
    assert state.half_done(now) == 3
    assert state.half_done(now + (100 << abi.Marker.SHIFT)) == 0


def test_spa_failures_are_told_by_prefix_the_worst_first(state: State) -> None:
    for slot, value in (
        (5, {"prefix": 0xC6336400 << 32, "family": IPV4, "packets": 3, "last_wall_ns": 9}),
        (4095, {"prefix": 0x20010DB8_00000001, "family": IPV6, "packets": 70, "last_wall_ns": 8}),
    ):
        state.spa_failures.write(slot, abi.pack("spa_failures", value))
    assert state.list_spa_failures() == [
        (IPV6, 0x20010DB8_00000001 << 64, 70, 8),
        (IPV4, 0xC6336400, 3, 9),
    ]


def test_times_of_spa_keys_are_by_slot(state: State) -> None:
    state.write_spa_time(2, SpaTime(fingerprint=1 << 63, last_wall_ns=5))
    found = state.list_spa_times()
    assert (len(found), found[1], found[2]) == (abi.Limit.MAX_SPA_KEYS, (0, 0, 0), (1 << 63, 5, 0))


def test_what_was_suppressed_is_by_kind(state: State) -> None:
    state.event_limits.write(int(abi.EventKind.EVENT_RULE), abi.pack("event_limit", {"count": 200, "suppressed": 5}))
    assert {kind: count for kind, count in state.suppressed().items() if count} == {int(abi.EventKind.EVENT_RULE): 5}


# --- the ring of events ---


def test_an_event_is_read_with_all_its_members(state: State, ring: Ring) -> None:
    written = EventRecord(
        kind=int(abi.EventKind.EVENT_GRANT),
        time_ns=1,
        generation=2,
        suppressed=3,
        family=IPV6,
        source=SOURCE_V6,
        destination=SOURCE_V6 + 1,
        prefix_bits=64,
        protocol=17,
        sport=4,
        dport=5,
        interface=6,
        bytes=7,
        knock=8,
        step=9,
        steps=10,
        duration_ns=11,
        key_number=12,
        service=13,
        rule=14,
        detail=15,
    )
    record_in_kernel(state, written)
    assert ring.read(0) == ([written], 1, 0)


def test_a_ring_that_nothing_was_written_to_is_empty(ring: Ring) -> None:
    assert (ring.read(0), ring.oldest, ring.head) == (([], 0, 0), 0, 0)


def test_a_reader_goes_on_where_it_was(state: State, ring: Ring) -> None:
    for time_ns in range(3):
        record_in_kernel(state, event(time_ns))
    first = ring.read(0)
    for time_ns in range(3, 5):
        record_in_kernel(state, event(time_ns))
    second = ring.read(first.next)
    assert (times(first.records), times(second.records), second.next) == ([0, 1, 2], [3, 4], 5)
    assert ring.read(5) == ([], 5, 0)


def test_readers_take_nothing_from_each_other(state: State, ring: Ring) -> None:
    record_in_kernel(state, event(1))
    with state.kernel_ring() as other:
        assert ring.read(0) == other.read(0) == ring.read(0)


def test_an_overtaken_reader_is_told_how_many_it_lost(state: State, ring: Ring) -> None:
    for time_ns in range(SLOTS + 3):
        record_in_kernel(state, event(time_ns))
    assert ring.oldest == 3
    batch = ring.read(1)
    assert (times(batch.records), batch.next, batch.lost) == ([*range(3, SLOTS + 3)], SLOTS + 3, 2)


def test_an_event_that_is_overwritten_under_the_reader_is_lost(state: State, ring: Ring) -> None:
    for time_ns in range(3):
        record_in_kernel(state, event(time_ns))
    # As if the writer had come round since the head was read.
    state.events.write(1, abi.pack("event", {"number": 1 + SLOTS + 1, "time_ns": 99}))
    batch = ring.read(0)
    assert (times(batch.records), batch.next, batch.lost) == ([0, 2], 3, 1)


def test_an_unfinished_event_waits_and_holds_up_the_ones_behind_it(state: State, ring: Ring) -> None:
    seen = []

    def look() -> None:
        record_in_kernel(state, event(2))
        seen.append(ring.read(0))

    record_in_kernel(state, event(0))
    record_in_kernel(state, event(1), then=look)
    ((records, after, lost),) = seen
    assert (times(records), after, lost) == ([0], 1, 0)
    assert times(ring.read(after).records) == [1, 2]


def test_an_event_that_is_never_finished_is_given_up(state: State, ring: Ring) -> None:
    record_in_kernel(state, event(0))
    record_in_kernel(state, event(1))
    state.events.write(0, abi.pack("event", {"number": 0, "time_ns": 7}))
    for _ in range(UNFINISHED_READS):
        assert ring.read(0) == ([], 0, 0)
    batch = ring.read(0)
    assert (times(batch.records), batch.next, batch.lost) == ([1], 2, 1)


def test_a_torn_record_is_no_record(state: State, ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer comes round to the slot while it is copied."""
    record_in_kernel(state, event(0))
    copied = mmap.mmap.__getitem__

    class Interrupted:
        def __getitem__(self, where: slice) -> bytes:
            data = copied(memory, where)
            state.events.write(0, abi.pack("event", {"number": 0, "time_ns": 99}))
            return data

    memory = ring._memory
    monkeypatch.setattr(ring, "_memory", Interrupted())
    assert ring.read(0) == ([], 0, 0)
    monkeypatch.setattr(ring, "_memory", memory)


def test_notes_are_a_ring_of_their_own(state: State, ring: Ring) -> None:
    record_in_kernel(state, event(5))
    written = EventRecord(
        int(abi.EventKind.EVENT_GRANT_END), 1, family=IPV4, source=SOURCE_V4, detail=int(abi.GrantEnd.REVOKED)
    )
    assert [state.add_note(written._replace(time_ns=time_ns)) for time_ns in range(SLOTS + 1)] == [*range(SLOTS + 1)]
    with state.notes_ring() as notes:
        batch = notes.read(notes.oldest)
        assert batch.records == [written._replace(time_ns=time_ns) for time_ns in range(1, SLOTS + 1)]
    assert int.from_bytes(state.event_heads.read(0), sys.byteorder) == 1
    assert times(ring.read(0).records) == [5]


def test_a_slow_reader_and_a_fast_writer_lose_nothing_uncounted(state: State, ring: Ring) -> None:
    """Another process writes; each event that was read whole is the one of its number, and the rest were counted."""
    total = 3000
    pid = os.fork()
    if pid == 0:
        try:
            for number in range(total):
                record_in_kernel(state, event(number, sport=number & 0xFFFF, source=number, family=IPV4))
            os._exit(0)
        finally:
            os._exit(1)
    place = lost = 0
    seen: list[EventRecord] = []
    ended = False
    while place < total:
        if ended:
            assert ring.head == total
        ended = ended or os.waitpid(pid, os.WNOHANG) != (0, 0)
        batch = ring.read(place)
        place, lost = batch.next, lost + batch.lost
        seen += batch.records
    if not ended:
        assert os.waitpid(pid, 0)[1] == 0
    assert len(seen) + lost == total
    assert times(seen) == sorted(times(seen))
    assert [record for record in seen if not record.sport == record.source == record.time_ns] == []
    assert seen[-1].time_ns == total - 1


def test_a_map_s_elements_lie_in_memory_as_the_ring_has_it(state: State) -> None:
    assert state.events.flags & FLAG_MMAPABLE
    assert state.events.stride == abi.size_of("event")
    assert abi.size_of("event") % WORD_BYTES == 0
