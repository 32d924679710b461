# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy does with a frame, by the plainest loop there is.

The oracle of every test, and what ``explain`` and ``--reference`` run: it shares with the compiler nothing but the
IR, and with the program in the kernel nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family, Fragment
from xdpfw.packet.decode import ETHERTYPE_ARP, PROTO_UDP, Invalid, Packet, decode

Observation = dict[str, int | None]


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
    observation = observe(packet, interface)
    counted: list[str] = []
    for rule in policy.rules:
        if unmet(rule.match, packet, observation) is not None:
            continue
        if rule.unless is not None and unmet(rule.unless, packet, observation) is None:
            continue
        if rule.action.kind is ir.ActionKind.COUNT:
            counted.append(rule.name)
            continue
        verdict = ir.Verdict(rule.action.kind.value)
        return Decision(verdict, "rule", rule.name, rule.action.interface, tuple(counted))
    return Decision(policy.default, "default", counted=tuple(counted))


def observe(packet: Packet, interface: int | None) -> Observation:
    """The packet's value of each field of ``ir.Match`` that is a plain number; None where it lacks the field."""
    return {
        "interface": interface,
        "family": packet.family,
        "ethertype": packet.ethertype,
        "vlan": ir.NO_TAG if packet.vlan is None else packet.vlan,
        "inner_vlan": ir.NO_TAG if packet.inner_vlan is None else packet.inner_vlan,
        "proto": packet.proto,
        "sport": packet.sport,
        "dport": packet.dport,
        "fragment": packet.fragment,
        "length": packet.length,
        "ttl": packet.ttl,
        "dscp": packet.dscp,
        "ip_options": packet.ip_options,
    }


def unmet(match: ir.Match, packet: Packet, observation: Observation) -> str | None:
    """The field of ``match`` whose condition is the first that ``packet`` does not meet; None if it meets all."""
    for field, value in observation.items():
        ranges = getattr(match, field)
        if ranges is not None and not _within(ranges, value):
            return field
    if match.src is not None and (packet.src is None or not match.src.contains(packet.family, packet.src)):
        return "src"
    if match.dst is not None and (packet.dst is None or not match.dst.contains(packet.family, packet.dst)):
        return "dst"
    if match.src_mac is not None and not any(packet.src_mac & mask == value for value, mask in match.src_mac):
        return "src_mac"
    if match.dst_mac is not None and not any(packet.dst_mac & mask == value for value, mask in match.dst_mac):
        return "dst_mac"
    if match.tcp_flags is not None and not any(_flags_hold(want, packet.tcp_flags) for want in match.tcp_flags):
        return "tcp_flags"
    if match.icmp is not None and not any(_icmp_holds(want, packet) for want in match.icmp):
        return "icmp"
    return None


def _within(ranges: ir.Ranges, value: int | None) -> bool:
    return value is not None and any(low <= value <= high for low, high in ranges)


def _flags_hold(want: ir.TcpFlags, flags: int | None) -> bool:
    return flags is not None and flags & want.set == want.set and flags & want.clear == 0


def _icmp_holds(want: ir.IcmpMessage, packet: Packet) -> bool:
    return (
        packet.icmp_type is not None
        and packet.proto == want.protocol
        and _within((want.type,), packet.icmp_type)
        and _within((want.code,), packet.icmp_code)
    )


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
