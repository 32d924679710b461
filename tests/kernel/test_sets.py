# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic sets and bans in the program, beside the reference."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from tests.frames import (
    AH,
    DESTINATION,
    ESP,
    FRAGMENT,
    GRE,
    HOP_BY_HOP,
    MORE_FRAGMENTS,
    UDP,
    extended,
    v4_frame,
    v6_frame,
)
from tests.kernel.agreement import Agreement, agreement
from tests.policies import policy
from xdpfw.compiler import ir
from xdpfw.compiler.ir import AddressRanges, Range
from xdpfw.kernel import abi
from xdpfw.kernel.members import MemberSet, keys_of, prefixes_of
from xdpfw.kernel.state import NS_PER_S
from xdpfw.reference.memory import MemberKey
from xdpfw.reference.sets import SWEEP_MEMBERS

pytestmark = pytest.mark.needs("privileges", "data plane")

EVERYTHING = ir.Match()
NEAR = "tcp 198.51.100.8:1 > 203.0.113.1:80 S"
BANNED = "tcp 198.51.100.7:1 > 203.0.113.1:80 S"


def firewall(
    *rules: ir.Rule,
    sets: tuple[ir.DynamicSet, ...] = (),
    never: AddressRanges | None = None,
    allow: ir.Allow | None = None,
    default: ir.Verdict = ir.Verdict.PASS,
) -> ir.Policy:
    found = policy(*rules, default=default)
    return replace(found, dynamic_sets=sets, never_ban=never, allow=allow or found.allow)


def adding(to: str, timeout_ns: int | None = None) -> ir.Rule:
    """Puts the source of each UDP packet into a set."""
    match = ir.Match(proto=(Range(17, 17),))
    return ir.Rule("add", match, ir.Action(ir.ActionKind.PASS), add_to=ir.AddTo(to, timeout_ns))


def reasons(both: Agreement, *packets: str | bytes) -> list[str]:
    return [both.run(packet).reason for packet in packets]


def udp(source: str) -> str:
    address = f"[{source}]" if ":" in source else source
    return f"udp {address}:1 > {'[2001:db8::1]' if ':' in source else '203.0.113.1'}:53"


def kernel_set(both: Agreement, slot: int = 0) -> MemberSet:
    assert both.generation.state is not None
    found = MemberSet.open(both.generation.state, slot)
    assert found is not None
    return found


def forget_others(both: Agreement, name: str, slot: int) -> set[str]:
    """Takes out of the reference's set what is not in the kernel's; returns the addresses that are."""
    with kernel_set(both, slot) as found:
        there = prefixes_of(found.read()[0])
    keys = {MemberKey(ir.Family(each.family), each.address, each.bits) for each in there}
    members = both.memory.members[name]
    both.memory.members[name] = {key: member for key, member in members.items() if key in keys}
    return {str(IPv4Address(each.address)) for each in there}


def test_a_ban_is_for_its_prefix_and_for_no_more() -> None:
    with agreement(firewall()) as both:
        assert reasons(both, BANNED, NEAR) == ["default", "default"]
        both.put("bans", "198.51.100.7/32", "10.0.0.0/8", "2001:db8:7::/48")
        assert reasons(both, BANNED, NEAR) == ["ban", "default"]
        assert reasons(both, udp("10.255.255.255"), udp("11.0.0.0"), udp("9.255.255.255")) == [
            "ban",
            "default",
            "default",
        ]
        assert reasons(both, udp("2001:db8:7:ffff::1"), udp("2001:db8:8::"), udp("2001:db8:6:ffff::")) == [
            "ban",
            "default",
            "default",
        ]


def test_a_ban_of_everything_is_one() -> None:
    with agreement(firewall()) as both:
        both.put("bans", "0.0.0.0/0")
        assert reasons(both, udp("0.0.0.0"), udp("255.255.255.255"), udp("::1"), udp("::ffff:192.0.2.1")) == [
            "ban",
            "ban",
            "default",
            "default",
        ]
        both.put("bans", "::/0")
        assert reasons(both, udp("::"), udp("ffff::"), udp("1234:5678::")) == ["ban"] * 3
        assert both.run(bytes(12) + b"\x08\x06" + bytes(46)).reason == "default"  # ARP has no source


def test_an_address_within_ipv6_is_not_that_of_ipv4() -> None:
    with agreement(firewall()) as both:
        both.put("bans", "192.0.2.1/32")
        assert reasons(both, udp("192.0.2.1"), udp("::ffff:192.0.2.1"), udp("::192.0.2.1")) == [
            "ban",
            "default",
            "default",
        ]


