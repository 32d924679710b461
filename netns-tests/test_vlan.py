# SPDX-License-Identifier: GPL-2.0-or-later
"""Tagged senders: one tag, two, too many; in the frame, and by VLAN devices.

   sender              home
┌───────────┐      ┌───────────┐
│   eth0 ───┼──────┼─── fw0    │  XDP
│   eth0.42 │      │   fw0.42  │  where the kernel has VLAN devices
└───────────┘      └───────────┘
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests import frames
from tests.firewall import Firewall, policy
from tests.topology import LIMIT_SECONDS, Namespace, Network
from tests.topology import run as run_command
from tests.wire import Expected, Wire

RULES = (
    "{name: inner, match: {vlan: 5, inner_vlan: 42}, action: drop}",
    "{name: outer, match: {vlan: 42}, action: drop}",
    "{name: ssh, match: {proto: tcp, dport: 22}, action: drop}",
    "{name: untagged, match: {vlan: none}, action: pass}",
    "{name: tagged, match: {vlan: any}, action: drop}",
)
IP = {frames.IPV4: frames.ipv4, frames.IPV6: frames.ipv6}
TAGS = ([], [42], [43], [5, 42], [5, 43], [42, 42], [0], [4095], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5])


def tagged(ids: list[int], ethertype: int, payload: bytes) -> bytes:
    tags = [(frames.QINQ if number == 0 and len(ids) > 1 else frames.VLAN, tag) for number, tag in enumerate(ids)]
    return frames.ethernet(ethertype, IP[ethertype](payload), tags=tags)


def test_tags_are_seen_and_no_number_of_them_hides_a_packet(wire: Wire, mode: str) -> None:
    text = policy(*RULES, mode=mode)
    assert "ethtool -K PEER txvlan off" in wire.firewall.apply(text).stdout
    arrivals = [
        (tagged(ids, ethertype, payload), 0)
        for ids in TAGS
        for ethertype in IP
        for payload in (frames.tcp(dport=22), frames.tcp(dport=80))
    ]
    wire.send(frame for frame, _ in arrivals)
    stats = wire.firewall.stats()
    Expected.of(text, arrivals).check(stats)
    assert stats["verdicts"]["pass"]["packets"] == 2  # to port 80, without a tag, IPv4 and IPv6
    assert stats["reasons"]["invalid.vlan_tags"]["packets"] == 4


@pytest.fixture
def vlan_devices(net: Network) -> None:
    """Skips where the kernel has none."""
    probe = net.namespace("probe")
    probe.ip("link", "add", "x0", "type", "veth", "peer", "x1")
    made = run_command(
        "ip", "-n", probe.name, "link", "add", "link", "x0", "name", "x0.1", "type", "vlan", "id", "1", status=None
    )
    if made.returncode:
        reason = f"kernel {os.uname().release} has no VLAN devices: {made.stderr.strip()}"
        print(f"skipped: {reason}")
        pytest.skip(reason)


@pytest.mark.usefixtures("vlan_devices")
@pytest.mark.parametrize("offload", ["on", "off"])
def test_a_vlan_device_sends(
    net: Network, make_firewall: Callable[[Namespace], Firewall], mode: str, offload: str
) -> None:
    """A tag that a veth's sender leaves to the hardware is not in the frame, and so in sight of no XDP program."""
    sender, home = net.namespace("sender", ipv6=False), net.namespace("home", ipv6=False)
    net.pair(sender, "eth0", home, "fw0")
    sender.run("ethtool", "-K", "eth0", "txvlan", offload)
    for end, parent, address in ((sender, "eth0", "192.0.2.2/24"), (home, "fw0", "192.0.2.1/24")):
        end.ip("link", "add", "link", parent, "name", f"{parent}.42", "type", "vlan", "id", "42")
        end.ip("link", "set", f"{parent}.42", "up")
        end.address(f"{parent}.42", address)
    firewall = make_firewall(home)
    rules = (
        "{name: ping42, match: {vlan: 42, proto: icmp}, action: pass}",
        "{name: arp42, match: {vlan: 42, ethertype: arp}, action: pass}",
        "{name: untagged, match: {vlan: none}, action: pass}",
    )
    firewall.apply(policy(*rules, mode=mode, allow="{arp: false}"))
    assert firewall.mode("fw0") == mode
    sender.run("ping", "-n", "-q", "-c", "3", "-i", "0.05", "-W", str(int(LIMIT_SECONDS)), "192.0.2.1")
    seen = {name: firewall.rule(name) for name in ("ping42", "untagged")}
    print(f"{mode}, txvlan {offload}: {seen}")
    if offload == "off":
        assert seen == {"ping42": 3, "untagged": 0}
        assert firewall.rule("arp42") > 0
    else:
        assert seen["ping42"] == 0
        assert seen["untagged"] >= 3
