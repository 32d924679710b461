# SPDX-License-Identifier: GPL-2.0-or-later
"""protect.syn: which SYNs are answered and how, what a cookie that comes back opens, and what it does not."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tests import frames
from tests.kernel.agreement import FIRST_IFINDEX, Agreement, agreement
from tests.kernel.odd_frames import INVALID, VALID
from tests.knocking import KNOCKER, S, knock
from tests.policies import NOTHING_ALLOWED, one, policy, rule
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.compiler.ir import ActionKind, Match
from xdpfw.kernel import abi
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import START_BOOT_NS
from xdpfw.packet.notation import parse_packet

pytestmark = pytest.mark.needs("privileges", "data plane", "SYN cookies")

PORT, OPEN = 443, 80
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
COOKIE, BAD = "protect.syn_cookie", "protect.bad_cookie"
LOOPBACK_MTU = 65536
HOUR_NS = 3600 * S
V4, V6 = "198.51.100.7", "2001:db8::7"

PROTECTED = replace(policy(), protect_syn=one(PORT))


@contextlib.contextmanager
def loaded(found: ir.Policy) -> Iterator[Generation]:
    ifindexes = [FIRST_IFINDEX + index for index in range(len(found.interfaces))]
    with Generation.load(compile_policy(found), interfaces=ifindexes, targets=[], trace=True) as generation:
        yield generation


@pytest.fixture(scope="module")
def both() -> Iterator[Agreement]:
    with agreement(PROTECTED) as found:
        yield found


@pytest.fixture
def generation() -> Iterator[Generation]:
    """Of the same policy, with a state of its own: what follows a right cookie, the reference does not know."""
    with loaded(PROTECTED) as found:
        yield found


@dataclass(frozen=True)
class Client:
    """Half a TCP connection of a source, with the sequence numbers that it has."""

    src: str = V4
    sport: int = 40000
    dport: int = PORT
    first: int = 0xFFFFFFFF

    def frame(self, flags: int, seq: int, ack: int = 0, payload: bytes = b"") -> bytes:
        dst = "[2001:db8::1]" if ":" in self.src else "203.0.113.1"
        src = f"[{self.src}]" if ":" in self.src else self.src
        frame = bytearray(parse_packet(f"tcp {src}:{self.sport} > {dst}:{self.dport} S"))
        at = 54 if ":" in self.src else 34
        struct.pack_into("!II", frame, at + 4, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF)
        frame[at + 13] = flags
        return bytes(frame) + payload

    def syn(self) -> bytes:
        return self.frame(SYN, self.first)

    def ack(self, cookie: int, flags: int = ACK) -> bytes:
        return self.frame(flags, self.first + 1, cookie + 1)

    def cookie(self, generation: Generation) -> int:
        """That of the answer to its SYN."""
        outcome = generation.run(self.syn())
        assert (outcome.verdict, outcome.reason) == ("tx", COOKIE)
        return int(Ether(outcome.frame)[TCP].seq)

    def meet(self, generation: Generation, boot_ns: int = START_BOOT_NS) -> None:
        """Brings a cookie back."""
        assert generation.run(self.ack(self.cookie(generation)), boot_ns=boot_ns).verdict == "pass"


def checked(frame: bytes) -> Any:
    """An answer, whose lengths and checksums are what scapy makes of its other fields."""
    answer, again = Ether(frame), Ether(frame)
    if IP in again:
        del again[IP].chksum, again[IP].len
    else:
        del again[IPv6].plen
    del again[TCP].chksum, again[TCP].dataofs
    assert bytes(again) == frame
    return answer


OPTIONS = b"\x02\x04\x05\xb4\x04\x02\x08\x0a\0\0\0\1\0\0\0\0\x01\x03\x03\x07"
"""As Linux sends them: MSS 1460, SACK, timestamps, window scaling."""

TO_PORT = frames.tcp(dport=PORT)
SYNS = {
    "IPv4": frames.v4_frame(TO_PORT),
    "IPv6": frames.v6_frame(TO_PORT),
    "with options": frames.v4_frame(frames.tcp(dport=PORT, options=OPTIONS)),
    "with all options that there is room for": frames.v6_frame(frames.tcp(dport=PORT, options=OPTIONS * 2)),
    "with data": frames.v4_frame(TO_PORT + bytes(1000)),
    "with padding": frames.v4_frame(TO_PORT) + bytes(100),
    "with data in several buffers": frames.v4_frame(TO_PORT + bytes(9000)),
    "with IPv4 options": frames.v4_frame(TO_PORT, options=bytes([1] * 40)),
    "behind a tag": frames.ethernet(frames.IPV4, frames.ipv4(TO_PORT), tags=[(frames.VLAN, 7)]),
    "behind two tags": frames.ethernet(frames.IPV6, frames.ipv6(TO_PORT), tags=[(frames.QINQ, 7), (frames.VLAN, 8)]),
    "behind extension headers": frames.v6_frame(*frames.extended([frames.HOP_BY_HOP, frames.DESTINATION], TO_PORT)),
    "an atomic fragment": frames.v6_frame(*frames.extended([frames.FRAGMENT], TO_PORT)),
    "that asks for ECN": frames.v4_frame(frames.tcp(dport=PORT, flags=SYN | ECE | CWR)),
    "urgent": frames.v4_frame(frames.tcp(dport=PORT, flags=SYN | URG | PSH)),
}


@pytest.mark.parametrize("kind", SYNS)
def test_a_syn_is_answered(both: Agreement, kind: str) -> None:
    syn = Ether(SYNS[kind])
    assert both.run(SYNS[kind]).reason == COOKIE
    answer = checked(both.left)
    at = SYNS[kind].index(b"\x45" if IP in syn else b"\x60", 12) if kind != "with IPv4 options" else 14
    headers = 20 if IP in answer else 40
    assert len(both.left) == at + headers + 24
    assert both.left[:12] == SYNS[kind][6:12] + SYNS[kind][:6]
    assert both.left[12:at] == SYNS[kind][12:at]
    ip = answer[IP] if IP in answer else answer[IPv6]
    asked = syn[IP] if IP in syn else syn[IPv6]
    assert (ip.src, ip.dst) == (asked.dst, asked.src)
    assert ip.ttl == 64 if IP in answer else ip.hlim == 64
    tcp = answer[TCP]
    assert (tcp.sport, tcp.dport, tcp.ack, str(tcp.flags)) == (PORT, 40000, 1, "SA")
    assert tcp.options == [("MSS", min(LOOPBACK_MTU - headers - 20, 0xFFFF))]


def test_every_other_combination_of_flags_is_dropped(both: Agreement) -> None:
    for flags in range(256):
        decided = both.run(frames.v4_frame(frames.tcp(dport=PORT, flags=flags)))
        assert decided.reason == (COOKIE if flags & (FIN | SYN | RST | ACK) == SYN else BAD), flags


def test_other_ports_and_protocols_are_left_alone(both: Agreement) -> None:
    for port in (0, PORT - 1, PORT + 1, PORT + 64, PORT ^ 0x8000, 65535):
        assert both.run(frames.v4_frame(frames.tcp(dport=port))).reason == "default"
    assert both.run(frames.v4_frame(frames.tcp(sport=PORT, dport=OPEN))).reason == "default"
    for proto in (frames.UDP, frames.SCTP):
        assert both.run(frames.v4_frame(frames.PORT_HEADERS[proto](dport=PORT), proto)).reason == "default"
    assert both.run(frames.v4_frame(TO_PORT, fragment=100)).reason == "default"
    assert both.run("arp 192.0.2.7 > 192.0.2.1").reason == "default"


@pytest.mark.parametrize("ranges", [one(0), one(65535), one(0, 65535), one(63, 64), one(443) + one(8000, 8099)])
def test_ranges_of_ports_end_where_they_say(ranges: ir.Ranges) -> None:
    with agreement(replace(PROTECTED, protect_syn=ranges)) as found:
        for port in {p for r in ranges for p in (r.low - 1, r.low, r.high, r.high + 1)} & set(range(65536)):
            found.run(frames.v4_frame(frames.tcp(dport=port)))


def test_a_first_fragment_is_not_answered(both: Agreement) -> None:
    assert both.run(frames.v4_frame(TO_PORT + bytes(4), fragment=frames.MORE_FRAGMENTS)).reason == BAD
    assert both.run(frames.v6_frame(*frames.extended([frames.FRAGMENT], TO_PORT, fragment=1))).reason == BAD


def test_nothing_is_sent_to_or_for_a_group() -> None:
    v4 = [0, 1, 0x7F000001, 0xE0000001, 0xEFFFFFFF, 0xF0000001, 0xFFFFFFFF]
    v6 = [0, 1, 0xFF02 << 112 | 1, 0xFF << 120]
    with agreement(PROTECTED) as found:
        for address in v4:
            assert found.run(frames.v4_frame(TO_PORT, src=address)).reason == BAD
            assert found.run(frames.v4_frame(TO_PORT, dst=address)).reason == BAD
        for address in v6:
            assert found.run(frames.v6_frame(TO_PORT, src=address)).reason == BAD
            assert found.run(frames.v6_frame(TO_PORT, dst=address)).reason == BAD
        for macs in ({"src_mac": 1 << 40}, {"dst_mac": 0xFFFFFFFFFFFF}, {"dst_mac": 0x333300000001}):
            assert found.run(frames.ethernet(frames.IPV4, frames.ipv4(TO_PORT), **macs)).reason == BAD
        for address in (0x01000000, 0x7E000001, 0x80000000, 0xDFFFFFFF):
            assert found.run(frames.v4_frame(TO_PORT, src=address)).reason == COOKIE
        assert found.run(frames.v6_frame(TO_PORT, src=2)).reason == COOKIE


def test_what_the_rules_drop_is_not_answered() -> None:
    only = Match(proto=one(6), dport=one(PORT))
    found = replace(policy(rule(0, only, ActionKind.PASS), default=ir.Verdict.DROP), protect_syn=one(1, 65535))
    with agreement(found) as closed:
        assert closed.run(frames.v4_frame(TO_PORT)).reason == COOKIE
        assert closed.run(frames.v4_frame(frames.tcp(dport=OPEN))).reason == "default"
        assert closed.run(frames.v4_frame(frames.tcp(dport=OPEN, flags=ACK))).reason == "default"


def test_odd_frames_agree(both: Agreement) -> None:
    with agreement(replace(PROTECTED, protect_syn=one(0, 65535))) as found:
        for frame in (frame for kind in INVALID.values() for frame in kind):
            found.run(frame)
        for each in VALID:
            found.run(each if isinstance(each, bytes) else each[0])


@pytest.mark.parametrize("src", [V4, V6])
def test_who_brings_a_cookie_back_is_known_from_then_on(generation: Generation, src: str) -> None:
    client = Client(src)
    client.meet(generation)
    again = replace(client, sport=40001)
    assert generation.run(again.syn()).verdict == "pass"
    assert generation.run(again.frame(ACK | PSH, 77, 78)).verdict == "pass"
    other = replace(client, src=V4[:-1] + "8" if src == V4 else "2001:db8::8")
    assert generation.run(other.syn()).reason == COOKIE


def test_an_hour_later_the_source_is_asked_again(generation: Generation) -> None:
    client = Client()
    client.meet(generation)
    assert generation.run(client.syn(), boot_ns=START_BOOT_NS + HOUR_NS - S).verdict == "pass"
    assert generation.run(client.syn(), boot_ns=START_BOOT_NS + HOUR_NS).reason == COOKIE


def forged(client: Client, cookie: int) -> dict[str, bytes]:
    return {
        "another number": client.ack(cookie + 4),
        "one bit off": client.ack(cookie ^ 0x00800000),
        "another minute": client.ack(cookie + (2 << 24)),
        "another source": replace(client, src="198.51.100.8").ack(cookie),
        "another port of the source": replace(client, sport=40001).ack(cookie),
        "another sequence number": replace(client, first=5).ack(cookie),
        "with SYN": client.ack(cookie, SYN | ACK),
        "with RST": client.ack(cookie, RST | ACK),
        "nothing acknowledged": client.ack(cookie, PSH),
        "in a fragment": frames.v4_frame(client.ack(cookie)[34:], fragment=frames.MORE_FRAGMENTS),
    }


@pytest.mark.parametrize("kind", forged(Client(), 0))
def test_a_wrong_cookie_makes_nobody_known(generation: Generation, kind: str) -> None:
    client = Client()
    frame = forged(client, client.cookie(generation))[kind]
    outcome = generation.run(frame)
    assert (outcome.verdict, outcome.reason) == ("drop", BAD)
    assert generation.state is not None
    assert not any(generation.state.acquaintances.read_all())


def test_data_with_the_cookie_is_as_good(generation: Generation) -> None:
    """The bare acknowledgement may be lost: what comes next brings the cookie, too."""
    client = Client()
    cookie = client.cookie(generation)
    assert generation.run(client.frame(ACK | PSH, client.first + 1, cookie + 1, b"GET")).verdict == "pass"


def only_syns(**members: Any) -> ir.Policy:
    syn = Match(proto=one(6), dport=one(PORT), tcp_flags=(ir.TcpFlags(SYN, ACK),))
    return replace(policy(rule(0, syn, ActionKind.PASS), default=ir.Verdict.DROP), protect_syn=one(PORT), **members)


def test_a_rule_for_syns_alone_lets_the_cookie_in() -> None:
    with loaded(only_syns()) as generation:
        client = Client()
        outcome = generation.run(client.ack(client.cookie(generation)))
        assert (outcome.verdict, outcome.reason, outcome.rule) == ("pass", "rule", 0)
        assert generation.run(client.frame(ACK, 5, 6)).verdict == "drop"


@pytest.mark.parametrize("established", [False, True])
def test_a_right_cookie_opens_no_closed_port(generation: Generation, established: bool) -> None:
    """Cookies can be guessed, one in half a thousand million."""
    client = Client()
    cookie = client.cookie(generation)
    allow = replace(NOTHING_ALLOWED, established=established)
    with loaded(replace(policy(default=ir.Verdict.DROP, allow=allow), protect_syn=one(PORT))) as closed:
        outcome = closed.run(client.ack(cookie))
    assert (outcome.verdict, outcome.reason) == ("drop", "default")


def test_a_right_cookie_opens_no_port_that_a_knock_opens(generation: Generation) -> None:
    found = replace(PROTECTED, knocks=(knock("web", "7000/tcp 9000/udp", f"{PORT}/tcp"),))
    client = Client(KNOCKER)
    cookie = client.cookie(generation)
    with loaded(found) as guarded:
        assert guarded.run(client.syn()).reason == "knock.closed"
        assert guarded.run(client.ack(cookie)).reason == "knock.closed"


def fill(generation: Generation, slot: Callable[[int], int]) -> None:
    """Puts ``slot(number)`` into every slot of the table."""
    assert generation.state is not None
    table = generation.state.acquaintances
    slots = int(abi.Limit.BUCKET_SLOTS)
    for bucket in range(table.max_entries):
        table.write(bucket, struct.pack(f"={slots}Q", *(slot(number) for number in range(slots))))


def test_in_a_full_table_the_oldest_gives_way(generation: Generation) -> None:
    now_s = START_BOOT_NS // S
    fill(generation, lambda number: (number + 1) << 32 | now_s - (100 if number == 5 else 10))
    client = Client()
    client.meet(generation)
    assert generation.run(client.syn()).verdict == "pass"
    assert generation.state is not None
    slots = memoryview(generation.state.acquaintances.read_all()).cast("Q").tolist()
    changed = [at % 8 for at, slot in enumerate(slots) if slot >> 32 != at % 8 + 1]
    assert changed == [5]


def test_a_source_takes_one_place_however_often_it_comes(generation: Generation) -> None:
    clients = [Client(sport=sport) for sport in range(40000, 40020)]
    cookies = [client.cookie(generation) for client in clients]
    for client, cookie in zip(clients, cookies, strict=True):
        assert generation.run(client.ack(cookie)).verdict == "pass"
    assert generation.state is not None
    assert sum(slot != 0 for slot in memoryview(generation.state.acquaintances.read_all()).cast("Q")) == 1