@pytest.mark.parametrize(
    ("family", "lengths"),
    [(IPv4Address, range(33)), (IPv6Address, range(129))],
)
def test_prefixes_of_every_length(family: type[IPv4Address] | type[IPv6Address], lengths: range) -> None:
    drawn = random.Random(5)
    bits = lengths[-1]
    with agreement(firewall()) as both:
        for length in lengths:
            address = drawn.getrandbits(bits)
            both.put("bans", str(ip_network((str(family(address)), length), strict=False)))
            found = [address]
            if length:
                found.append(address ^ 1 << bits - length)  # the neighbour
            found += [address ^ 1 << drawn.randrange(bits) for _ in range(4)]
            for each in found:
                both.run(udp(str(family(each))))
            assert both.run(udp(str(family(address)))).reason == "ban"
            with kernel_set(both) as bans:
                bans.flush(both.now.boot_ns)
            both.memory.members.clear()
            assert both.run(udp(str(family(address)))).reason == "default"


def test_many_lengths_beside_each_other() -> None:
    drawn = random.Random(6)
    with agreement(firewall()) as both:
        for bits in (32, 128):
            family = IPv4Address if bits == 32 else IPv6Address
            base = drawn.getrandbits(bits)
            addresses = []
            for length in range(8, bits + 1, 4):
                address = base ^ drawn.getrandbits(bits - length + 2)
                network = ip_network((str(family(address)), length), strict=False)
                both.put("bans", str(network))
                addresses += [address, address ^ 1, int(network[0]) - 1, int(network[-1]) + 1]
            for address in addresses:
                both.run(udp(str(family(address % (1 << bits)))))


def test_a_ban_ends_at_its_time_though_nothing_swept_it() -> None:
    with agreement(firewall()) as both:
        both.put("bans", "198.51.100.7/32", until_ns=both.now.boot_ns + 5)
        both.put("bans", "192.0.2.0/24")
        assert reasons(both, BANNED) == ["ban"]
        both.wait(4)
        assert reasons(both, BANNED) == ["ban"]
        both.wait(1)
        assert reasons(both, BANNED) == ["default"]
        both.wait(10**18)
        assert reasons(both, udp("192.0.2.1")) == ["ban"]  # for good


def test_a_longer_prefix_that_is_over_hides_no_shorter_one() -> None:
    with agreement(firewall()) as both:
        both.put("bans", "198.51.100.7/32", until_ns=both.now.boot_ns + 5)
        both.put("bans", "198.51.100.0/24")
        both.wait(10)
        assert reasons(both, BANNED) == ["ban"]


def test_whatever_a_banned_source_sends_is_dropped() -> None:
    everything = ir.Allow(arp=True, ndp=True, dhcp=True, icmp_errors=True, established=True, fragments=True)
    with agreement(firewall(allow=everything)) as both:
        both.put("bans", "198.51.100.7/32", "2001:db8::7/128")
        frames = [v4_frame(bytes(40), protocol) for protocol in (GRE, ESP, AH, 1, 6, 17, 89, 255)]
        frames += [v6_frame(bytes(40), protocol) for protocol in (GRE, ESP, 58, 6, 17, 59)]
        for kinds in ([HOP_BY_HOP], [DESTINATION], [FRAGMENT], [HOP_BY_HOP, DESTINATION, FRAGMENT]):
            payload, first = extended(kinds, bytes(40), UDP)
            frames.append(v6_frame(payload, first))
        for offset in (MORE_FRAGMENTS, 185, 185 | MORE_FRAGMENTS):
            frames.append(v4_frame(bytes(40), UDP, fragment=offset))
        for frame in frames:
            assert both.run(frame).reason in ("ban", "invalid.tcp_offset")


def test_bans_come_before_allowances_and_behind_what_cannot_be_parsed() -> None:
    everything = ir.Allow(arp=True, ndp=True, dhcp=True, icmp_errors=True, established=True, fragments=True)
    with agreement(firewall(allow=everything, default=ir.Verdict.DROP)) as both:
        both.put("bans", "198.51.100.7/32", "fe80::1/128")
        unreachable = "icmp 198.51.100.7 > 203.0.113.1 type 3 code 1"
        assert reasons(both, unreachable) == ["ban"]
        assert reasons(both, "icmpv6 fe80::1 > ff02::1 router-advertisement") == ["ban"]


