# SPDX-License-Identifier: GPL-2.0-or-later
"""Single packet authorization in the kernel, message by message, each against the reference, too."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from tests import frames
from tests.kernel.agreement import Agreement, agreement
from tests.knocking import (
    HOST,
    HOST6,
    KNOCKER,
    KNOCKER6,
    PASSED,
    SHUT,
    S,
    knock,
    message,
    packet_of,
    prefixes,
    spa_packet,
    udp_packet,
)
from tests.policies import policy
from xdpfw.compiler import ir
from xdpfw.compiler.knocks import identity
from xdpfw.kernel import abi
from xdpfw.kernel.state import Grant, SpaTime
from xdpfw.knock.keys import fingerprint
from xdpfw.knock.spa import Message, source_bytes, tag
from xdpfw.packet.notation import parse_packet
from xdpfw.reference.memory import Grant as Kept
from xdpfw.reference.memory import GrantKey, Instant

pytestmark = pytest.mark.needs("privileges", "data plane")

KEY, NAT_KEY, OTHER_KEY = (bytes(range(first, first + 32)) for first in range(3))
WINDOW = 30 * S
LAPTOP = ir.SpaKey(1, "laptop", KEY)
PHONE = ir.SpaKey(65535, "phone", NAT_KEY, nat=True)
ADMIN = knock("admin", ir.Spa(62201, (LAPTOP, PHONE), WINDOW), "22/tcp 53/udp 443/tcp", lasts=60 * S)
SSH = knock("ssh", "7000/tcp 8000/tcp", "80/tcp")
ACCEPTED = "knock.spa_accepted"
PORTS = ("22/tcp", "53/udp", "443/tcp")
MAX_GRANTS = 65536
MAX_UNSIGNED = 49152


def dropping(*knocks: ir.Knock) -> ir.Policy:
    return replace(policy(default=ir.Verdict.DROP), knocks=knocks)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Agreement]:
    with agreement(dropping(ADMIN, SSH)) as both:
        yield both


@pytest.fixture
def both(loaded: Agreement) -> Agreement:
    loaded.forget()
    loaded.wait(2 * S)  # so that no more events than are told come together
    return loaded


def send(both: Agreement, packet: str | bytes) -> str:
    return both.run(packet).reason


def genuine(both: Agreement, key: bytes = KEY, src: str = KNOCKER, options: str = "", **more: int) -> str:
    return spa_packet(message(both.now, src, **more), key, src, options=options)


def opened(both: Agreement, src: str = KNOCKER) -> list[str]:
    """The ports that the source gets to."""
    found = {port: send(both, packet_of(port, src)) for port in PORTS}
    assert set(found.values()) <= {PASSED, SHUT}
    return [port for port, reason in found.items() if reason == PASSED]


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6, "::ffff:198.51.100.7", "0.0.0.1", "255.255.255.254"])
def test_one_packet_opens_all_for_its_source_alone(both: Agreement, src: str) -> None:
    assert opened(both, src) == []
    assert send(both, genuine(both, src=src)) == ACCEPTED
    assert opened(both, src) == [*PORTS]
    others = {KNOCKER, KNOCKER6, "::ffff:198.51.100.7", "198.51.100.6", "2001:db8::6"} - {src}
    assert [other for other in others if opened(both, other)] == []
    both.wait(60 * S - 1)
    assert opened(both, src) == [*PORTS]
    both.wait(1)
    assert opened(both, src) == []


# --- each bit, each length ---


def test_each_bit_counts(both: Agreement) -> None:
    """The payload's, not those of addresses and ports, which are somebody else's packet then."""
    payload = message(both.now).signed(KEY)
    for at, bit in itertools.product(range(56), range(8)):
        damaged = payload[:at] + bytes((payload[at] ^ 1 << bit,)) + payload[at + 1 :]
        assert send(both, udp_packet(damaged)) != ACCEPTED, (at, bit)
        if (at * 8 + bit) % 100 == 0:
            both.wait(2 * S)
    assert opened(both) == []
    assert send(both, udp_packet(payload)) == ACCEPTED


def test_each_bit_of_the_tag_is_looked_at(both: Agreement) -> None:
    payload = message(both.now).signed(KEY)
    for at, bit in itertools.product(range(40, 56), range(8)):
        damaged = payload[:at] + bytes((payload[at] ^ 1 << bit,)) + payload[at + 1 :]
        assert send(both, udp_packet(damaged)) == "knock.spa_forged", (at, bit)


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
def test_no_other_length(both: Agreement, src: str) -> None:
    payload = message(both.now, src).signed(KEY)
    for length in (*range(57), *range(57, 300, 13), 1400):
        reason = send(both, udp_packet((payload * 30)[:length], src))
        assert reason == (ACCEPTED if length == 56 else "knock.spa_malformed"), length


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_what_udp_says_of_its_length(both: Agreement, family: str) -> None:
    src = KNOCKER if family == "ipv4" else KNOCKER6
    at = 14 + (20 if family == "ipv4" else 40) + 4
    frame = parse_packet(genuine(both, src=src))
    for length in (0, 1, 8, 56, 63, 65, 0x4000, 0x40 << 8, 0xFFFF):
        assert send(both, frame[:at] + length.to_bytes(2) + frame[at + 2 :]) == "knock.spa_malformed"
    assert send(both, frame) == ACCEPTED


def test_padding_does_not_matter(both: Agreement) -> None:
    for length in (1, 4, 46, 1000, 5000):
        both.wait(1)
        assert send(both, parse_packet(genuine(both)) + bytes(length)) == ACCEPTED
    frame = parse_packet(udp_packet(message(both.now).signed(KEY)[:-1]))
    assert send(both, frame + b"\0") == "knock.spa_malformed", "what is padding is no message"


def test_an_ip_length_that_ends_within_the_message(both: Agreement) -> None:
    datagram = frames.udp(40000, 62201, length=64) + message(both.now).signed(KEY)
    src, dst = 0xC6336407, 0xCB007101
    short = frames.v4_frame(datagram, frames.UDP, src=src, dst=dst, total_length=20 + 63)
    assert send(both, short) == "knock.spa_malformed"
    assert send(both, frames.v4_frame(datagram, frames.UDP, src=src, dst=dst)) == ACCEPTED


# --- what is around it ---


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
@pytest.mark.parametrize("options", ["vlan=7", "vlan=7 inner_vlan=8", "options", "ttl=1", "dscp=46"])
def test_tags_and_options_do_not_matter(both: Agreement, src: str, options: str) -> None:
    assert send(both, genuine(both, src=src, options=options)) == ACCEPTED
    assert opened(both, src) == [*PORTS]


def test_extension_headers_do_not_either(both: Agreement) -> None:
    kinds = (frames.HOP_BY_HOP, frames.ROUTING, frames.AH, frames.DESTINATION, frames.MOBILITY)
    src, dst = (int.from_bytes(source_bytes(address)) for address in (KNOCKER6, HOST6))
    atomic = frames.FRAGMENT
    for chain in (*[(kind,) for kind in kinds], kinds, (atomic,), (frames.DESTINATION, atomic), kinds[3:4] * 8):
        both.wait(1)
        datagram = frames.udp(40000, 62201, length=64) + message(both.now, KNOCKER6).signed(KEY)
        payload, following = frames.extended(chain, datagram, frames.UDP)
        assert send(both, frames.v6_frame(payload, following, src=src, dst=dst)) == ACCEPTED, chain


def test_all_tags_and_the_longest_options(both: Agreement) -> None:
    datagram = frames.udp(40000, 62201, length=64) + message(both.now).signed(KEY)
    packet = frames.ipv4(datagram, frames.UDP, src=0xC6336407, dst=0xCB007101, options=bytes(40))
    tags = [(frames.QINQ, number) for number in range(4)]
    assert send(both, frames.ethernet(frames.IPV4, packet, tags=tags)) == ACCEPTED


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
def test_a_fragment_is_malformed(both: Agreement, src: str) -> None:
    assert send(both, genuine(both, src=src, options="frag=first")) == "knock.spa_malformed"
    assert send(both, genuine(both, src=src, options="frag=later")) == "default"
    assert opened(both, src) == []


@pytest.mark.parametrize("length", [3000, 4096, 5000, 30000])
@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
def test_in_several_buffers(both: Agreement, src: str, length: int) -> None:
    """Test runs put what is more than a page into further buffers."""
    frame = parse_packet(genuine(both, src=src))
    assert send(both, frame + bytes(length - len(frame))) == ACCEPTED
    too_long = udp_packet(message(both.now, src).signed(KEY) + bytes(length), src)
    assert send(both, too_long) == "knock.spa_malformed"


def test_behind_so_many_headers_that_it_lies_in_the_second_buffer(both: Agreement) -> None:
    """Extension headers of 2 KiB each carry the message beyond the first page, or have it lie on both sides."""
    src, dst = (int.from_bytes(source_bytes(address)) for address in (KNOCKER6, HOST6))
    for length in range(196, 215):
        both.wait(1)
        datagram = frames.udp(40000, 62201, length=64) + message(both.now, KNOCKER6).signed(KEY)
        payload = frames.extension(frames.DESTINATION, frames.UDP, length=length) + datagram
        payload = frames.extension(frames.DESTINATION, frames.DESTINATION, length=255) + payload
        frame = frames.v6_frame(payload, frames.DESTINATION, src=src, dst=dst) + bytes(600)
        assert send(both, frame) == ACCEPTED, length


# --- each check, and their order ---


@dataclass
class Attempt:
    """A message before it is sent. Each fault changes one thing about it."""

    now: Instant
    message: Message = field(init=False)
    damage: list[int] = field(default_factory=list)  # bytes that are flipped behind the signature
    last_wall_ns: int = 0
    is_full: bool = False

    def __post_init__(self) -> None:
        self.message = message(self.now)

    def change(self, **fields: int | bytes) -> None:
        self.message = replace(self.message, **fields)

    def send(self, both: Agreement) -> str:
        if self.last_wall_ns:
            set_last_time(both, KEY, self.last_wall_ns)
        if self.is_full:
            fill(both)
        payload = bytearray(self.message.signed(KEY))
        for at in self.damage:
            payload[at] ^= 0xFF
        return send(both, udp_packet(bytes(payload)))


def set_last_time(both: Agreement, key: bytes, last_wall_ns: int) -> None:
    state = both.generation.state
    assert state is not None
    slots = [each.fingerprint for each in state.list_spa_times()]
    state.write_spa_time(slots.index(fingerprint(key)), SpaTime(fingerprint(key), last_wall_ns))
    both.memory.spa_last_wall_ns[key] = last_wall_ns


def fill(both: Agreement, until_ns: int = 1 << 62, count: int = MAX_GRANTS) -> None:
    """Grants of nobody's knock, in kernel and reference, until there is room for no other."""
    state = both.generation.state
    assert state is not None
    held = len(state.list_grants())
    for address in range(count - held):
        state.put_grant(Grant(1, address, 32, identity("filler"), 6, 22, until_ns, 1))
        key = GrantKey(ir.Family.IPV4, address, 32, "filler", ir.Service(6, 22))
        both.memory.grants[key] = Kept(until_ns)
    shared = abi.unpack("shared", state.shared.read(0))
    shared.unsigned_grants = sum(not grant.key for grant in state.list_grants())
    state.shared.write(0, abi.to_bytes(shared))


