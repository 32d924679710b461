# SPDX-License-Identifier: GPL-2.0-or-later
"""Which frames are steps, which set a sequence back, and which a grant lets through. On a wire as tests/wire.py has it.

Each case has a source of its own, so that one firewall does for all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests import frames
from tests.firewall import policy
from tests.frames import (
    ACK,
    AH,
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    MORE_FRAGMENTS,
    QINQ,
    ROUTING,
    SYN,
    TCP,
    UDP,
    VLAN,
)
from tests.knock_host import BY_KNOCKS, STEPS, ssh_knock
from tests.topology import wait_for
from tests.wire import Wire
from xdpfw.kernel.state import boot_ns

FIN, RST, PSH, URG, ECE, CWR = 0x01, 0x04, 0x08, 0x20, 0x40, 0x80
MSS = bytes((2, 4, 5, 180))
OTHER_V4 = 0xCB007102

RULES = (
    "{name: web, match: {proto: tcp, dport: 80}, action: pass}",
    "{name: telnet, match: {proto: tcp, dport: 23}, action: drop}",
)
GRANTED, CLOSED, STEP = "knock.granted", "knock.closed", "knock.step"

Dress = Callable[[bytes, int, int], bytes]
"""(segment, protocol, number of the source) → frame"""


def v4(segment: bytes, proto: int, source: int, **more: int | bytes) -> bytes:
    return frames.v4_frame(segment, proto, src=0x0A000000 + source, **more)


def v6(segment: bytes, proto: int, source: int) -> bytes:
    return frames.v6_frame(segment, proto, src=frames.SRC_V6 + (source << 16))


def tagged(dress: Dress, *tpids: int) -> Dress:
    tags = b"".join(tpid.to_bytes(2, "big") + b"\0\5" for tpid in tpids)

    def dressed(segment: bytes, proto: int, source: int) -> bytes:
        frame = dress(segment, proto, source)
        return frame[:12] + tags + frame[12:]

    return dressed


def extended(*kinds: int, fragment: int = 0) -> Dress:
    def dressed(segment: bytes, proto: int, source: int) -> bytes:
        return v6(*frames.extended(kinds, segment, proto, fragment=fragment), source)

    return dressed


def v4_with(**more: int | bytes) -> Dress:
    return lambda segment, proto, source: v4(segment, proto, source, **more)


WHOLE: dict[str, Dress] = {
    "v4": v4,
    "v6": v6,
    "v4 options": v4_with(options=bytes((1,) * 40)),
    "v4 a lying option": v4_with(options=frames.tcp(dport=80)),
    "v4 a tag": tagged(v4, VLAN),
    "v4 four tags": tagged(v4, QINQ, QINQ, VLAN, VLAN),
    "v6 two tags": tagged(v6, QINQ, VLAN),
    "v4 padded": lambda *what: v4(*what) + bytes(20),
    "v6 padded": lambda *what: v6(*what) + bytes(20),
    "v6 hop by hop": extended(HOP_BY_HOP),
    "v6 atomic fragment": extended(FRAGMENT),
    "v6 all headers": extended(HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT, AH, DESTINATION),
}
FIRST_FRAGMENTS: dict[str, Dress] = {
    "v4": v4_with(fragment=MORE_FRAGMENTS),
    "v6": extended(FRAGMENT, fragment=1),
    "v6 behind another": extended(HOP_BY_HOP, FRAGMENT, DESTINATION, fragment=1),
    "v4 a tag": tagged(v4_with(fragment=MORE_FRAGMENTS), VLAN),
}
LATER_FRAGMENTS: dict[str, Dress] = {
    "v4": v4_with(fragment=1),
    "v4 not the last": v4_with(fragment=185 | MORE_FRAGMENTS),
    "v6": extended(FRAGMENT, fragment=8),
    "v6 a tag": tagged(extended(FRAGMENT, fragment=185 << 3 | 1), VLAN),
}


def segment_of(step: str) -> tuple[bytes, int]:
    number, _, protocol = step.partition("/")
    return (frames.tcp(dport=int(number)), TCP) if protocol == "tcp" else (frames.udp(dport=int(number)), UDP)


@dataclass
class Knocker:
    """Somebody with an address of his own."""

    wire: Wire
    dress: Dress
    number: int = field(default_factory=itertools.count(1).__next__)

    def send(self, segment: bytes, proto: int = TCP, dress: Dress | None = None) -> str:
        return self.wire.decide((dress or self.dress)(segment, proto, self.number))

    def step(self, *steps: str, dress: Dress | None = None) -> None:
        for step in steps:
            assert self.send(*segment_of(step), dress) == STEP

    @property
    def holds_grant(self) -> bool:
        """A SYN to the port tells; where it is closed, it sets back what was begun."""
        reason = self.send(frames.tcp())
        assert reason in (GRANTED, CLOSED)
        return reason == GRANTED


@pytest.fixture
def ssh(wire: Wire) -> Wire:
    wire.firewall.apply(policy(*RULES, allow=BY_KNOCKS, extra=ssh_knock()))
    return wire


@pytest.fixture(params=["v4", "v6"])
def plain(request: pytest.FixtureRequest) -> Dress:
    return WHOLE[request.param]


def test_what_makes_no_difference_to_a_step(wire: Wire, mode: str) -> None:
    wire.firewall.apply(policy(*RULES, mode=mode, allow=BY_KNOCKS, extra=ssh_knock()))
    for what, dress in WHOLE.items():
        someone = Knocker(wire, dress)
        someone.step(*STEPS)
        assert someone.holds_grant, what


def test_flags_and_options_that_a_bare_syn_may_have(ssh: Wire, plain: Dress) -> None:
    for syn in (
        frames.tcp(dport=7000, flags=SYN | ECE),
        frames.tcp(dport=7000, flags=SYN | ECE | CWR),
        frames.tcp(dport=7000, options=MSS),
        frames.tcp(dport=7000, options=MSS * 10),
        frames.tcp(dport=7000, sport=22),
    ):
        someone = Knocker(ssh, plain)
        assert someone.send(syn) == STEP
        someone.step(*STEPS[1:])
        assert someone.holds_grant


def wrong_packets(port: int) -> Iterator[tuple[str, bytes, int, str]]:
    """What looks like the step ``port/tcp``: name, segment, protocol, reason."""
    for flags in (0, FIN, RST, PSH, ACK, URG, ECE, ECE | CWR, FIN | PSH | URG, 0xFF):
        yield f"flags {flags:#x}", frames.tcp(dport=port, flags=flags), TCP, "default"
    for flags in (FIN, RST, PSH, ACK, URG, ACK | ECE, FIN | CWR):
        yield f"SYN and flags {flags:#x}", frames.tcp(dport=port, flags=SYN | flags), TCP, "default"
    yield "SYN with data", frames.tcp(dport=port) + b"x", TCP, STEP
    yield "SYN with options and data", frames.tcp(dport=port, options=MSS) + b"x", TCP, STEP
    yield "UDP", frames.udp(dport=port), UDP, "default"
    yield "from that port", frames.tcp(sport=port, dport=1), TCP, "default"
    for protocol in (frames.UDPLITE, frames.SCTP, frames.DCCP):
        yield f"protocol {protocol}", frames.PORT_HEADERS[protocol](dport=port), protocol, "default"


@pytest.mark.parametrize("place", [0, 2])
def test_what_is_no_step(ssh: Wire, plain: Dress, place: int) -> None:
    """It is not taken for the step, whatever its flags; and it sets back what was done."""
    port = int(STEPS[place].partition("/")[0])
    for what, segment, proto, reason in wrong_packets(port):
        someone = Knocker(ssh, plain)
        someone.step(*STEPS[:place])
        assert someone.send(segment, proto) == reason, what
        someone.step(*STEPS[place + 1 :] or STEPS[-1:])
        assert not someone.holds_grant, what


def test_what_is_no_datagram(ssh: Wire, plain: Dress) -> None:
    for segment, proto in ((frames.tcp(dport=9000), TCP), (frames.udp(dport=9000), frames.UDPLITE)):
        someone = Knocker(ssh, plain)
        someone.step(STEPS[0])
        assert someone.send(segment, proto) == "default"
        someone.step(STEPS[2])
        assert not someone.holds_grant


def test_fragments_are_no_steps(ssh: Wire) -> None:
    for dresses in (FIRST_FRAGMENTS, LATER_FRAGMENTS):
        for what, dress in dresses.items():
            whole = v4 if what.startswith("v4") else v6
            someone = Knocker(ssh, whole)
            for step in STEPS:
                assert someone.send(*segment_of(step), dress) == "default"
            assert not someone.holds_grant, what
            someone.step(*STEPS[:2])
            assert someone.send(*segment_of(STEPS[2]), dress) == "default"
            someone.step(STEPS[2])
            assert not someone.holds_grant, what


def test_only_the_right_order_opens(ssh: Wire, plain: Dress) -> None:
    for steps in itertools.product(STEPS, repeat=3):
        someone = Knocker(ssh, plain)
        someone.step(*steps)
        assert someone.holds_grant == (steps == STEPS), steps


def test_the_right_steps_at_the_end_of_any_others_open(ssh: Wire) -> None:
    for before in itertools.product(STEPS, repeat=2):
        someone = Knocker(ssh, v4)
        someone.step(*before, *STEPS)
        assert someone.holds_grant, before


def test_steps_that_are_sent_again(ssh: Wire, plain: Dress) -> None:
    """Each one twice, as TCP does where nothing answers. But a first step that comes again behind the second begins
    anew."""
    someone = Knocker(ssh, plain)
    someone.step(*(step for step in STEPS for _ in range(3)))
    assert someone.holds_grant
    other = Knocker(ssh, plain)
    other.step(STEPS[0], STEPS[1], STEPS[0], STEPS[2])
    assert not other.holds_grant
    other.step(STEPS[0], STEPS[1], STEPS[0], STEPS[1], STEPS[2])
    assert other.holds_grant


MULTICAST_V4, BROADCAST_V4 = 0xE00000FB, 0xFFFFFFFF
ECHO_REPLY = frames.icmp(type=0)
UNREACHABLE = frames.icmp(type=3)

INTERRUPTIONS = {
    "a rule drops": (v4(frames.tcp(dport=23), TCP, 0), "rule", True),
    "the default drops": (v4(frames.tcp(dport=24), TCP, 0), "default", True),
    "another protocol": (v4(b"", frames.GRE, 0), "default", True),
    "an echo reply": (v4(ECHO_REPLY, ICMP, 0), "default", True),
    "the closed port": (v4(frames.tcp(), TCP, 0), CLOSED, True),
    "a step of the close": (v4(frames.udp(dport=9001), UDP, 0), STEP, True),
    "a rule passes": (v4(frames.tcp(dport=80), TCP, 0), "rule", False),
    "an allowance": (v4(UNREACHABLE, ICMP, 0), "allow.icmp_errors", False),
    "cut short": (v4(frames.tcp()[:10], TCP, 0), "invalid.l4_header", False),
    "to a group": (v4(frames.udp(dport=5353), UDP, 0, dst=MULTICAST_V4), "default", False),
    "to all": (v4(frames.udp(dport=67), UDP, 0, dst=BROADCAST_V4), "default", False),
    "a step to a group": (v4(frames.udp(dport=9001), UDP, 0, dst=MULTICAST_V4), STEP, False),
}
SOURCE_OFFSET = 14 + 12


@pytest.mark.parametrize("place", [1, 2])
def test_what_sets_back_and_what_does_not(ssh: Wire, place: int) -> None:
    for what, (frame, reason, resets) in INTERRUPTIONS.items():
        someone = Knocker(ssh, v4)
        someone.step(*STEPS[:place])
        number = (0x0A000000 + someone.number).to_bytes(4, "big")
        assert ssh.decide(frame[:SOURCE_OFFSET] + number + frame[SOURCE_OFFSET + 4 :]) == reason, what
        someone.step(*STEPS[place:])
        assert someone.holds_grant != resets, what


def test_late_steps(wire: Wire, plain: Dress) -> None:
    """Each gap, and the whole. The exact edges are tested in virtual time: here, late is late."""
    knocks = ssh_knock(within="10m", step="200ms") + ssh_knock(within="300ms", opens="[23/tcp]").replace(
        "knocks:\n  ssh", "  short"
    )
    wire.firewall.apply(policy(extra=knocks))
    for late in (1, 2):
        someone = Knocker(wire, plain)
        someone.step(*STEPS[:late])
        pause_ns = boot_ns() + 310_000_000
        wait_for(lambda pause_ns=pause_ns: boot_ns() > pause_ns, "the steps to be too old")
        someone.step(*STEPS[late:])
        assert not someone.holds_grant
        assert someone.send(frames.tcp(dport=23)) == CLOSED


def test_a_repeat_does_not_make_a_step_younger(wire: Wire) -> None:
    wire.firewall.apply(policy(allow=BY_KNOCKS, extra=ssh_knock(within="10m", step="300ms")))
    someone = Knocker(wire, v4)
    someone.step(*STEPS[:2])
    late_ns = boot_ns() + 310_000_000
    while boot_ns() < late_ns:
        someone.step(STEPS[1])
    someone.step(STEPS[2])
    assert not someone.holds_grant


WITH_ANY_FLAGS = [frames.tcp(flags=flags) for flags in (0, SYN, SYN | ACK, ACK, ACK | PSH, FIN, RST, 0x3F, 0xFF)]


def test_what_a_grant_lets_through(ssh: Wire) -> None:
    """The port, whatever the packet's flags and dress, first fragments too. Later fragments have no port: the rules
    decide on them, with and without a grant."""
    for family, whole in (("v4", v4), ("v6", v6)):
        stranger, someone = Knocker(ssh, whole), Knocker(ssh, whole)
        someone.step(*STEPS)
        for who, reason in ((someone, GRANTED), (stranger, CLOSED), (someone, GRANTED)):
            for dresses in (WHOLE, FIRST_FRAGMENTS):
                for what, dress in dresses.items():
                    if what.startswith(family):
                        assert who.send(frames.tcp() + b"x", TCP, dress) == reason, what
            for segment in WITH_ANY_FLAGS:
                assert who.send(segment) == reason
            for what, dress in LATER_FRAGMENTS.items():
                if what.startswith(family):
                    assert who.send(frames.tcp(), TCP, dress) == "default", what


def test_what_a_grant_does_not_let_through(ssh: Wire) -> None:
    """Other ports, other protocols, and from that port; nobody else's packets, in no family."""
    someone = Knocker(ssh, v4)
    someone.step(*STEPS)
    assert someone.send(frames.tcp(dport=24)) == "default"
    assert someone.send(frames.udp(dport=22), UDP) == "default"
    assert someone.send(frames.tcp(sport=22, dport=24)) == "default"
    assert someone.send(frames.sctp(dport=22), frames.SCTP) == "default"
    assert someone.send(frames.tcp(dport=23)) == "rule"
    assert someone.send(frames.tcp(), TCP, v6) == CLOSED
    mapped = 0xFFFF << 32 | 0x0A000000 + someone.number
    assert ssh.decide(frames.v6_frame(frames.tcp(), src=mapped)) == CLOSED
    assert ssh.decide(frames.v4_frame(frames.tcp(), src=0x0A000000 + someone.number + 1)) == CLOSED
    inner = frames.ipv4(frames.tcp(), src=0x0A000000 + someone.number)
    assert ssh.decide(frames.v4_frame(inner, proto=4)) == "default"
    assert someone.holds_grant


