# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``apply`` sees to where rules route packets or hand them to other CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xdpfw.compiler import ir
from xdpfw.errors import UsageError
from xdpfw.kernel.features import strips_vlan_tags, takes_redirects
from xdpfw.kernel.interface import InterfaceInfo, Mode, attached
from xdpfw.kernel.targets import Station, online_cpus, set_stations


def routes(policy: ir.Policy) -> bool:
    """Whether a rule forwards by the kernel's FIB."""
    return any(rule.action.kind is ir.ActionKind.ROUTE for rule in policy.rules)


def set_routes(directory: Path, policy: ir.Policy, interfaces: Sequence[InterfaceInfo]) -> tuple[str, ...]:
    """Lets the generation that is pinned in ``directory`` route to the interfaces that take frames as they are now.

    Returns a note for each that does not. Some drivers take frames only once they run a program themselves: so it is to
    be done again after the switch. Raises KernelError.
    """
    if not routes(policy):
        return ()
    # Behind the driver, in the generic path, any interface takes them.
    modes = {running.mode if (running := attached(info.ifindex)) else None for info in interfaces}
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