FAULTS: dict[str, Callable[[Attempt], None]] = {
    "malformed": lambda attempt: attempt.damage.append(0),
    "unknown_key": lambda attempt: attempt.change(key_number=3),
    "replayed": lambda attempt: setattr(attempt, "last_wall_ns", attempt.message.time_ns),
    "stale": lambda attempt: attempt.change(time_ns=attempt.now.wall_ns - WINDOW - 1),
    "early": lambda attempt: attempt.change(time_ns=attempt.now.wall_ns + WINDOW + 1),
    "source": lambda attempt: attempt.change(source=source_bytes("198.51.100.8")),
    "forged": lambda attempt: attempt.damage.append(55),
    "service": lambda attempt: attempt.change(service=4),
}
"""In the order of the checks. Behind them comes a full table, which has tests of its own."""


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(both: Agreement, fault: str) -> None:
    attempt = Attempt(both.now)
    FAULTS[fault](attempt)
    assert attempt.send(both) == f"knock.spa_{fault}"
    assert opened(both) == []


@pytest.mark.parametrize(
    ("first", "second"), [pair for pair in itertools.combinations(FAULTS, 2) if pair != ("stale", "early")]
)
def test_of_two_faults_the_first_is_told(both: Agreement, first: str, second: str) -> None:
    attempt = Attempt(both.now)
    # What a replay is, the time decides, so that comes first.
    for fault in sorted((first, second), key=lambda name: name == "replayed"):
        FAULTS[fault](attempt)
    assert attempt.send(both) == f"knock.spa_{first}"


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_all_but_what_is_accepted_breaks_sequences(both: Agreement, fault: str | None) -> None:
    attempt = Attempt(both.now)
    if fault is not None:
        FAULTS[fault](attempt)
    send(both, packet_of("7000/tcp"))
    assert attempt.send(both) == (ACCEPTED if fault is None else f"knock.spa_{fault}")
    send(both, packet_of("8000/tcp"))
    assert (send(both, packet_of("80/tcp")) == PASSED) == (fault is None)


