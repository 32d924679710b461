# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows, as people and scripts read and choose them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP
from typing import Any, Final

from xdpfw.kernel import abi
from xdpfw.kernel.flows import Flow
from xdpfw.kernel.state import NS_PER_S
from xdpfw.observe.names import address_text

Network = IPv4Network | IPv6Network

PROTOCOLS: Final = {
    "tcp": int(IPPROTO_TCP),
    "udp": int(IPPROTO_UDP),
    "sctp": int(IPPROTO_SCTP),
    "icmp": int(IPPROTO_ICMP),
    "icmpv6": int(IPPROTO_ICMPV6),
}
"""Of which there are flows."""

STATES: Final = {
    state.name.removeprefix("FLOW_").lower().replace("_", "-"): state
    for state in abi.FlowState
    if state is not abi.FlowState.FLOW_NONE
}
_PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
_STATE_NAMES: Final[dict[abi.FlowState, str]] = {state: name for name, state in STATES.items()}
_ECHO: Final = frozenset((int(IPPROTO_ICMP), int(IPPROTO_ICMPV6)))
_VERSIONS: Final = {int(abi.Family.IPV4): 4, int(abi.Family.IPV6): 6}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which flows are meant: those that fit each member that says something. An empty one fits all.

    ``addresses``: of either end. ``src`` is where packets that come in are from, ``dst`` where they go to.
    ``ports``: of either end; an echo has none.
    """

    protocols: frozenset[int] = frozenset()
    states: frozenset[abi.FlowState] = frozenset()
    addresses: Sequence[Network] = ()
    src: Sequence[Network] = ()
    dst: Sequence[Network] = ()
    ports: frozenset[int] = frozenset()

    @property
    def is_empty(self) -> bool:
        return self == Choice()

    def fits(self, flow: Flow) -> bool:
        ports = frozenset() if flow.protocol in _ECHO else {flow.remote_port, flow.local_port}
        return (
            (not self.protocols or flow.protocol in self.protocols)
            and (not self.states or flow.state in self.states)
            and (not self.ports or not self.ports.isdisjoint(ports))
            and (not self.src or _is_in(flow.family, flow.remote, self.src))
            and (not self.dst or _is_in(flow.family, flow.local, self.dst))
            and (
                not self.addresses
                or _is_in(flow.family, flow.remote, self.addresses)
                or _is_in(flow.family, flow.local, self.addresses)
            )
        )


def _is_in(family: int, address: int, prefixes: Sequence[Network]) -> bool:
    return any(
        prefix.version == _VERSIONS[family] and int(prefix.network_address) == address & int(prefix.netmask)
        for prefix in prefixes
    )


def protocol_name(protocol: int) -> str:
    return _PROTOCOL_NAMES.get(protocol, str(protocol))


def state_name(state: abi.FlowState) -> str:
    return _STATE_NAMES[state]


def local_text(flow: Flow) -> str:
    """``192.0.2.1:22``, ``[2001:db8::1]:22``; of an echo the address alone."""
    return _end_text(flow.family, flow.local, None if flow.protocol in _ECHO else flow.local_port)


def remote_text(flow: Flow) -> str:
    return _end_text(flow.family, flow.remote, None if flow.protocol in _ECHO else flow.remote_port)


def _end_text(family: int, address: int, port: int | None) -> str:
    text = address_text(family, address)
    if port is None:
        return text
    return f"[{text}]:{port}" if family == abi.Family.IPV6 else f"{text}:{port}"


def order(flow: Flow) -> tuple[int, ...]:
    """A key to sort by: by protocol, remote end, local end."""
    return (flow.protocol, flow.family, flow.remote, flow.remote_port, flow.local, flow.local_port)


def to_json(flow: Flow, now_ns: int) -> dict[str, Any]:
    """``now_ns``: of CLOCK_BOOTTIME."""
    is_echo = flow.protocol in _ECHO
    return {
        "protocol": protocol_name(flow.protocol),
        "remote": address_text(flow.family, flow.remote),
        "remote_port": None if is_echo else flow.remote_port,
        "local": address_text(flow.family, flow.local),
        "local_port": None if is_echo else flow.local_port,
        "echo_id": flow.local_port if is_echo else None,
        "state": state_name(flow.state),
        "may_give_way": flow.rank == abi.FlowRank.FLOW_ANSWER,
        "age_s": round((now_ns - flow.created_ns) / NS_PER_S, 3),
        "remaining_s": round((flow.until_ns - now_ns) / NS_PER_S, 3),
    }
