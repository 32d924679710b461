# SPDX-License-Identifier: GPL-2.0-or-later
"""Interfaces come, go, change their names and their namespaces; the policy follows at the next apply.

   sender              home
┌───────────┐      ┌───────────┐
│   eth0 ───┼──────┼─── fw0    │
│   eth1 ───┼──────┼─── fw1    │
│   eth2 ───┼──────┼─── fw2    │
└───────────┘      └───────────┘
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests import frames
from tests.firewall import Firewall, exists, policy
from tests.topology import Namespace, Network, wait_for
from tests.wire import Expected, Wire

RULES = (
    "{name: by-interface, match: {interface: fw1, proto: udp}, action: pass}",
    "{name: everywhere, match: {proto: udp, dport: 7}, action: pass}",
)
UDP = frames.v4_frame(frames.udp(dport=7), frames.UDP)
TCP = frames.v4_frame(frames.tcp())


def interface_policy(*interfaces: str) -> str:
    return policy("{name: udp, match: {proto: udp}, action: pass}", interfaces=interfaces)


def states(firewall: Firewall) -> dict[str, dict[str, Any]]:
    return {interface["name"]: interface for interface in firewall.status()["interfaces"]}


def test_one_policy_on_several_interfaces(make_wire: Callable[..., Wire], mode: str) -> None:
    wire = make_wire("fw0", "fw1", "fw2")
    text = policy(*RULES, interfaces=("fw0", "fw1", "fw2"), mode=mode)
    wire.firewall.apply(text)
    arrivals = [(frame, number) for number in range(3) for frame in [UDP] * (number + 1) + [TCP]]
    for frame, number in arrivals:
        wire.send([frame], number)
    stats = wire.firewall.stats()
    Expected.of(text, arrivals).check(stats)
    assert [rule["packets"] for rule in stats["rules"]] == [2, 4]
    assert len({wire.firewall.program(f"fw{number}") for number in range(3)}) == 1


def test_interfaces_are_added_and_removed(make_wire: Callable[..., Wire]) -> None:
    wire = make_wire("fw0", "fw1", "fw2")
    wire.firewall.apply(interface_policy("fw0", "fw1"))
    wire.send([UDP, TCP], 0)
    wire.send([UDP], 1)
    wire.firewall.apply(interface_policy("fw1", "fw2"))
    assert not wire.home.runs_xdp("fw0")
    assert wire.firewall.program("fw1") == wire.firewall.program("fw2") is not None
    wire.send([UDP, TCP], 2)
    stats = wire.firewall.stats()
    assert {name: row["packets"] for name, row in stats["interfaces"].items()} == {"fw0": 2, "fw1": 1, "fw2": 2}
    assert stats["rules"][0]["packets"] == 3
    assert list(states(wire.firewall)) == ["fw1", "fw2"]


def test_an_interface_that_is_missing_is_refused(wire: Wire) -> None:
    wire.firewall.apply(interface_policy("fw0"))
    before = wire.firewall.objects()
    refused = wire.firewall.apply(interface_policy("fw0", "fw9"), status=3)
    assert "fw9" in refused.stderr
    assert wire.firewall.objects() == before


def test_nothing_is_left_behind_where_the_first_apply_is_refused(wire: Wire) -> None:
    wire.firewall.apply(interface_policy("fw0", "fw9"), status=3)
    assert not wire.firewall.pins.root.exists()
    assert not wire.home.runs_xdp("fw0")


def test_an_interface_is_deleted_and_made_anew(wire: Wire, net: Network) -> None:
    wire.firewall.apply(interface_policy("fw0"))
    wire.send([UDP, TCP])
    wire.home.ip("link", "delete", "fw0")
    (state,) = wire.firewall.status(status=1)["interfaces"]
    assert state["mode"] is None
    assert "gone" in state["note"]
    net.pair(wire.sender, "eth0", wire.home, "fw0")
    wire.firewall.apply(interface_policy("fw0"))
    assert states(wire.firewall)["fw0"]["note"] is None
    with wire.sender.raw("eth0") as again:
        again.send(UDP)
        wire.firewall.wait_for_packets(3)
    assert wire.firewall.stats()["rules"][0]["packets"] == 2


def test_an_interface_is_renamed(make_wire: Callable[..., Wire]) -> None:
    wire = make_wire("fw0")
    wire.firewall.apply(interface_policy("fw0"))
    wire.home.ip("link", "set", "fw0", "down")
    wire.home.ip("link", "set", "fw0", "name", "new.0")
    wire.home.ip("link", "set", "new.0", "up")
    assert "new.0" in states(wire.firewall)["fw0"]["note"]
    running = wire.firewall.program("new.0")
    wire.firewall.apply(interface_policy("fw0"), status=3)
    assert wire.firewall.program("new.0") == running
    assert states(wire.firewall)["fw0"]["mode"] == "native"
    wire.firewall.apply(interface_policy("new.0"))
    assert wire.firewall.program("new.0") not in (None, running)
    assert states(wire.firewall)["new.0"]["note"] is None
    wire.firewall.detach()
    assert not wire.home.runs_xdp("new.0")


def test_interfaces_exchange_their_names(make_wire: Callable[..., Wire]) -> None:
    """fw0 becomes fw1, which becomes fw2, which becomes fw0: each stays firewalled throughout."""
    wire = make_wire("fw0", "fw1", "fw2")
    wire.firewall.apply(interface_policy("fw0", "fw1", "fw2"))
    for number in range(3):
        wire.home.ip("link", "set", f"fw{number}", "down")
        wire.home.ip("link", "set", f"fw{number}", "name", f"old{number}")
    for number in range(3):
        wire.home.ip("link", "set", f"old{number}", "name", f"fw{(number + 1) % 3}")
        wire.home.ip("link", "set", f"fw{(number + 1) % 3}", "up")
    wire.firewall.apply(interface_policy("fw0", "fw1"))
    assert wire.firewall.program("fw0") == wire.firewall.program("fw1") is not None
    assert not wire.home.runs_xdp("fw2")
    assert sorted(wire.firewall.pins.links()) == ["fw0", "fw1"]
    wire.send([UDP], 2)  # the other end of eth2 is named fw0 by now
    assert wire.firewall.stats()["interfaces"]["fw0"]["packets"] == 1


def test_the_same_policy_twice_changes_nothing(make_wire: Callable[..., Wire]) -> None:
    wire = make_wire("fw0", "fw1")
    text = interface_policy("fw0", "fw1")
    wire.firewall.apply(text)
    before = wire.firewall.objects()
    wire.send([UDP, TCP])
    again = wire.firewall.apply(text)
    assert "nothing" in again.stdout or "already" in again.stdout
    assert wire.firewall.objects() == before
    wire.firewall.apply(interface_policy("fw0"))
    assert wire.firewall.objects("generations").isdisjoint(before)


def test_an_instance_stays_in_its_namespace(
    net: Network, make_firewall: Callable[[Namespace], Firewall], wire: Wire
) -> None:
    """Another namespace has interfaces of the same names and numbers; they are none of this instance's."""
    other = net.namespace("other", ipv6=False)
    net.pair(wire.sender, "eth9", other, "fw0")
    assert other.link("fw0")["ifindex"] == wire.home.link("fw0")["ifindex"]
    wire.firewall.apply(interface_policy("fw0"))
    running = wire.firewall.program("fw0")
    refused = wire.firewall.apply(policy(default="pass"), home=other, status=2)
    assert "another network namespace" in refused.stderr
    assert wire.firewall.program("fw0") == running
    assert not other.runs_xdp("fw0")
    second = make_firewall(other)
    second.apply(policy(default="pass"))
    assert wire.firewall.program("fw0") == running != second.program("fw0")
    wire.firewall.detach()
    assert other.runs_xdp("fw0")
    wire.firewall.apply(interface_policy("fw0"), home=other, status=3)