@pytest.mark.parametrize(("version", "flags"), [(0, 0), (2, 0), (255, 0), (1, 2), (1, 3), (1, 0x80)])
def test_versions_and_flags_that_are_not_known(both: Agreement, version: int, flags: int) -> None:
    """Signed as they should be: the tag is not what is wrong with them."""
    body = bytes((version, flags)) + message(both.now).signed(KEY)[2:40]
    assert send(both, udp_packet(body + tag(body, KEY))) == "knock.spa_malformed"


@pytest.mark.parametrize("number", [0, 2, 65534, 1 << 15])
def test_numbers_that_no_key_has(both: Agreement, number: int) -> None:
    assert send(both, genuine(both, number=number)) == "knock.spa_unknown_key"


def test_the_window_has_its_edges(both: Agreement) -> None:
    for offset, reason in (
        (-WINDOW - 1, "knock.spa_stale"),
        (-WINDOW, ACCEPTED),
        (-WINDOW, "knock.spa_replayed"),
        (-WINDOW + 1, ACCEPTED),
        (0, ACCEPTED),
        (WINDOW + 1, "knock.spa_early"),
        (WINDOW, ACCEPTED),
        (WINDOW, "knock.spa_replayed"),
        (WINDOW - 1, "knock.spa_replayed"),
        (WINDOW + 1, "knock.spa_early"),
    ):
        assert send(both, genuine(both, time_ns=both.now.wall_ns + offset)) == reason, offset


