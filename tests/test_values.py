# SPDX-License-Identifier: GPL-2.0-or-later
"""The notation of values: what is written is what comes out, and garbage is refused by name."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.policy import names, services, values
from xdpfw.policy.addresses import V4_BITS, V6_BITS, Addresses, parse_addresses
from xdpfw.policy.values import Flags, Mac, NotationError, Span

ports = st.integers(0, 65535)
macs = st.integers(0, (1 << 48) - 1)
flag_bytes = st.integers(0, 255)


@st.composite
def prefixes(draw: st.DrawFn) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    address = draw(st.ip_addresses())
    return ipaddress.ip_network(f"{address}/{draw(st.integers(0, address.max_prefixlen))}", strict=False)


@given(prefixes())
def test_prefixes_agree_with_ipaddress(prefix: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
    bits = prefix.max_prefixlen
    found = parse_addresses(str(prefix))
    assert found == Addresses(bits, int(prefix[0]), int(prefix[-1]))
    assert ipaddress.ip_network(str(found)) == prefix


@given(st.sampled_from((V4_BITS, V6_BITS)), st.data())
def test_ranges_of_addresses_round_trip(bits: int, data: st.DataObject) -> None:
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, (1 << bits) - 1)] * 2)))
    found = Addresses(bits, low, high)
    assert parse_addresses(str(found)) == found


@given(st.text(max_size=50) | st.from_regex(r"[0-9a-f:./%\[\]@-]{0,30}", fullmatch=True))
def test_what_ipaddress_refuses_is_refused(text: str) -> None:
    try:
        expected = ipaddress.ip_network(text)
    except ValueError:
        expected = None
    try:
        found = parse_addresses(text)
    except NotationError:
        assert expected is None or "/" in text or "%" in text
        return
    assert "-" in text or (expected is not None and found.low == int(expected[0]))


def test_host_bits_propose_the_prefix() -> None:
    with pytest.raises(NotationError, match=r"10.0.0.1/8 has host bits set") as caught:
        parse_addresses("10.0.0.1/8")
    assert caught.value.hint is not None
    assert "10.0.0.0/8" in caught.value.hint


@given(ports, ports)
def test_port_ranges_round_trip(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert values.port(f"{low}-{high}") == Span(low, high)
    assert values.port(low) == values.port(str(low)) == values.port(hex(low)) == Span(low, low)


@given(macs, macs)
def test_macs_round_trip(value: int, mask: int) -> None:
    text, mask_text = (each.to_bytes(6, "big").hex(":") for each in (value, mask))
    assert values.mac(text) == values.mac(text.upper()) == value
    assert values.mac_mask(f"{text}/{mask_text}") == Mac(value & mask, mask)
    assert values.mac_mask(text) == Mac(value, (1 << 48) - 1)


@given(flag_bytes, flag_bytes)
def test_tcp_flags_round_trip(on: int, off: int) -> None:
    off &= ~on
    words = [name for name, bit in names.TCP_FLAGS.items() if on & bit]
    words += [f"!{name}" for name, bit in names.TCP_FLAGS.items() if off & bit]
    if words:
        assert values.tcp_flags(",".join(words)) == Flags(on, off)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 500_000_000), ("30s", 30 * 10**9), ("10m", 600 * 10**9), ("2h", 7200 * 10**9), ("7d", 604800 * 10**9)],
)
def test_durations(text: str, expected: int) -> None:
    assert values.duration_ns(text) == expected


PARSERS = [
    values.boolean,
    values.name,
    values.text,
    values.path,
    values.interface,
    values.duration_ns,
    values.port,
    values.protocol,
    values.ethertype,
    values.vlan,
    values.dscp,
    values.mac,
    values.mac_mask,
    values.tcp_flags,
]
anything = st.none() | st.booleans() | st.integers() | st.text(max_size=30) | st.just([]) | st.just({})


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)
@given(value=anything)
def test_parsers_raise_nothing_else(parser: Callable[[object], object], value: object) -> None:
    message = refusal(parser, value)
    assert message is None or (message and message.isprintable())


def refusal(parser: Callable[[object], object], value: object) -> str | None:
    try:
        parser(value)
    except NotationError as error:
        return error.message
    return None


def test_names_are_in_their_ranges() -> None:
    assert all(0 < port <= 65535 for port in names.SERVICES.values())
    assert all(0 <= number <= 255 for number in names.PROTOCOLS.values())
    assert all(0 <= low <= high <= 0xFFFF for low, high in names.ETHERTYPES.values())
    assert all(0 <= number <= 63 for number in names.DSCPS.values())
    assert not names.TAG_ETHERTYPES & {low for low, _ in names.ETHERTYPES.values()}
    for protocol, codes in names.ICMP_CODES.items():
        assert {type_ for type_, _ in codes.values()} <= set(names.ICMP_TYPES[protocol].values())


@given(st.integers(1, 366 * 86_400_000))
def test_durations_round_trip(milliseconds: int) -> None:
    ns = milliseconds * 1_000_000
    assert values.duration_ns(values.duration_text(ns)) == ns


@pytest.mark.parametrize(("ns", "text"), [(500_000_000, "500ms"), (90_000_000_000, "90s"), (7_200_000_000_000, "2h")])
def test_durations_are_written_in_the_largest_unit(ns: int, text: str) -> None:
    assert values.duration_text(ns) == text


@given(st.integers(1, values.MAX_SAMPLE))
def test_samples_round_trip(n: int) -> None:
    assert values.one_in(f"1/{n}") == n


@given(ports.filter(bool), st.sampled_from(["tcp", "udp"]))
def test_services_and_steps_round_trip(port: int, protocol: str) -> None:
    text = f"{port}/{protocol}"
    assert str(services.service(text)) == str(services.step(text)) == text


MESSAGES = st.sampled_from(
    [f"{type_}{code}/{p}" for p in ("icmp", "icmpv6") for type_ in (0, 8, 128) for code in ("", ".0")]
)


@given(MESSAGES, MESSAGES)
def test_steps_overlap_where_a_message_is_both(one: str, other: str) -> None:
    def met(text: str) -> set[tuple[int, str, int]]:
        """Of both families, the messages of codes 0 and 1."""
        step = services.step(text)
        in_ipv6 = {8: 128, 0: 129}.get(step.number) if text.endswith("/icmp") else step.number
        found = {(4, text.split("/")[1], step.number)} if text.endswith("/icmp") else set()
        found |= {(6, "icmpv6", in_ipv6)} if in_ipv6 is not None else set()
        codes = (0, 1) if step.code is None else (step.code,)
        return {(family, name, number << 8 | code) for family, name, number in found for code in codes}

    assert services.overlap(services.step(one), services.step(other)) == bool(met(one) & met(other))
