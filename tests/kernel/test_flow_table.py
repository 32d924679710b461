# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of flows: who drives out whom, by tables that are small and so full sooner; and what user space reads.

The reference has room for everything, so that only the kernel is asked here.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator

import pytest

from tests.flow_frames import ACK, SYN, V4, V6, Ends
from tests.policies import written
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel import abi
from xdpfw.kernel.flows import Flow, FlowTable, Kind
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import START_BOOT_NS

pytestmark = pytest.mark.needs("privileges", "data plane")

S = 1_000_000_000
NOW = START_BOOT_NS
TABLE = int(abi.Limit.TEST_BUCKETS * abi.Limit.BUCKET_SLOTS)
LIVE = 31
"""Flows of ours, beside floods that are to the table as 1,000,000 are to that in force: and so are these to 1,000."""
FLOOD = 1_000_000 * int(abi.Limit.TEST_BUCKETS) // int(abi.FlowLimit.FLOW_BUCKETS)


def load() -> Generation:
    """Passes what belongs to no flow, too."""
    return Generation.load(compile_policy(written(allow="established")), interfaces=[1], targets=[], trace=True)


@pytest.fixture
def generation() -> Iterator[Generation]:
    with load() as loaded:
        yield loaded


def table(generation: Generation) -> FlowTable:
    assert generation.state is not None
    return FlowTable(generation.state)


def nth(number: int, base: Ends = V4) -> Ends:
    """The flow with another host."""
    return base._replace(there=base.there + 1 + number)


def is_established(generation: Generation, frame: bytes, boot_ns: int = NOW) -> bool:
    return generation.run(frame, boot_ns=boot_ns).reason == "allow.established"


def ranks(generation: Generation) -> dict[str, int]:
    flows = table(generation).live(NOW)
    return {rank.name: sum(flow.rank is rank for flow in flows) for rank in abi.FlowRank}