def test_no_ban_is_for_those_of_never_ban() -> None:
    never = AddressRanges(
        v4=(Range(int(IPv4Address("10.1.2.3")), int(IPv4Address("10.1.2.3"))),),
        v6=(Range(int(IPv6Address("2001:db8::5")), int(IPv6Address("2001:db8::9"))),),
        dynamic=("friends",),
    )
    with agreement(firewall(sets=(ir.DynamicSet("friends", 10),), never=never)) as both:
        both.put("bans", "10.0.0.0/8", "2001:db8::/32", "10.1.2.3/32")
        assert reasons(both, udp("10.1.2.3"), udp("10.1.2.2"), udp("10.1.2.4")) == ["default", "ban", "ban"]
        found = [reasons(both, udp(f"2001:db8::{last:x}"))[0] for last in range(4, 11)]
        assert found == ["ban", *["default"] * 5, "ban"]
        both.put("friends", "10.1.2.4/32", until_ns=both.now.boot_ns + NS_PER_S)
        assert reasons(both, udp("10.1.2.4"), udp("10.1.2.5")) == ["default", "ban"]
        both.wait(NS_PER_S)
        assert reasons(both, udp("10.1.2.4")) == ["ban"]


def test_never_ban_with_friends_alone() -> None:
    never = AddressRanges(dynamic=("friends",))
    with agreement(firewall(sets=(ir.DynamicSet("friends", 10),), never=never)) as both:
        both.put("bans", "0.0.0.0/0")
        both.put("friends", "198.51.100.8/32")
        assert reasons(both, BANNED, NEAR) == ["ban", "default"]


def test_rules_ask_for_the_sets_of_both_directions() -> None:
    drop = ir.Action(ir.ActionKind.DROP)
    rules = (
        ir.Rule("from", ir.Match(src=AddressRanges(dynamic=("evil",))), drop),
        ir.Rule("to", ir.Match(dst=AddressRanges(dynamic=("evil", "worse"))), drop),
    )
    sets = (ir.DynamicSet("evil", 10), ir.DynamicSet("worse", 10))
    with agreement(firewall(*rules, sets=sets)) as both:
        assert both.run(BANNED).rule is None
        both.put("worse", "198.51.100.0/24")
        assert both.run(BANNED).rule is None
        both.put("worse", "203.0.113.0/24")
        assert both.run(BANNED).rule == "to"
        both.put("evil", "198.51.100.7/32", until_ns=both.now.boot_ns + 5)
        assert (both.run(BANNED).rule, both.run(NEAR).rule) == ("from", "to")
        both.wait(5)
        assert both.run(BANNED).rule == "to"


def test_all_sets_that_there_may_be() -> None:
    names = [f"s{number}" for number in range(abi.Limit.MAX_DYNAMIC_SETS - 1)]
    asked = names[: abi.Limit.MAX_ASKED_SETS]
    rules = [
        ir.Rule(name, ir.Match(src=AddressRanges(dynamic=(name,))), ir.Action(ir.ActionKind.DROP)) for name in asked
    ]
    sets = tuple(ir.DynamicSet(name, 10) for name in names)
    with agreement(firewall(*rules, sets=sets)) as both:
        for number, name in enumerate(names):
            both.put(name, f"198.51.100.{number}/32")
        for number, name in enumerate(names):
            assert both.run(udp(f"198.51.100.{number}")).rule == (name if name in asked else None)


def test_a_rule_bans_its_sources() -> None:
    with agreement(firewall(adding("bans", 60 * NS_PER_S))) as both:
        for source in ("198.51.100.7", "2001:db8::7"):
            assert reasons(both, udp(source), udp(source)) == ["rule", "ban"]
        assert reasons(both, BANNED, NEAR) == ["ban", "default"]
        both.wait(60 * NS_PER_S)
        assert reasons(both, BANNED, udp("198.51.100.7"), BANNED) == ["default", "rule", "ban"]


def test_a_rule_bans_nobody_whom_no_ban_is_for() -> None:
    never = AddressRanges(v4=(Range(int(IPv4Address("10.1.2.3")), int(IPv4Address("10.1.2.3"))),))
    with agreement(firewall(adding("bans"), never=never)) as both:
        assert reasons(both, udp("10.1.2.3"), udp("10.1.2.3"), udp("10.1.2.4"), udp("10.1.2.4")) == [
            "rule",
            "rule",
            "rule",
            "ban",
        ]
        assert len(both.memory.members["bans"]) == 1


