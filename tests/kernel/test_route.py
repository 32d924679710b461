# SPDX-License-Identifier: GPL-2.0-or-later
"""``route: fib``: what XDP forwards and what the stack gets; in test runs, then by a FIB of the test's own.

    namespace                  peer_namespace
┌──────────────────┐        ┌──────────────────┐
│ lo ─► XDP        │        │                  │
│      veth0 ──────┼────────┼──── peer0        │
│     10.1.0.1/24  │        │                  │
└──────────────────┘        └──────────────────┘

Test runs come in on ``lo``, whose MAC address is 0.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frames import (
    AH,
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    IPV4,
    IPV6,
    ROUTING,
    UDP,
    VLAN,
    ethernet,
    extended,
    ipv4,
    ipv6,
    tcp,
    udp,
)
from tests.kernel.agreement import agreement, one_hop_further
from tests.kernel.conftest import Pair, ip
from tests.kernel.fields import ARP, GRE4, ICMP4, ICMP6, LATER4, LATER6, TCP4, TCP6, UDP4, UDP6
from tests.kernel.test_buffers import split_after
from tests.policies import policy
from xdpfw.compiler import ir
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel.interface import find, namespace
from xdpfw.kernel.maps import possible_cpus
from xdpfw.kernel.program import Generation
from xdpfw.kernel.targets import Station, online_cpus, write_cpus, write_stations
from xdpfw.kernel.testrun import LOOPBACK
from xdpfw.packet.notation import parse_packet

pytestmark = pytest.mark.needs("privileges", "data plane")

ALL = ir.Match()
ROUTED = policy(ir.Rule("on", ALL, ir.Action(ir.ActionKind.ROUTE)), default=ir.Verdict.DROP)

v4_udp = functools.partial(ipv4, udp() + bytes(20), UDP)
v6_udp = functools.partial(ipv6, udp() + bytes(20), UDP)


def v4(**fields: int) -> bytes:
    return ethernet(IPV4, v4_udp(**fields))


def v6(**fields: int) -> bytes:
    return ethernet(IPV6, v6_udp(**fields))


def address(text: str) -> int:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return int.from_bytes(socket.inet_pton(family, text))


def with_checksum(frame: bytes, checksum: int) -> bytes:
    return frame[:24] + checksum.to_bytes(2) + frame[26:]


def right_checksum(frame: bytes) -> int:
    """Of the 20 bytes of the IPv4 header as they are (RFC 1071)."""
    header = frame[14:24] + b"\0\0" + frame[26:34]
    total = sum(struct.unpack("!10H", header))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_a_packet_goes_on_one_hop_further() -> None:
    packets = (TCP4, TCP6, UDP4, UDP6, ICMP4, ICMP6, GRE4, LATER4, LATER6)
    with agreement(ROUTED) as both:
        for frame in map(parse_packet, packets):
            assert both.run(frame).verdict == "redirect"
            assert both.left == one_hop_further(frame) != frame
        assert both.counted("on") == len(packets)


def test_the_checksum_stays_right() -> None:
    drawn = random.Random(1)
    with agreement(ROUTED) as both:
        for ttl in (2, 3, 64, 128, 255) * 50:
            src, dst = (drawn.randrange(1 << 24, 100 << 24) for _ in range(2))
            frame = v4(ttl=ttl, tos=drawn.randrange(256), src=src, dst=dst)
            frame = with_checksum(frame, right_checksum(frame))
            assert both.run(frame).verdict == "redirect"
            assert int.from_bytes(both.left[24:26]) == right_checksum(both.left)
            assert both.left[22] == ttl - 1


def test_a_wrong_checksum_stays_as_wrong_as_it_is() -> None:
    """The next hop is to see that it is wrong: no fresh one is written."""
    with agreement(ROUTED) as both:
        for checksum in (0, 1, 0xFE, 0xFF, 0x100, 0xFEFE, 0xFEFF, 0xFF00, 0xFFFE, 0xFFFF):
            both.run(with_checksum(v4(), checksum))


UP = {
    "TTL 1": v4(ttl=1),
    "TTL 0": v4(ttl=0),
    "hop limit 1": v6(hop_limit=1),
    "hop limit 0": v6(hop_limit=0),
    "options": ethernet(IPV4, v4_udp(options=b"\x94\x04\x00\x00")),
    "a tag": ethernet(IPV4, v4_udp(), tags=[(VLAN, 5)]),
    "a tag of VLAN 0": ethernet(IPV6, v6_udp(), tags=[(VLAN, 0)]),
    "ARP": parse_packet(ARP),
    "MAC broadcast": ethernet(IPV4, v4_udp(), dst_mac=(1 << 48) - 1),
    "MAC multicast": ethernet(IPV6, v6_udp(), dst_mac=0x333300000001),
}
for each in (HOP_BY_HOP, ROUTING, DESTINATION, AH):
    UP[f"extension header {each}"] = ethernet(IPV6, ipv6(*extended([each], tcp())))
for text in (
    *("0.0.0.0", "0.255.255.255", "127.0.0.1", "169.254.0.0", "169.254.255.255", "224.0.0.1", "239.255.255.255"),
    *("240.0.0.1", "255.255.255.255"),
):
    UP |= {f"to {text}": v4(dst=address(text)), f"from {text}": v4(src=address(text))}
for text in ("::", "::1", "::ffff:192.0.2.1", "::192.0.2.1", "fe80::1", "febf:ffff::1", "ff02::1", "ff0e::1"):
    UP |= {f"to {text}": v6(dst=address(text)), f"from {text}": v6(src=address(text))}

ON = {
    "TTL 2": v4(ttl=2),
    "hop limit 2": v6(hop_limit=2),
    "an atomic fragment": ethernet(IPV6, ipv6(*extended([FRAGMENT], tcp()))),
    "a first fragment": ethernet(IPV6, ipv6(*extended([FRAGMENT], tcp(), fragment=1))),
    "a jumbo frame": ethernet(IPV4, ipv4(tcp() + bytes(8900))),
    "padding": ethernet(IPV4, v4_udp() + bytes(100)),
}
for text in ("1.0.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "223.255.255.255"):
    ON |= {f"to {text}": v4(dst=address(text)), f"from {text}": v4(src=address(text))}
for text in ("0:0:0:1::", "64:ff9b::1", "fe7f::1", "fec0::1", "feff::1", "fc00::1"):
    ON |= {f"to {text}": v6(dst=address(text)), f"from {text}": v6(src=address(text))}


def test_what_routers_do_not_simply_pass_on_goes_up_the_stack_as_it_came() -> None:
    with agreement(ROUTED) as both:
        for label, frame in UP.items():
            assert both.run(frame).verdict == "pass", label
            assert both.left == frame


def test_what_is_just_beside_that_goes_on() -> None:
    with agreement(ROUTED) as both:
        for label, frame in ON.items():
            assert both.run(frame).verdict == "redirect", label


@pytest.mark.parametrize(("frame", "header_bytes"), [(v4(), 34), (v6(), 54)], ids=["v4", "v6"])
@pytest.mark.parametrize("less", [0, 1, 20])
def test_headers_in_several_buffers_are_the_stacks(frame: bytes, header_bytes: int, less: int) -> None:
    """They could be written only one after the other, and a packet must not be half changed."""
    if not _splits():
        pytest.skip("this kernel's test runs split frames of more than a page only (Linux 6.18)")
    with Generation.load(compile_policy(ROUTED), interfaces=[], targets=[], trace=True) as generation:
        outcome = split_after(generation, header_bytes - less)(frame, 0)
    assert (outcome.verdict, outcome.frame) == (("pass", frame) if less else ("redirect", one_hop_further(frame)))


@functools.cache
def _splits() -> bool:
    major, minor = map(int, Path("/proc/sys/kernel/osrelease").read_text(encoding="ascii").split(".")[:2])
    return (major, minor) >= (6, 18)


def test_a_policy_without_such_rules_has_room_for_one_neighbour_only() -> None:
    with Generation.load(compile_policy(policy()), interfaces=[], targets=[]) as generation:
        assert generation.maps.reminders.max_entries == 1


# By a FIB of the test's own.

LOCAL_MAC = 0
NEXT_HOP = "02:00:00:00:00:99"


@dataclasses.dataclass
class Router:
    pair: Pair
    generation: Generation
    ifindex: int
    mac: bytes

    def run(self, frame: bytes) -> tuple[str, bytes]:
        """By the FIB; the first packet to a neighbour apart, which the stack gets."""
        with namespace(self.pair.namespace):
            outcome = self.generation.run(frame)
            if outcome.verdict == "pass":
                outcome = self.generation.run(frame)
        return outcome.verdict, outcome.frame

    def ip(self, *arguments: str) -> None:
        ip("-n", self.pair.namespace, *arguments)

    def sysctl(self, key: str, value: int) -> None:
        with namespace(self.pair.namespace):
            Path("/proc/sys/net", key).write_text(str(value), encoding="ascii")

    def forwarded(self, frame: bytes) -> bytes:
        """The frame as it goes on to NEXT_HOP."""
        return bytes.fromhex(NEXT_HOP.replace(":", "")) + self.mac + one_hop_further(frame)[12:]


@pytest.fixture
def router(veth: Pair) -> Iterator[Router]:
    ip("-n", veth.namespace, "link", "set", "lo", "up")
    for prefix in ("10.1.0.1/24", "2001:db8:1::1/64"):
        ip("-n", veth.namespace, "address", "add", prefix, "dev", veth.name, *(["nodad"] if ":" in prefix else []))
    for neighbour in ("10.1.0.2", "2001:db8:1::2"):
        ip("-n", veth.namespace, "neighbour", "add", neighbour, "lladdr", NEXT_HOP, "dev", veth.name)
    ip("-n", veth.namespace, "route", "add", "203.0.113.0/24", "via", "10.1.0.2")
    ip("-n", veth.namespace, "route", "add", "2001:db8:f::/48", "via", "2001:db8:1::2")
    with namespace(veth.namespace):
        info = find(veth.name)
        for key in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", key).write_text("1", encoding="ascii")
        with Generation.load(
            compile_policy(dataclasses.replace(ROUTED, interfaces=ROUTED.interfaces[:1])),
            interfaces=[LOOPBACK],
            targets=[],
        ) as generation:
            made = Router(veth, generation, info.ifindex, info.mac)
            write_stations(generation.maps.routes, generation.maps.stations, [Station(info.ifindex, bytes(6), True)])
            yield made


def to(text: str, **fields: int) -> bytes:
    fields = {"dst": address(text), **fields}
    if ":" in text:
        return ethernet(IPV6, v6_udp(**fields), dst_mac=LOCAL_MAC)
    return ethernet(IPV4, v4_udp(**fields), dst_mac=LOCAL_MAC)


def sized(text: str, length: int) -> bytes:
    """Of so many bytes from the IP header on."""
    if ":" in text:
        return ethernet(IPV6, ipv6(udp() + bytes(length - 48), UDP, dst=address(text)), dst_mac=LOCAL_MAC)
    return ethernet(IPV4, ipv4(udp() + bytes(length - 28), UDP, dst=address(text)), dst_mac=LOCAL_MAC)


V4, V6 = "203.0.113.7", "2001:db8:f::7"
BOTH = pytest.mark.parametrize("destination", [V4, V6], ids=["v4", "v6"])


@BOTH
def test_the_kernels_routes_say_where_to(router: Router, destination: str) -> None:
    frame = to(destination)
    assert router.run(frame) == ("redirect", router.forwarded(frame))


@BOTH
def test_no_way_is_the_stacks_to_tell(router: Router, destination: str) -> None:
    away = "198.18.0.1" if destination == V4 else "2001:db8:ffff::1"
    frame = to(away)
    assert router.run(frame) == ("pass", frame)
    for kind in ("unreachable", "blackhole", "prohibit"):
        frame = to(destination)
        router.ip("route", "replace", kind, f"{destination}/{32 if destination == V4 else 128}")
        assert router.run(frame) == ("pass", frame), kind
        router.ip("route", "delete", kind, f"{destination}/{32 if destination == V4 else 128}")


@pytest.mark.parametrize("destination", ["10.1.0.1", "2001:db8:1::1", "10.1.0.255"])
def test_what_is_for_the_router_goes_up(router: Router, destination: str) -> None:
    frame = to(destination)
    assert router.run(frame) == ("pass", frame)


@pytest.mark.parametrize("destination", ["10.1.0.77", "2001:db8:1::77"])
def test_a_neighbour_that_nobody_knows_yet_is_the_stacks_to_find(router: Router, destination: str) -> None:
    frame = to(destination)
    assert router.run(frame) == ("pass", frame)


@BOTH
def test_what_is_too_long_for_the_way_goes_up(router: Router, destination: str) -> None:
    fits, too_long = sized(destination, 1500), sized(destination, 1501)
    assert router.run(fits) == ("redirect", router.forwarded(fits))
    assert router.run(too_long) == ("pass", too_long)
    gateway = "10.1.0.2" if destination == V4 else "2001:db8:1::2"
    router.ip("route", "add", destination, "via", gateway, "mtu", "lock", "1300")
    assert [router.run(sized(destination, length))[0] for length in (1300, 1301)] == ["redirect", "pass"]


@BOTH
def test_padding_that_no_driver_would_send_is_the_stacks_to_take_off(router: Router, destination: str) -> None:
    frame = to(destination) + bytes(1500)
    assert router.run(frame) == ("pass", frame)


def test_lengths_beyond_what_the_look_up_has_room_for_do_not_wrap(router: Router) -> None:
    """40 bytes of header and 65,500 of payload are 65,540, of which 16 bits are 4."""
    frame = sized(V6, 65_540)
    assert router.run(frame) == ("pass", frame)


@BOTH
def test_where_forwarding_is_off_nothing_is_forwarded(router: Router, destination: str) -> None:
    frame = to(destination)
    router.sysctl(f"ipv{4 if destination == V4 else 6}/conf/all/forwarding", 0)
    assert router.run(frame) == ("pass", frame)


@BOTH
def test_an_interface_that_is_not_the_policys_gets_nothing_from_xdp(router: Router, destination: str) -> None:
    frame = to(destination)
    maps = router.generation.maps
    write_stations(maps.routes, maps.stations, [Station(router.ifindex, bytes(6), False)])
    assert router.run(frame) == ("pass", frame)


@BOTH
def test_frames_for_other_stations_are_not_forwarded(router: Router, destination: str) -> None:
    """They are seen while somebody listens on the interface, or a switch does not know yet where they belong."""
    frame = bytes.fromhex("020000000077") + to(destination)[6:]
    assert router.run(frame) == ("pass", frame)
    maps = router.generation.maps
    write_stations(maps.routes, maps.stations, [Station(router.ifindex, bytes.fromhex("020000000077"), True)])
    assert router.run(frame) == ("redirect", router.forwarded(frame))


@BOTH
def test_rules_of_the_routing_policy_see_ports_and_class(router: Router, destination: str) -> None:
    family = "-4" if destination == V4 else "-6"
    router.ip(family, "rule", "add", "dport", "53", "ipproto", "udp", "prohibit", "priority", "10")
    router.ip(family, "rule", "add", "tos", "0x10", "prohibit", "priority", "11")
    for dport, tos, verdict in ((53, 0, "pass"), (54, 0, "redirect"), (54, 0x10, "pass")):
        if destination == V4:
            frame = ethernet(IPV4, ipv4(udp(dport=dport), UDP, dst=address(V4), tos=tos), dst_mac=LOCAL_MAC)
        else:
            packet = ipv6(udp(dport=dport), UDP, dst=address(V6), traffic_class=tos)
            frame = ethernet(IPV6, packet, dst_mac=LOCAL_MAC)
        assert router.run(frame)[0] == verdict


@BOTH
def test_the_stack_gets_a_packet_for_each_neighbour_now_and_then(router: Router, destination: str) -> None:
    """Or else it would never ask whether a neighbour is still there, nor learn of another MAC address."""
    frame = to(destination)
    with namespace(router.pair.namespace):
        found = [router.generation.run(frame).verdict for _ in range(1000)]
    assert 1 <= found.count("pass") <= 4
    assert found.count("redirect") == 1000 - found.count("pass")


# To other CPUs.


def spread(*cpus: int) -> ir.Policy:
    rule = ir.Rule("up", ALL, ir.Action(ir.ActionKind.CPU, cpus=cpus))
    return dataclasses.replace(policy(rule, default=ir.Verdict.DROP), interfaces=(ir.Interface("a"),))


def test_spreading_is_a_redirect_that_leaves_the_packet_as_it_is() -> None:
    with agreement(policy(ir.Rule("up", ALL, ir.Action(ir.ActionKind.CPU, cpus=(0, 1, 7))))) as both:
        for packet in (TCP4, TCP6, LATER4, LATER6, ARP, ICMP6):
            assert both.run(packet).verdict == "redirect"
            assert both.left == parse_packet(packet)


@pytest.fixture
def two() -> Iterator[Callable[[bytes], int]]:
    """Which of two CPUs a frame goes to: the map has only the second, and the others stay on this one."""
    if possible_cpus() < 2 or not online_cpus()[1] >= {0, 1}:
        pytest.skip("needs two CPUs")
    with Generation.load(compile_policy(spread(0, 1)), interfaces=[LOOPBACK], targets=[]) as generation:
        write_cpus(generation.maps.cpus, [1])
        yield lambda frame: {"pass": 0, "redirect": 1}[generation.run(frame).verdict]


def test_flows_are_spread_evenly_and_stay_where_they_are(two: Callable[[bytes], int]) -> None:
    flows = [ethernet(IPV4, ipv4(tcp(sport=port, dport=443))) for port in range(2000, 3000)]
    flows += [ethernet(IPV6, ipv6(tcp(), src=address("2001:db8::") + host)) for host in range(1000)]
    first = [two(frame) for frame in flows]
    assert [two(frame) for frame in flows] == first
    for part in (first[:1000], first[1000:]):
        assert 400 < sum(part) < 600


def test_all_fragments_of_a_datagram_go_to_the_same_cpu(two: Callable[[bytes], int]) -> None:
    for host in range(50):
        src = address("198.51.100.0") + host
        parts = [
            ethernet(IPV4, ipv4(udp() + bytes(16), UDP, src=src, fragment=0x2000)),
            ethernet(IPV4, ipv4(bytes(range(24)), UDP, src=src, fragment=0x2003)),
            ethernet(IPV4, ipv4(bytes(24), UDP, src=src, fragment=6)),
        ]
        assert len({two(frame) for frame in parts}) == 1