def open_some(generation: Generation) -> list[Ends]:
    """Connections of this host, of clients, and between others: once confirmed, all are worth as much."""
    found = [nth(number, V4._replace(there=V6.there & 0xFFFF)) for number in range(LIVE)]
    for number, ends in enumerate(found[: 2 * LIVE // 3]):
        generation.send(ends.sent(flags=SYN), forwarded_from=number % 2)
        assert is_established(generation, ends.received(flags=SYN | ACK, seq=1))
        generation.send(ends.sent(flags=ACK, ack=2), forwarded_from=number % 2)
    for ends in found[2 * LIVE // 3 :]:
        generation.send(ends.sent(flags=SYN | ACK, seq=1))
        assert is_established(generation, ends.received(flags=ACK, ack=2))
    return found


def test_spoofed_syns_at_an_open_port_drive_out_nothing_of_ours(generation: Generation) -> None:
    ours = open_some(generation)
    for number in range(FLOOD):
        ends = nth(number)
        if number < 100:
            assert not is_established(generation, ends.received(flags=SYN))
        generation.send(ends.sent(flags=SYN | ACK, seq=number))
    assert all(is_established(generation, ends.received(flags=ACK)) for ends in ours)
    found = ranks(generation)
    assert found["FLOW_OWN"] == len(ours)
    assert found["FLOW_ANSWER"] > TABLE * 9 // 10
    counter = generation.flow_counter()
    assert counter.created == FLOOD + LIVE
    assert counter.evicted == counter.created - sum(found.values())
    assert counter.refused == 0


def test_nor_do_those_at_a_port_behind(generation: Generation) -> None:
    """The host behind answers each; so it does datagrams and echo requests."""
    ours = open_some(generation)
    questions = [nth(number, V4._replace(there=V6.there & 0xFFFF)) for number in range(LIVE)]
    for ends in questions:
        generation.send(ends.sent("udp"))
    for number in range(FLOOD):
        ends = nth(number)
        generation.send(ends.sent(flags=SYN), forwarded_from=1)
        if number % 4 == 0:
            generation.run(ends.received(flags=SYN | ACK, seq=number), boot_ns=NOW)
            generation.send(ends.sent("udp"), forwarded_from=1)
            generation.run(ends.received("udp"), boot_ns=NOW)
            generation.send(ends.echo_sent(), forwarded_from=1)
    assert all(is_established(generation, ends.received(flags=ACK)) for ends in ours)
    assert all(is_established(generation, ends.received("udp")) for ends in questions)
    assert ranks(generation)["FLOW_OWN"] == len(ours) + len(questions)
    established = [flow for flow in table(generation).live(NOW) if flow.state is abi.FlowState.FLOW_ESTABLISHED]
    assert len(established) == len(ours)


def test_nor_do_spoofed_datagrams_and_echoes_that_are_answered(generation: Generation) -> None:
    ours = open_some(generation)
    for number in range(FLOOD // 2):
        ends = nth(number)
        generation.run(ends.received("udp"), boot_ns=NOW)
        generation.send(ends.sent("udp"))
        generation.send(ends.echo_sent(is_reply=True))
    assert all(is_established(generation, ends.received(flags=ACK)) for ends in ours)
    assert ranks(generation)["FLOW_OWN"] == len(ours)


def test_what_outsiders_send_makes_no_flow(generation: Generation) -> None:
    for number in range(1000):
        for flags in (SYN, SYN | ACK, ACK, 0):
            assert not is_established(generation, nth(number).received(flags=flags))
        assert not is_established(generation, nth(number).received("udp"))
        assert not is_established(generation, nth(number).echo_received())
    assert generation.flow_counter().created == 0
    assert table(generation).live(NOW) == []


def test_ours_drive_out_answers_first_and_then_whoever_ends_next(generation: Generation) -> None:
    for number in range(FLOOD // 2):
        generation.send(nth(number).sent(flags=SYN | ACK))
    first = V4._replace(there_port=53)
    for number in range(FLOOD // 2):
        generation.send(nth(number, first).sent("udp"), boot_ns=NOW + number)
    flows = table(generation).live(NOW)
    assert ranks(generation)["FLOW_OWN"] > TABLE * 9 // 10
    last = [flow for flow in flows if flow.remote_port == 53]
    survivors = {flow.remote for flow in last}
    newest = {nth(number, first).there for number in range(FLOOD // 2 - TABLE // 10, FLOOD // 2)}
    assert newest <= survivors  # of the oldest, hardly any
    assert not {nth(number, first).there for number in range(10)} & survivors
    assert generation.flow_counter().refused == 0


def test_where_ours_fill_the_table_answers_are_refused_and_counted(generation: Generation) -> None:
    for number in range(FLOOD):
        generation.send(nth(number).sent(flags=SYN))
    before = generation.flow_counter()
    for number in range(1000):
        generation.send(nth(number, V6).sent(flags=SYN | ACK))
    after = generation.flow_counter()
    assert after.refused - before.refused > 900
    assert after.evicted == before.evicted
    assert len(table(generation).live(NOW)) <= TABLE


def test_what_is_over_gives_way_to_anybody_and_counts_as_nobody(generation: Generation) -> None:
    for number in range(FLOOD):
        generation.send(nth(number).sent("udp"))
    before = generation.flow_counter()
    later = NOW + 30 * S
    for number in range(100):
        ends = nth(number, V6)
        generation.send(ends.sent(flags=SYN | ACK, seq=5), boot_ns=later)
        assert is_established(generation, ends.received(flags=ACK, ack=6), boot_ns=later)
    after = generation.flow_counter()
    assert (after.created, after.evicted, after.refused) == (before.created + 100, before.evicted, before.refused)


def test_who_began_says_what_a_datagrams_flow_is_worth(generation: Generation) -> None:
    generation.send(nth(0).sent("udp"))
    generation.run(nth(1).received("udp"), boot_ns=NOW)
    generation.send(nth(1).sent("udp"))
    generation.run(nth(2).received("udp"), boot_ns=NOW)
    generation.send(nth(2).sent("udp"), boot_ns=NOW + 31 * S)
    generation.send(nth(3).echo_sent())
    generation.send(nth(4).echo_sent(is_reply=True))
    generation.run(nth(5).received("udp"), boot_ns=NOW)
    generation.send(nth(5)._replace(here_port=1).sent("udp"))
    worth = {flow.remote - V4.there - 1: flow.rank for flow in table(generation).live(NOW)}
    own, answer = abi.FlowRank.FLOW_OWN, abi.FlowRank.FLOW_ANSWER
    assert worth == {0: own, 1: answer, 2: own, 3: own, 4: answer, 5: own}


def test_a_connection_whose_beginning_was_not_seen_is_worth_as_much_as_an_answer(generation: Generation) -> None:
    """To a forged packet behind a forged SYN, a stack sends an ACK; by then, its answer may be driven out."""
    generation.send(V4.sent(flags=ACK))
    assert [flow.rank for flow in table(generation).live(NOW)] == [abi.FlowRank.FLOW_ANSWER]


def test_what_was_dropped_makes_no_answer() -> None:
    with Generation.load(
        compile_policy(written(default="drop", allow="established")), interfaces=[1], targets=[], trace=True
    ) as generation:
        generation.run(V4.received("udp"), boot_ns=NOW)
        generation.send(V4.sent("udp"))
        assert [flow.rank for flow in table(generation).live(NOW)] == [abi.FlowRank.FLOW_OWN]


def test_a_flow_of_the_same_tag_is_told_apart_by_its_key(generation: Generation) -> None:
    generation.send(V4.sent("udp"))
    assert generation.state is not None
    flows, size = generation.state.flows, abi.size_of("flow")
    port = abi.offset_of("flow_key", "local_port")
    with flows.mapped(flows.max_entries * flows.stride, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        at = next(at for at in range(0, flows.max_entries * size, size) if any(memory[at : at + size]))
        assert memory[at + port : at + port + 2] == V4.here_port.to_bytes(2, "little")
        memory[at + port] ^= 1
        assert not is_established(generation, V4.received("udp"))
        memory[at + port] ^= 1
    assert is_established(generation, V4.received("udp"))


def test_flows_survive_a_new_generation(generation: Generation) -> None:
    generation.send(V4.sent("udp"))
    image = compile_policy(written("{match: {proto: tcp}, action: drop}", default="drop", allow="established"))
    with Generation.load(image, interfaces=[1], targets=[], trace=True, state=generation.state) as following:
        assert is_established(following, V4.received("udp"))


def test_flows_are_listed_counted_and_deleted(generation: Generation) -> None:
    generation.send(V4.sent(flags=SYN))
    generation.send(V6.sent("udp"))
    generation.send(V6.echo_sent(), boot_ns=NOW + S)
    flows = table(generation)
    state = abi.FlowState
    own = abi.FlowRank.FLOW_OWN
    assert sorted(flows.live(NOW)) == [
        Flow(1, 6, V4.there, 443, V4.here, 40000, state.FLOW_SYN_SENT, own, NOW, NOW + 120 * S),
        Flow(2, 17, V6.there, 443, V6.here, 40000, state.FLOW_UNREPLIED, own, NOW, NOW + 30 * S),
        Flow(2, 58, V6.there, 129, V6.here, 40000, state.FLOW_UNREPLIED, own, NOW + S, NOW + 31 * S),
    ]
    assert flows.count(NOW + 30 * S) == {Kind(6, state.FLOW_SYN_SENT): 1, Kind(58, state.FLOW_UNREPLIED): 1}
    assert [flow.protocol for flow in flows.delete(lambda flow: flow.protocol == 6, NOW)] == [6]
    assert not is_established(generation, V4.received(flags=SYN | ACK))
    assert is_established(generation, V6.received("udp"))
    assert sum(flows.count(NOW).values()) == 2
    assert flows.capacity == TABLE


def test_two_cpus_leave_a_table_that_is_whole(generation: Generation) -> None:
    """Both take and give up the same places at once; at the end each flow is found by what it says it is."""
    ends = [nth(number) for number in range(3 * TABLE)]

    def fill(step: int) -> None:
        for each in ends[::step]:
            generation.send(each.sent("udp"))

    threads = [threading.Thread(target=fill, args=(step,)) for step in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    flows = table(generation).live(NOW)
    assert len(flows) > TABLE * 9 // 10
    for flow in flows:
        assert is_established(generation, V4._replace(there=flow.remote).received("udp"))
    assert generation.state is not None
    tags = memoryview(generation.state.flow_tags.read_all()).cast("Q").tolist()
    assert 1 not in tags


def test_a_full_sized_table_has_room_for_all_that_it_says() -> None:
    image = compile_policy(written(allow="established"))
    with Generation.load(image, interfaces=[1], targets=[], trace=True, full_size=True) as generation:
        assert table(generation).capacity == 262_144
        for number in range(20_000):
            generation.send(nth(number).sent("udp"))
        assert generation.flow_counter()[:3] == (20_000, 0, 0)
