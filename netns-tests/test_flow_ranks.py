# SPDX-License-Identifier: GPL-2.0-or-later
"""What a router sends itself, and what it sends on: whose flows may give way to others.

       lan                           router                          wan
┌──────────────────┐     ┌────────────────────────────┐     ┌───────────────────┐
│  eth0 ───────────┼─────┼── lan0 (XDP)   wan0 (XDP) ──┼─────┼─── eth0           │
│  192.0.2.2       │     │  192.0.2.1    198.51.100.1  │     │  198.51.100.2     │
│  2001:db8:1::2   │     │  2001:db8:1::1              │     │  2001:db8:2::2    │
│                  │     │               2001:db8:2::1 │     │                   │
└──────────────────┘     └────────────────────────────┘     └───────────────────┘
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import pytest

from tests.firewall import Firewall, policy
from tests.topology import Namespace, Network, wait_for
from xdpfw.packet.notation import parse_packet

INTERFACES: Final = ("lan0", "wan0")


class Addresses(NamedTuple):
    lan: str
    lan_router: str
    forged: str
    wan: str
    wan_router: str


V4: Final = Addresses("192.0.2.2", "192.0.2.1", "192.0.2.77", "198.51.100.2", "198.51.100.1")
V6: Final = Addresses("2001:db8:1::2", "2001:db8:1::1", "2001:db8:1::77", "2001:db8:2::2", "2001:db8:2::1")


class Routed(NamedTuple):
    lan: Namespace
    router: Namespace
    wan: Namespace
    firewall: Firewall

    def flows(self, remote: str) -> dict[tuple[str, str], tuple[str, bool]]:
        """Protocol and local address of the flows with a remote address: its state, and whether it may give way."""
        found = json.loads(self.firewall.command("flows", "list", "--src", remote, "--json").stdout)["flows"]
        return {(flow["protocol"], flow["local"]): (flow["state"], flow["may_give_way"]) for flow in found}


@pytest.fixture
def routed(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Routed:
    lan, router, wan = (net.namespace(label) for label in ("lan", "router", "wan"))
    for end, interface, addresses, gateways in (
        (lan, "lan0", (V4.lan, V6.lan), (V4.lan_router, V6.lan_router)),
        (wan, "wan0", (V4.wan, V6.wan), (V4.wan_router, V6.wan_router)),
    ):
        net.pair(end, "eth0", router, interface)
        end.address("eth0", f"{addresses[0]}/24", f"{addresses[1]}/64")
        router.address(interface, f"{gateways[0]}/24", f"{gateways[1]}/64")
        for gateway in gateways:
            end.ip("route", "add", "default", "via", gateway)
    router.sysctl("ipv4/conf/all/forwarding", 1)
    router.sysctl("ipv6/conf/all/forwarding", 1)
    return Routed(lan, router, wan, make_firewall(router))


@contextlib.contextmanager
def exchange(kind: int, client: Namespace, server: Namespace, address: str, port: int) -> Iterator[None]:
    """A word and its answer, over sockets that stay open."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.socket(family, kind) as serving, client.socket(family, kind) as asking:
        serving.bind((address, port))
        if kind == socket.SOCK_STREAM:
            serving.listen()
        asking.connect((address, port))
        asking.send(b"?")
        if kind == socket.SOCK_STREAM:
            taken, _ = serving.accept()
            with taken:
                assert taken.recv(1) == b"?"
                taken.send(b"!")
                assert asking.recv(1) == b"!"
                yield
        else:
            serving.sendto(*serving.recvfrom(1))
            assert asking.recv(1) == b"?"
            yield


@pytest.mark.parametrize("action", ["pass", "{route: fib}"], ids=["by the stack", "by XDP"])
@pytest.mark.parametrize("addresses", [V4, V6], ids=["v4", "v6"])
def test_what_is_forwarded_gives_way_until_it_is_confirmed(
    routed: Routed, mode: str, addresses: Addresses, action: str
) -> None:
    """The server answers a forged SYN, too; but nobody acknowledges it."""
    rule = f"{{name: all, match: {{family: [ipv4, ipv6]}}, action: {action}}}"
    follow = "{name: never, match: {state: established, proto: gre}, action: drop}"
    text = policy(rule, follow, interfaces=INTERFACES, mode=mode, allow="{established: false}")
    routed.firewall.apply(text)
    forged, server = (f"[{address}]" if ":" in address else address for address in (addresses.forged, addresses.wan))
    with contextlib.ExitStack() as opened:
        for port, client in ((80, routed.lan), (81, routed.router)):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                opened.enter_context(exchange(kind, client, routed.wan, addresses.wan, port))
        syn = parse_packet(f"tcp {forged}:40000 > {server}:80 S")
        macs = bytes.fromhex((routed.router.mac("lan0") + routed.lan.mac("eth0")).replace(":", ""))
        with routed.lan.raw("eth0") as sender:
            sender.send(macs + syn[12:])
        wait_for(
            lambda: routed.flows(addresses.wan).get(("tcp", addresses.forged)) == ("answered", True), "the SYN's answer"
        )
        found = routed.flows(addresses.wan)
    assert found.pop(("tcp", addresses.forged))
    assert {key: flow for key, flow in found.items() if key[0] != "icmpv6"} == {
        ("tcp", addresses.lan): ("established", False),
        ("udp", addresses.lan): ("replied", True),
        ("tcp", addresses.wan_router): ("established", False),
        ("udp", addresses.wan_router): ("replied", False),
    }