@pytest.mark.parametrize("time_ns", [None, 1, 3, 1000, NS_PER_S // 2, 2 * NS_PER_S, 5 * NS_PER_S, 3600 * NS_PER_S])
def test_a_source_that_goes_on_stays_in_and_is_not_written_each_time(time_ns: int | None) -> None:
    with agreement(firewall(adding("seen"), sets=(ir.DynamicSet("seen", 10, time_ns),))) as both:
        for step_ns in (1, 1, NS_PER_S // 9, NS_PER_S // 2, NS_PER_S - 1, 1, NS_PER_S, 3 * NS_PER_S, 4000 * NS_PER_S):
            both.run(udp("198.51.100.7"))
            both.check_knocks()
            both.wait(step_ns)


def test_a_rule_makes_no_members_time_shorter() -> None:
    with agreement(firewall(adding("seen", 10 * NS_PER_S), sets=(ir.DynamicSet("seen", 10),))) as both:
        both.put("seen", "198.51.100.7/32", until_ns=both.now.boot_ns + 60 * NS_PER_S)
        both.put("seen", "198.51.100.8/32")
        for source in ("198.51.100.7", "198.51.100.8", "198.51.100.9"):
            both.run(udp(source))
        both.check_knocks()
        both.wait(55 * NS_PER_S)
        both.run(udp("198.51.100.7"))


def test_spoofed_sources_fill_a_set_and_push_nobody_out() -> None:
    with agreement(firewall(adding("bans", 30 * NS_PER_S), sets=(ir.DynamicSet("bans", 50),))) as both:
        both.put("bans", "198.51.100.7/32")
        for number in range(200):
            both.run(udp(f"10.0.{number % 7}.{number}"))
        assert both.memory.sets_refused == {"bans": 151}
        with kernel_set(both) as bans:
            assert bans.refused == 151
        assert reasons(both, BANNED) == ["ban"]
        both.wait(5 * NS_PER_S)
        both.run(udp("10.9.9.9"))  # nothing of it is over
        both.wait(26 * NS_PER_S)
        both.run(udp("10.9.9.9"))  # all of it is
        assert reasons(both, udp("10.9.9.9"), BANNED) == ["ban", "ban"]
        both.check_knocks()


def test_a_full_set_is_looked_through_when_a_member_may_be_over() -> None:
    with agreement(firewall(adding("few"), sets=(ir.DynamicSet("few", 2, 3 * NS_PER_S),))) as both:
        drawn = random.Random(7)
        for _ in range(150):
            both.run(udp(f"10.0.0.{drawn.randrange(6)}"))
            both.wait(drawn.choice((0, NS_PER_S // 3, NS_PER_S, 2 * NS_PER_S)))
            both.check_knocks()


def test_a_ban_by_a_rule_that_finds_the_bits_of_a_command_outlives_their_removal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rule's member comes between the look at the members and the removal of bits, and wrote no bit of its own."""
    read = MemberSet.read
    with agreement(firewall(adding("bans"))) as both, kernel_set(both) as bans:
        both.put("bans", "198.51.100.8/32")
        came: list[str] = []

        def read_before_it_comes(members: MemberSet) -> object:
            found = read(members)
            if not came:
                came.append(both.run(udp("198.51.100.7")).reason)
            return found

        monkeypatch.setattr(MemberSet, "read", read_before_it_comes)
        bans.delete(keys_of([(abi.Family.IPV4, int(IPv4Address("198.51.100.8")), 32)]), both.now.boot_ns)
        both.memory.members["bans"].pop(MemberKey(ir.Family.IPV4, int(IPv4Address("198.51.100.8")), 32))
        assert came == ["rule"]
        assert reasons(both, BANNED, NEAR) == ["ban", "default"]


def test_a_source_that_is_in_for_good_has_its_bits_set_again() -> None:
    with agreement(firewall(adding("seen"), sets=(ir.DynamicSet("seen", 10),))) as both:
        assert both.generation.state is not None
        both.run(udp("198.51.100.7"))
        heads = both.generation.state.set_heads
        written = heads.read(1)
        heads.write(1, bytes(heads.value_size))
        both.run(udp("198.51.100.7"))
        assert heads.read(1) == written


def test_a_packet_looks_at_a_part_of_a_large_set_and_a_command_at_all_of_it() -> None:
    size = 2 * SWEEP_MEMBERS + 1000
    with agreement(firewall(adding("few"), sets=(ir.DynamicSet("few", size),))) as both, kernel_set(both, 1) as few:
        until_ns = both.now.boot_ns + NS_PER_S
        both.put("few", *(str(IPv4Address(0x0B000000 + number)) for number in range(size)), until_ns=until_ns)
        both.wait(NS_PER_S)
        for number in range(20):
            both.run(udp(f"198.51.100.{number}"))
        assert len(few.read()[0]) == size - SWEEP_MEMBERS + 20 == len(both.memory.members["few"])
        assert few.refused == 0
        few.sweep(both.now.boot_ns)
        assert forget_others(both, "few", 1) == {f"198.51.100.{number}" for number in range(20)}


def test_a_large_set_that_is_full_for_good_is_looked_at_each_ten_seconds_and_refuses() -> None:
    size = SWEEP_MEMBERS + 1000
    with agreement(firewall(adding("few"), sets=(ir.DynamicSet("few", size),))) as both, kernel_set(both, 1) as few:
        both.put("few", *(str(IPv4Address(0x0B000000 + number)) for number in range(size)))
        for number in range(20):
            both.run(udp(f"198.51.100.{number}"))
        assert few.refused == 20
        assert len(few.read()[0]) == size


def test_a_set_made_smaller_gives_up_what_rules_put_in_and_ends_soonest() -> None:
    """Rules may have added since it was found that all have room."""
    with agreement(firewall(adding("seen", 60 * NS_PER_S), sets=(ir.DynamicSet("seen", 100),))) as both:
        assert both.generation.state is not None
        for number in range(30):
            both.run(udp(f"198.51.100.{number}"))
            both.wait(NS_PER_S // 100)
        both.put("seen", *(f"10.0.0.{number}/32" for number in range(10)), until_ns=both.now.boot_ns + NS_PER_S)
        with kernel_set(both, 1) as seen:
            seen.resize(both.generation.state, 20, both.now.boot_ns)
        assert forget_others(both, "seen", 1) == {f"10.0.0.{n}" for n in range(10)} | {
            f"198.51.100.{n}" for n in range(20, 30)
        }


def test_what_a_rule_adds_while_a_set_is_made_smaller_pushes_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    read = MemberSet.read
    with agreement(firewall(adding("seen"), sets=(ir.DynamicSet("seen", 100),))) as both:
        state = both.generation.state
        assert state is not None
        both.put("seen", *(f"10.0.0.{number}/32" for number in range(10)))
        came: list[int] = []

        def read_before_they_come(members: MemberSet) -> object:
            found = read(members)
            while len(came) < 20:
                both.run(udp(f"198.51.100.{len(came)}"))
                came.append(len(came))
            return found

        monkeypatch.setattr(MemberSet, "read", read_before_they_come)
        with kernel_set(both, 1) as seen:
            seen.resize(state, 15, both.now.boot_ns)
        kept = forget_others(both, "seen", 1)
        assert len(kept) == 15
        assert {f"10.0.0.{n}" for n in range(10)} < kept


def test_packets_at_random_beside_sets_at_random() -> None:
    drawn = random.Random(8)
    drop = ir.Action(ir.ActionKind.DROP)
    rules = (
        ir.Rule("known", ir.Match(src=AddressRanges(dynamic=("known",))), drop),
        adding("known"),
        ir.Rule("scan", ir.Match(dport=(Range(23, 23),)), drop, add_to=ir.AddTo("bans", 2 * NS_PER_S)),
    )
    never = AddressRanges(v4=(Range(0x0A000001, 0x0A000002),), dynamic=("known",))
    sets = (ir.DynamicSet("known", 40, 3 * NS_PER_S), ir.DynamicSet("bans", 60))
    with agreement(firewall(*rules, sets=sets, never=never)) as both:
        for _ in range(1500):
            source = f"10.0.{drawn.randrange(2)}.{drawn.randrange(16)}"
            if drawn.random() < 0.3:
                source = f"2001:db8::{drawn.randrange(16):x}"
            packet = udp(source)
            if drawn.random() < 0.5:
                packet = packet.replace("udp", "tcp").replace(":53", ":23") + " S"
            both.run(packet)
            both.wait(drawn.choice((0, 0, 1, NS_PER_S // 10, NS_PER_S)))
            if drawn.random() < 0.05 and len(both.memory.members.get("bans", ())) < 40:
                length = drawn.randrange(20, 33)
                network = ip_network((f"10.0.{drawn.randrange(2)}.{drawn.randrange(16)}", length), strict=False)
                both.put("bans", str(network), until_ns=both.now.boot_ns + drawn.randrange(5 * NS_PER_S))
        both.check_knocks()
