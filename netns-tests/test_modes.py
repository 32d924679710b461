# SPDX-License-Identifier: GPL-2.0-or-later
"""Native, generic, and auto, which takes what there is. A bridge has no native XDP.

    client                            host
┌──────────────┐        ┌─────────────────────────┐
│     eth0 ────┼────────┼──── fw0 ── br0          │
│  192.0.2.2   │        │            192.0.2.1    │
└──────────────┘        └─────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.firewall import Firewall, policy
from tests.topology import LIMIT_SECONDS, Namespace, Network, wait_for
from tests.wire import Wire

PING = "{name: ping, match: {proto: icmp}, action: pass}"


@pytest.fixture
def bridged(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> tuple[Namespace, Firewall]:
    client, host = net.namespace("client", ipv6=False), net.namespace("host", ipv6=False)
    net.pair(client, "eth0", host, "fw0")
    host.ip("link", "add", "br0", "type", "bridge")
    host.ip("link", "set", "fw0", "master", "br0")
    host.ip("link", "set", "br0", "up")
    client.address("eth0", "192.0.2.2/24")
    host.address("br0", "192.0.2.1/24")
    wait_for(lambda: host.link("br0")["operstate"] == "UP", "the bridge")
    return client, make_firewall(host)


def test_auto_falls_back_to_generic_and_says_so(bridged: tuple[Namespace, Firewall]) -> None:
    client, firewall = bridged
    applied = firewall.apply(policy(PING, interfaces=("br0",), allow="{established: false}"))
    assert firewall.mode("br0") == "generic"
    assert "br0 runs in generic mode" in applied.stdout + applied.stderr
    client.run("ping", "-n", "-q", "-c", "3", "-i", "0.05", "-W", str(int(LIMIT_SECONDS)), "192.0.2.1")
    assert firewall.rule("ping") == 3
    (interface,) = firewall.status()["interfaces"]
    assert (interface["name"], interface["mode"]) == ("br0", "generic")


def test_native_is_refused_where_there_is_none(bridged: tuple[Namespace, Firewall]) -> None:
    _, firewall = bridged
    refused = firewall.apply(policy(PING, interfaces=("fw0", "br0"), mode="native"), status=3)
    assert "br0 in native mode" in refused.stderr
    assert "mode: generic" in refused.stderr
    assert firewall.mode("fw0") is None
    assert not firewall.pins.root.exists()


def test_auto_takes_native_where_it_can(wire: Wire) -> None:
    applied = wire.firewall.apply(policy(PING))
    assert wire.firewall.mode("fw0") == "native"
    assert "generic" not in applied.stdout + applied.stderr


def test_a_change_of_mode_is_refused(wire: Wire, mode: str) -> None:
    """It cannot be atomic: the one program would have to go before the other comes."""
    other = {"native": "generic", "generic": "native"}[mode]
    wire.firewall.apply(policy(PING, mode=mode))
    running = wire.firewall.program("fw0")
    refused = wire.firewall.apply(policy(PING, mode=other), status=2)
    assert "detach" in refused.stderr
    assert wire.firewall.program("fw0") == running
    wire.firewall.apply(policy(PING, mode="auto", default="pass"))
    assert wire.firewall.mode("fw0") == mode