@pytest.mark.parametrize("time_ns", [0, 1, 1 << 63, (1 << 64) - 1])
def test_times_of_another_age(both: Agreement, time_ns: int) -> None:
    """No difference of times may wrap round into the window."""
    wanted = "replayed" if time_ns == 0 else "stale" if time_ns == 1 else "early"
    assert send(both, genuine(both, time_ns=time_ns)) == f"knock.spa_{wanted}"


def test_a_clock_that_steps_opens_no_window_for_replays(both: Agreement) -> None:
    recorded = genuine(both)
    assert send(both, recorded) == ACCEPTED
    for step_ns in (-3600 * S, 3600 * S):
        both.now = both.now._replace(wall_ns=both.now.wall_ns + step_ns)
        assert send(both, recorded) == "knock.spa_replayed"


def test_a_replay_from_another_source_is_one_too(both: Agreement) -> None:
    payload = message(both.now).signed(KEY)
    assert send(both, udp_packet(payload, "198.51.100.8")) == "knock.spa_source"
    assert send(both, udp_packet(payload)) == ACCEPTED
    assert send(both, udp_packet(payload, "198.51.100.8")) == "knock.spa_replayed"
    assert opened(both, "198.51.100.8") == []


def test_nothing_but_the_right_tag_moves_a_key_on(both: Agreement) -> None:
    later = genuine(both, OTHER_KEY, time_ns=both.now.wall_ns + WINDOW)
    assert [send(both, later), send(both, genuine(both))] == ["knock.spa_forged", ACCEPTED]


def test_ipv4_in_ipv6_is_no_ipv4(both: Agreement) -> None:
    """The message's source is the same 16 bytes for both; the grant is not."""
    assert source_bytes("::ffff:198.51.100.7") == source_bytes(KNOCKER)
    assert send(both, udp_packet(message(both.now).signed(KEY), "::ffff:198.51.100.7")) == ACCEPTED
    assert (opened(both), opened(both, "::ffff:198.51.100.7")) == ([], [*PORTS])


@pytest.mark.parametrize("src", [KNOCKER, KNOCKER6])
def test_a_nat_key_is_good_from_any_source(both: Agreement, src: str) -> None:
    behind_nat = message(both.now, "10.0.0.7", number=65535)
    assert send(both, spa_packet(behind_nat, NAT_KEY, src)) == ACCEPTED
    assert (opened(both, src), opened(both, "10.0.0.7")) == ([*PORTS], [])
    assert send(both, spa_packet(behind_nat, NAT_KEY, "198.51.100.8")) == "knock.spa_replayed"


