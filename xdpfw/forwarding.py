# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``apply`` sees to where rules route packets or hand them to other CPUs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from xdpfw.compiler import ir
from xdpfw.errors import UsageError
from xdpfw.kernel.features import strips_vlan_tags, takes_redirects
from xdpfw.kernel.interface import InterfaceInfo, Mode, attached
from xdpfw.kernel.targets import Station, online_cpus, set_cpus, set_stations

_NOT_SPREAD: Final = (
    "rules with cpu pass their packets on the CPU where they come in: to hand them on, all interfaces must run in "
    "native mode"
)


def routes(policy: ir.Policy) -> bool:
    """Whether a rule forwards by the kernel's FIB."""
    return any(rule.action.kind is ir.ActionKind.ROUTE for rule in policy.rules)


def cpus(policy: ir.Policy) -> tuple[int, ...]:
    """Those that rules hand packets to."""
    return tuple(dict.fromkeys(cpu for rule in policy.rules for cpu in rule.action.cpus))


def set_targets(directory: Path, policy: ir.Policy, interfaces: Sequence[InterfaceInfo]) -> tuple[str, ...]:
    """Tells the generation that is pinned in ``directory`` which interfaces and CPUs take frames, as they are now.

    Returns a note for each that does not. Some drivers take frames only once they run a program themselves: so it is to
    be done again after the switch. Raises KernelError.
    """
    if not routes(policy) and not cpus(policy):
        return ()
    modes = {running.mode if (running := attached(info.ifindex)) else None for info in interfaces}
    notes = _set_routes(directory, interfaces, modes) if routes(policy) else ()
    if not cpus(policy):
        return notes
    # The kernel's generic path mislays the start of a packet on its way to another CPU (seen with Linux 6.18): a copy
    # of the packet does not know how long its Ethernet header is.
    if modes != {Mode.NATIVE}:
        return (*notes, _NOT_SPREAD)
    set_cpus(directory, cpus(policy))
    return notes


def _set_routes(
    directory: Path, interfaces: Sequence[InterfaceInfo], modes: Collection[Mode | None]
) -> tuple[str, ...]:
    # Behind the driver, in the generic path, any interface takes them.
    takes = [modes == {Mode.GENERIC} or takes_redirects(info.ifindex) is not False for info in interfaces]
    stations = [Station(info.ifindex, info.mac, taken) for info, taken in zip(interfaces, takes, strict=True)]
    set_stations(directory, stations)
    return tuple(
        f"packets routed to {info.name} go up the stack: its driver takes no frames from native XDP as it is now "
        "(a veth does once its other end runs an XDP program, or has GRO on: ethtool -K PEER gro on; then apply again)"
        for info, taken in zip(interfaces, takes, strict=True)
        if not taken
    )


def tag_notes(policy: ir.Policy, interfaces: Sequence[InterfaceInfo]) -> tuple[str, ...]:
    """Interfaces whose packets would be routed without their VLAN tag. A veth takes none off."""
    if not routes(policy):
        return ()
    return tuple(
        f"{info.name} takes VLAN tags out of frames before XDP sees them, and tagged packets are routed as if they had "
        f"none: ethtool -K {info.name} rxvlan off"
        for info in interfaces
        if info.kind != "veth" and strips_vlan_tags(info.name)
    )


def check_cpus(policy: ir.Policy) -> None:
    """Raises UsageError, at the first rule that names a CPU which is not online."""
    naming = [rule for rule in policy.rules if rule.action.cpus]
    if not naming:
        return
    text, online = online_cpus()
    for rule in naming:
        missing = sorted(set(rule.action.cpus) - online)
        if missing:
            error = UsageError(f'rule "{rule.name}": CPU {missing[0]} is not online', hint=f"these are: {text}")
            error.position = rule.position
            raise error