def test_two_instances_in_one_namespace(
    make_wire: Callable[..., Wire], make_firewall: Callable[[Namespace], Firewall]
) -> None:
    wire = make_wire("fw0", "fw1")
    second = make_firewall(wire.home)
    wire.firewall.apply(interface_policy("fw0"))
    second.apply(policy(interfaces=("fw1",), default="pass"))
    wire.send([UDP, TCP], 0)
    with wire.sender.raw("eth1") as other:
        other.send(TCP)
        second.wait_for_packets(1)
    assert wire.firewall.stats()["verdicts"]["drop"]["packets"] == 1
    assert second.stats()["verdicts"]["pass"]["packets"] == 1
    refused = second.apply(policy(interfaces=("fw0", "fw1"), default="pass"), status=3)
    assert "fw0" in refused.stderr
    assert wire.firewall.rule("udp") == 1


@pytest.mark.parametrize("delete", [False, True])
def test_detach_leaves_nothing(make_wire: Callable[..., Wire], delete: bool) -> None:
    wire = make_wire("fw0", "fw1")
    wire.firewall.apply(interface_policy("fw0", "fw1"))
    wire.send([UDP])
    objects = wire.firewall.objects()
    assert {kind for kind, _ in objects} == {"prog", "map", "link"}
    if delete:
        wire.home.ip("link", "delete", "fw1")
    wire.firewall.detach()
    assert not wire.firewall.pins.root.exists()
    assert not wire.home.runs_xdp("fw0")
    wait_for(lambda: not any(exists(*each) for each in objects), "all objects to be gone")
    assert wire.firewall.command("detach", status=2).stderr