def test_keys_have_times_of_their_own(both: Agreement) -> None:
    assert send(both, genuine(both, time_ns=both.now.wall_ns + S)) == ACCEPTED
    assert send(both, genuine(both, NAT_KEY, number=65535)) == ACCEPTED
    assert send(both, genuine(both, KEY, number=65535, time_ns=both.now.wall_ns + 1)) == "knock.spa_forged"


# --- what is asked for ---


@pytest.mark.parametrize(("ttl_s", "lasts"), [(0, 60), (1, 1), (59, 59), (60, 60), (61, 60), (0xFFFF, 60)])
def test_a_grant_may_be_shorter_but_not_longer(both: Agreement, ttl_s: int, lasts: int) -> None:
    assert send(both, genuine(both, ttl_s=ttl_s)) == ACCEPTED
    both.wait(lasts * S - 1)
    assert opened(both) == [*PORTS]
    both.wait(1)
    assert opened(both) == []


def test_a_shorter_one_takes_nothing_away_and_a_later_one_extends(both: Agreement) -> None:
    assert send(both, genuine(both)) == ACCEPTED
    both.wait(1)
    assert send(both, genuine(both, ttl_s=1)) == ACCEPTED
    both.wait(40 * S)
    assert send(both, genuine(both)) == ACCEPTED
    both.wait(60 * S - 1)
    assert opened(both) == [*PORTS]
    both.wait(1)
    assert opened(both) == []


@pytest.mark.parametrize("service", [1, 2, 3])
def test_one_port_may_be_asked_for_and_given_back(both: Agreement, service: int) -> None:
    assert send(both, genuine(both, service=service)) == ACCEPTED
    assert opened(both) == [PORTS[service - 1]]
    both.wait(1)
    assert send(both, genuine(both, service=service, close=True)) == ACCEPTED
    assert opened(both) == []


@pytest.mark.parametrize("service", [4, 15, 16, 17, 0x100, 0xFFFF])
def test_a_port_that_is_not_there(both: Agreement, service: int) -> None:
    assert send(both, genuine(both, service=service)) == "knock.spa_service"
    assert send(both, genuine(both, service=service)) == "knock.spa_replayed", "the message was used up"
    both.wait(1)
    assert send(both, genuine(both, service=service, close=True)) == "knock.spa_service"


def test_closing(both: Agreement) -> None:
    steps = (
        ({}, KNOCKER, [*PORTS]),
        ({"service": 2, "close": True}, KNOCKER, ["22/tcp", "443/tcp"]),
        ({}, "198.51.100.8", ["22/tcp", "443/tcp"]),
        ({"close": True}, KNOCKER, []),
        ({"close": True}, KNOCKER, []),
    )
    for more, src, wanted in steps:
        both.wait(1)
        assert send(both, genuine(both, src=src, **more)) == ACCEPTED  # type: ignore[arg-type]
        assert opened(both) == wanted
    assert opened(both, "198.51.100.8") == [*PORTS]


def test_a_knock_of_sixteen_ports() -> None:
    wide = replace(ADMIN, opens=tuple(ir.Service(6, 1000 + number) for number in range(16)))
    with agreement(dropping(wide)) as both:
        for service in (16, 1):
            both.wait(1)
            assert send(both, genuine(both, service=service)) == ACCEPTED
            assert send(both, packet_of(f"{999 + service}/tcp")) == PASSED
        assert send(both, genuine(both, service=17, time_ns=both.now.wall_ns + 1)) == "knock.spa_service"
        assert send(both, packet_of("1001/tcp")) == SHUT
        assert send(both, genuine(both, time_ns=both.now.wall_ns + 2)) == ACCEPTED
        assert {send(both, packet_of(f"{1000 + number}/tcp")) for number in range(16)} == {PASSED}


# --- several knocks ---


def test_a_key_belongs_to_the_knock_that_has_it() -> None:
    other = knock("other", ir.Spa(62201, (replace(LAPTOP, number=9, key=OTHER_KEY),), WINDOW), "80/tcp")
    with agreement(dropping(ADMIN, other)) as both:
        assert send(both, genuine(both, OTHER_KEY, number=9)) == ACCEPTED
        assert (send(both, packet_of("80/tcp")), send(both, packet_of("22/tcp"))) == (PASSED, SHUT)
        assert send(both, genuine(both, OTHER_KEY, number=10)) == "knock.spa_unknown_key"