def test_a_knock_that_listens_at_one_address(wire: Wire) -> None:
    """Steps to another one are no steps, and its grant is not good there."""
    wire.firewall.apply(policy(extra=ssh_knock(to="[203.0.113.1, '2001:db8::1']")))
    elsewhere = v4_with(dst=OTHER_V4)
    someone = Knocker(wire, v4)
    for step in STEPS:
        assert someone.send(*segment_of(step), elsewhere) == "default"
    assert not someone.holds_grant
    someone.step(*STEPS)
    assert someone.holds_grant
    assert someone.send(frames.tcp(), TCP, elsewhere) == "default"


def test_types_of_icmp_as_steps(wire: Wire) -> None:
    wire.firewall.apply(policy(extra=ssh_knock(sequence="[8/icmp, 13.1/icmp, 0/icmp]", close="[144/icmpv6, 8/icmp]")))
    someone = Knocker(wire, v4)
    for segment in (frames.icmp(8, 7), frames.icmp(13, 1), frames.icmp(0)):
        assert someone.send(segment, ICMP) == STEP
    assert someone.holds_grant
    wrong = Knocker(wire, v4)
    assert wrong.send(frames.icmp(8), ICMP) == STEP
    assert wrong.send(frames.icmp(13, 0), ICMP) == "default"
    other = Knocker(wire, v6)
    assert other.send(frames.icmp(8), ICMPV6) == "default"
    assert other.send(frames.icmp(128), ICMPV6) == STEP
    assert other.send(frames.icmp(13, 1), ICMPV6) == "default"
    assert other.send(frames.icmp(144), ICMPV6) == STEP
    assert other.send(frames.icmp(128), ICMP) == "default"


def test_a_frame_that_says_it_is_of_another_family(ssh: Wire) -> None:
    """An IPv4 packet with the Ethertype of IPv6, and the other way round, is no step of anybody."""
    for ethertype, packet in ((IPV6, frames.ipv4(frames.tcp(dport=7000))), (IPV4, frames.ipv6(frames.tcp(dport=7000)))):
        assert ssh.decide(frames.ethernet(ethertype, packet)).startswith("invalid.")
