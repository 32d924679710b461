# SPDX-License-Identifier: GPL-2.0-or-later
"""What apply tells of interfaces: in force all the same, but not as fast, or not as all, as the policy reads."""

from __future__ import annotations

from collections.abc import Sequence

from xdpfw.compiler import ir
from xdpfw.kernel.features import strips_vlan_tags, takes_redirects
from xdpfw.kernel.interface import InterfaceInfo, Mode, attached


def modes(interfaces: list[InterfaceInfo]) -> dict[str, str]:
    """Native or generic, by the names of those that run a program."""
    running = {info.name: attached(info.ifindex) for info in interfaces}
    return {name: str(found.mode) for name, found in running.items() if found is not None and found.mode is not None}


def generic_notes(policy: ir.Policy, interfaces: list[InterfaceInfo]) -> tuple[str, ...]:
    """Where ``auto`` has fallen back earlier: a link keeps its mode."""
    return tuple(
        f"{info.name} runs in generic mode (native is tried when the firewall is attached anew: "
        "xdpfw detach, then apply)"
        for interface, info in zip(policy.interfaces, interfaces, strict=True)
        if interface.mode is ir.AttachMode.AUTO and info.attached and info.attached.mode is Mode.GENERIC
    )


def target_notes(names: Sequence[str], targets: list[int], interfaces: list[InterfaceInfo]) -> tuple[str, ...]:
    """Targets whose drivers take no frames from native XDP, as they are now: after the switch."""
    if "native" not in modes(interfaces).values():
        return ()
    return tuple(
        f"redirects to {name} are lost: its driver takes no frames from native XDP as it is now "
        "(a veth does once its other end runs an XDP program, or has GRO on: ethtool -K PEER gro on)"
        for name, ifindex in zip(names, targets, strict=True)
        if takes_redirects(ifindex) is False
    )


def answer_notes(policy: ir.Policy, interfaces: list[InterfaceInfo]) -> tuple[str, ...]:
    """Interfaces that send nothing back from native XDP, as they are now: after the switch."""
    if not policy.protect_syn and all(rule.action.kind is not ir.ActionKind.TX for rule in policy.rules):
        return ()
    native = {name for name, mode in modes(interfaces).items() if mode == "native"}
    return tuple(
        f"what protect and tx rules send back is lost on {info.name}: its driver takes no frames from native XDP as it "
        "is now (a veth does once its other end runs an XDP program, or has GRO on: ethtool -K PEER gro on; "
        "mode: generic does without)"
        for info in interfaces
        if info.name in native and takes_redirects(info.ifindex) is False
    )


def vlan_notes(policy: ir.Policy, interfaces: list[InterfaceInfo]) -> tuple[str, ...]:
    """Interfaces that hide tags from rules on them."""
    matches = [match for rule in policy.rules for match in (rule.match, rule.unless) if match is not None]
    if all(match.vlan is None and match.inner_vlan is None for match in matches):
        return ()
    return tuple(note for info in interfaces if (note := _vlan_note(info)) is not None)


def _vlan_note(info: InterfaceInfo) -> str | None:
    # A veth's receive side takes nothing out: what its other end offloads never was in the frame.
    if info.kind == "veth":
        return (
            f"{info.name} is a veth: rules on vlan see tags if its other end puts them in: ethtool -K PEER txvlan off"
        )
    if strips_vlan_tags(info.name):
        return (
            f"{info.name} takes VLAN tags out of frames before XDP sees them, and rules on vlan find none: "
            f"ethtool -K {info.name} rxvlan off"
        )
    return None
