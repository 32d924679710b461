# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy does with a frame, by the plainest loop there is.

The oracle of every test, and what ``explain`` and ``--reference`` run: it shares with the compiler nothing but the
IR, and with the program in the kernel nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family, Fragment
from xdpfw.packet.decode import (
    ETHERTYPE_ARP,
    PROTO_UDP,
    Invalid,
    Packet,
    decode,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a frame, and why.

    ``reason`` is ``rule``, ``default``, ``allow.NAME`` or ``invalid.NAME``; ``rule`` the rule that decided,
    ``target`` the interface of a redirect, ``counted`` the ``count`` rules that matched before the decision.
    """

    verdict: ir.Verdict
    reason: str
    rule: str | None = None
    target: str | None = None
    counted: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The reason without its detail: ``rule``, ``default``, ``allow`` or ``invalid``."""
        return self.reason.partition(".")[0]


def evaluate(policy: ir.Policy, frame: bytes, interface: int | None = 0) -> Decision:
    """Decide on an Ethernet frame (no FCS) that arrives on ``policy.interfaces[interface]``.

    ``interface`` is None where the policy does not name the interface: no rule with ``interface`` matches then.
    """
    packet = decode(frame)
    if isinstance(packet, Invalid):
        return Decision(policy.invalid, packet.reason)
    for allowance in enabled_allowances(policy.allow):
        if ALLOWANCES[allowance](packet):
            return Decision(ir.Verdict.PASS, f"allow.{allowance}")
    counted: list[str] = []
    for rule in policy.rules:
        if unmet(rule.match, packet, interface) is not None:
            continue
        if rule.unless is not None and unmet(rule.unless, packet, interface) is None:
            continue
        if rule.action.kind is ir.ActionKind.COUNT:
            counted.append(rule.name)
            continue
        verdict = ir.Verdict(rule.action.kind.value)
        return Decision(verdict, "rule", rule.name, rule.action.interface, tuple(counted))
    return Decision(policy.default, "default", counted=tuple(counted))


def unmet(match: ir.Match, packet: Packet, interface: int | None) -> str | None:
    """The first field of ``match`` whose condition ``packet`` does not meet, by its name there; None if it meets all."""
    return next((field for field, holds in _conditions(match, packet, interface) if not holds), None)


def _conditions(match: ir.Match, packet: Packet, interface: int | None) -> Iterator[tuple[str, bool]]:
    """(field, whether its condition holds) for each condition of ``match``."""
    numbers = (
        ("interface", match.interface, interface),
        ("family", match.family, packet.family),
        ("ethertype", match.ethertype, packet.ethertype),
        ("vlan", match.vlan, ir.NO_TAG if packet.vlan is None else packet.vlan),
        ("inner_vlan", match.inner_vlan, ir.NO_TAG if packet.inner_vlan is None else packet.inner_vlan),
        ("proto", match.proto, packet.proto),
        ("sport", match.sport, packet.sport),
        ("dport", match.dport, packet.dport),
        ("fragment", match.fragment, packet.fragment),
        ("length", match.length, packet.length),
        ("ttl", match.ttl, packet.ttl),
        ("dscp", match.dscp, packet.dscp),
        ("ip_options", match.ip_options, packet.ip_options),
    )
    for field, ranges, value in numbers:
        if ranges is not None:
            yield field, value is not None and _within(ranges, value)
    if match.src_mac is not None:
        yield "src_mac", any(packet.src_mac & mask == value for value, mask in match.src_mac)
    if match.dst_mac is not None:
        yield "dst_mac", any(packet.dst_mac & mask == value for value, mask in match.dst_mac)
    if match.src is not None:
        yield "src", packet.src is not None and match.src.contains(packet.family, packet.src)
    if match.dst is not None:
        yield "dst", packet.dst is not None and match.dst.contains(packet.family, packet.dst)
    if match.tcp_flags is not None:
        flags = packet.tcp_flags
        yield "tcp_flags", flags is not None and any(
            flags & want.set == want.set and not flags & want.clear for want in match.tcp_flags
        )
    if match.icmp is not None:
        kind, code = packet.icmp_type, packet.icmp_code
        yield "icmp", kind is not None and code is not None and any(
            packet.proto == want.protocol and _within((want.type,), kind) and _within((want.code,), code)
            for want in match.icmp
        )


def _within(ranges: ir.Ranges, value: int) -> bool:
    return any(low <= value <= high for low, high in ranges)


def enabled_allowances(allow: ir.Allow) -> list[str]:
    """The names of the allowances that are on, in the order in which they are tried."""
    return [name for name in ALLOWANCES if getattr(allow, name)]


def _is_arp(packet: Packet) -> bool:
    return packet.ethertype == ETHERTYPE_ARP


def _is_ndp(packet: Packet) -> bool:
    """RFC 4861, section 4: hop limit 255; RFC 6980: never fragmented."""
    return (
        packet.family is Family.IPV6
        and packet.icmp_type in range(133, 138)
        and packet.ttl == 255
        and packet.fragment is Fragment.NONE
    )


def _is_dhcp_reply(packet: Packet) -> bool:
    """RFC 2131, section 4.1; RFC 8415, section 7.2."""
    ports = {Family.IPV4: (67, 68), Family.IPV6: (547, 546)}
    return packet.proto == PROTO_UDP and (packet.sport, packet.dport) == ports.get(packet.family)


def _is_icmp_error(packet: Packet) -> bool:
    """RFC 792 without source quench and redirect; RFC 4443, section 3."""
    types = {Family.IPV4: (3, 11, 12), Family.IPV6: (1, 2, 3, 4)}
    return packet.icmp_type in types.get(packet.family, ())


ALLOWANCES: Final[dict[str, Callable[[Packet], bool]]] = {
    "arp": _is_arp,
    "ndp": _is_ndp,
    "dhcp": _is_dhcp_reply,
    "icmp_errors": _is_icmp_error,
}
"""The fields of ``ir.Allow`` that are in force, in the order in which they are tried."""