@pytest.mark.parametrize("hosts", [(HOST, "203.0.113.2"), (HOST6, "2001:db8::2")])
def test_destinations(hosts: tuple[str, str]) -> None:
    here, there = hosts
    src = KNOCKER6 if ":" in here else KNOCKER
    one_of = replace(ADMIN, to=prefixes(here))
    other = knock("other", ir.Spa(62201, (replace(LAPTOP, number=9, key=OTHER_KEY),), WINDOW), "80/tcp")

    def to(both: Agreement, dst: str, key: bytes = KEY, **more: int) -> str:
        return send(both, spa_packet(message(both.now, src, **more), key, src, dst))

    with agreement(dropping(one_of)) as both:
        assert (to(both, there), to(both, here)) == ("default", ACCEPTED)
    with agreement(dropping(one_of, other)) as both:
        assert (to(both, there), to(both, here)) == ("knock.spa_unknown_key", ACCEPTED)
        assert to(both, there, OTHER_KEY, number=9) == ACCEPTED


# --- when the table of grants is full ---


def test_a_full_table_refuses_takes_nothing_and_is_swept(loaded: Agreement) -> None:
    both = loaded
    both.forget()
    both.wait(2 * S)
    assert send(both, genuine(both, src="198.51.100.8")) == ACCEPTED
    fill(both, until_ns=both.now.boot_ns + 10 * S)
    assert send(both, genuine(both, time_ns=both.now.wall_ns + 1)) == "knock.spa_refused"
    assert opened(both) == []
    assert opened(both, "198.51.100.8") == [*PORTS], "nobody's grant is taken for another"
    assert send(both, genuine(both, src="198.51.100.8", time_ns=both.now.wall_ns + 2)) == ACCEPTED, "it can be renewed"
    both.wait(10 * S - 1)
    assert send(both, genuine(both)) == "knock.spa_refused"
    both.wait(1)
    assert send(both, genuine(both)) == "knock.spa_refused", "it is swept once a second at most"
    both.wait(1 * S)
    assert send(both, genuine(both)) == ACCEPTED
    assert opened(both) == [*PORTS]
    both.check_knocks()
    assert both.generation.state is not None
    assert both.generation.state.read_shared().grants_refused == 3


def test_with_room_for_some_of_its_ports_all_are_refused(loaded: Agreement) -> None:
    both = loaded
    both.forget()
    both.wait(2 * S)
    fill(both, count=MAX_GRANTS - 3)
    assert send(both, genuine(both)) == "knock.spa_refused"
    assert opened(both) == []
    both.check_knocks()


def test_who_knows_a_sequence_cannot_use_up_the_room_of_keys(loaded: Agreement) -> None:
    both = loaded
    both.forget()
    both.wait(2 * S)
    fill(both, until_ns=both.now.boot_ns + 20 * S, count=MAX_UNSIGNED - 3)

    def knocks(src: str) -> str:
        assert [send(both, packet_of(step, src)) for step in ("7000/tcp", "8000/tcp")] == ["knock.step"] * 2
        return send(both, packet_of("80/tcp", src))

    assert [knocks(src) for src in ("192.0.2.1", "192.0.2.2", "192.0.2.1")] == [PASSED, SHUT, PASSED]
    assert send(both, genuine(both)) == ACCEPTED
    assert opened(both) == [*PORTS]
    both.wait(20 * S)
    assert knocks("192.0.2.2") == PASSED, "what has run out makes room"
    both.check_knocks()


# --- who fails ---


def test_failures_are_counted_by_prefix(both: Agreement) -> None:
    state = both.generation.state
    assert state is not None
    before = {(each.family, each.prefix): each.packets for each in state.list_spa_failures()}
    for src in ("192.0.2.1", "192.0.2.255", "2001:db8:7::1", "2001:db8:7:0:ffff::1", "2001:db8:7::2"):
        assert send(both, udp_packet(b"", src)) == "knock.spa_malformed"
    found = {(each.family, each.prefix): each.packets for each in state.list_spa_failures()}
    assert {key: count - before.get(key, 0) for key, count in found.items() if count != before.get(key)} == {
        (1, 0xC0000200): 2,
        (2, 0x20010DB8_00070000 << 64): 3,
    }
