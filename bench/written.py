# SPDX-License-Identifier: GPL-2.0-or-later
"""Filter sets as people would write them: a policy's YAML, and nftables' rulesets."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tests.filtersets import EVERY_PORT, EVERY_PROTO, Filter, FilterSet
from xdpfw.compiler.ir import Range

ACTIONS: Final = ("pass", "drop")

_HEAD: Final = """\
version: 1
interfaces: {{{interface}: {{mode: native}}}}
default: pass
"""


def yaml(filters: FilterSet, interface: str, *, inverted: int | None = None) -> str:
    """The policy of FilterSet.policy, for one interface; with the action of rule number ``inverted`` the other one."""
    lines = [_HEAD.format(interface=interface), "rules:\n"]
    for number, each in enumerate(filters.filters):
        action = ACTIONS[number % 2 ^ (number == inverted)]
        fields = ", ".join(f"{name}: {value}" for name, value in _fields(each, filters.bits))
        lines.append(f"  - {{name: r{number}, match: {{{fields}}}, action: {action}}}\n")
    return "".join(lines)


def _fields(found: Filter, bits: int) -> Iterator[tuple[str, str]]:
    for name, addresses in (("src", found.src), ("dst", found.dst)):
        if _length(addresses, bits):
            yield name, f'"{_prefix(addresses, bits)}"'
    if found.proto != EVERY_PROTO:
        yield "proto", str(found.proto.low)
    for name, ports in (("sport", found.sport), ("dport", found.dport)):
        if ports != EVERY_PORT:
            yield name, f"{ports.low}-{ports.high}" if ports.low < ports.high else str(ports.low)


def nft_chain(device: str, rules: Iterable[str] = (), objects: Iterable[str] = ()) -> str:
    """A ruleset that drops all that comes in on a device, behind ``rules``. ``objects``: the sets that they use."""
    body = "\n".join(rules)
    hook = f'type filter hook ingress device "{device}" priority 0; policy drop;'
    return "\n".join(
        ("flush ruleset", "table netdev bench {", *objects, f"chain ingress {{ {hook}", body, "}", "}", "")
    )


def nft_rules(filters: FilterSet, count: int) -> list[str]:
    """The first filters of an IPv4 set, a rule each."""
    return [_nft_rule(each) for each in filters.filters[:count]]


def nft_set(addresses: Sequence[int]) -> tuple[str, str]:
    """A set of IPv4 addresses, and the rule that drops them."""
    members = ", ".join(str(ipaddress.IPv4Address(address)) for address in addresses)
    return f"set bad {{ type ipv4_addr; elements = {{ {members} }} }}", "ip saddr @bad drop"


def nft_verdict_map(addresses: Sequence[int]) -> tuple[str, str]:
    """A verdict map of IPv4 addresses, all to be dropped, and the rule that asks it."""
    members = ", ".join(f"{ipaddress.IPv4Address(address)} : drop" for address in addresses)
    return f"map bad {{ type ipv4_addr : verdict; elements = {{ {members} }} }}", "ip saddr vmap @bad"


def _nft_rule(found: Filter) -> str:
    words = []
    for name, addresses in (("saddr", found.src), ("daddr", found.dst)):
        if _length(addresses, 32):
            words.append(f"ip {name} {_prefix(addresses, 32)}")
    if found.proto != EVERY_PROTO:
        words.append(f"meta l4proto {found.proto.low}")
    for name, ports in (("sport", found.sport), ("dport", found.dport)):
        if ports != EVERY_PORT:
            words.append(f"th {name} {ports.low}-{ports.high}" if ports.low < ports.high else f"th {name} {ports.low}")
    return " ".join((*words, "drop"))


def _length(addresses: Range, bits: int) -> int:
    return bits - (addresses.high - addresses.low).bit_length()


def _prefix(addresses: Range, bits: int) -> str:
    address = ipaddress.IPv4Address(addresses.low) if bits == 32 else ipaddress.IPv6Address(addresses.low)
    return f"{address}/{_length(addresses, bits)}"
