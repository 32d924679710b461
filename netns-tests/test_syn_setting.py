# SPDX-License-Identifier: GPL-2.0-or-later
"""net.ipv4.tcp_syncookies, which protect.syn needs to be 2: apply sees to it, and it is put back in the end."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.firewall import Firewall, policy
from tests.knock_host import XDPFW
from tests.topology import Namespace, Network, run
from xdpfw.kernel import sysctl
from xdpfw.kernel.interface import namespace

CHANGED = "net.ipv4.tcp_syncookies is 2 now, as protect needs it; it was {}, and is again after detach"
AGAIN = "net.ipv4.tcp_syncookies is {} again"


SETTING = "tcp_syncookies"


def told(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


@dataclass
class Host:
    home: Namespace
    make_firewall: Callable[[Namespace], Firewall]

    def apply(
        self, firewall: Firewall, *interfaces: str, ports: str | None = "443", status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        extra = "" if ports is None else f"protect: {{syn: [{ports}]}}\n"
        text = policy(interfaces=interfaces or ("fw0",), default="pass", extra=extra)
        return firewall.apply(text, home=self.home, status=status)

    @property
    def setting(self) -> int:
        with namespace(self.home.name):
            return sysctl.syncookies()

    @setting.setter
    def setting(self, value: int) -> None:
        self.home.sysctl("ipv4/tcp_syncookies", value)


@pytest.fixture
def host(net: Network, make_firewall: Callable[[Namespace], Firewall]) -> Host:
    client, home = net.namespace("client"), net.namespace("host")
    net.pair(client, "eth0", home, "fw0")
    net.pair(client, "eth1", home, "fw1")
    return Host(home, make_firewall)


@pytest.fixture
def firewall(host: Host) -> Firewall:
    return host.make_firewall(host.home)


@pytest.mark.parametrize("before", [0, 1])
def test_detach_puts_it_back(host: Host, firewall: Firewall, before: int) -> None:
    host.setting = before
    assert CHANGED.format(before) in told(host.apply(firewall))
    assert host.setting == 2
    firewall.detach()
    assert host.setting == before


def test_a_policy_that_protects_nothing_puts_it_back(host: Host, firewall: Firewall) -> None:
    host.apply(firewall)
    assert AGAIN.format(1) in told(host.apply(firewall, ports=None))
    assert host.setting == 1


def test_it_is_remembered_from_policy_to_policy(host: Host, firewall: Firewall) -> None:
    host.setting = 0
    host.apply(firewall)
    for ports in ("1", "2"):
        assert SETTING not in told(host.apply(firewall, ports=ports))
    firewall.detach()
    assert host.setting == 0


def test_what_was_2_already_stays(host: Host, firewall: Firewall) -> None:
    host.setting = 2
    assert SETTING not in told(host.apply(firewall))
    firewall.detach()
    assert host.setting == 2


def test_the_same_policy_again_sets_it_again(host: Host, firewall: Firewall) -> None:
    """Somebody has set it meanwhile."""
    host.apply(firewall)
    host.setting = 0
    again = host.apply(firewall)
    assert CHANGED.format(0) in told(again)
    assert host.setting == 2


def test_what_somebody_has_set_meanwhile_is_left(host: Host, firewall: Firewall) -> None:
    host.setting = 0
    host.apply(firewall)
    host.setting = 1
    firewall.detach()
    assert host.setting == 1


def test_it_is_put_back_where_apply_fails(host: Host, firewall: Firewall) -> None:
    other = host.make_firewall(host.home)
    host.apply(other, "fw1", ports=None)
    host.apply(firewall, "fw0", "fw1", status=3)
    assert host.setting == 1


def test_where_it_cannot_be_set_nothing_is_applied(host: Host, firewall: Firewall) -> None:
    """As in many containers, which see the settings read-only."""
    rules = firewall.write(policy(extra="protect: {syn: [443]}\n"))
    command = (*XDPFW, "apply", str(rules), "--netns", host.home.name, "--instance", firewall.instance)
    mounts = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
    done = run("unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *command, status=3)
    assert "Read-only file system" in done.stderr
    assert "sysctl -w net.ipv4.tcp_syncookies=2" in done.stderr
    assert not host.home.runs_xdp("fw0")
    assert host.setting == 1


def test_it_stays_while_another_instance_needs_it(host: Host, firewall: Firewall) -> None:
    other = host.make_firewall(host.home)
    host.apply(firewall, "fw0")
    host.apply(other, "fw1")
    firewall.detach()
    assert host.setting == 2


def test_an_instance_of_another_namespace_does_not_count(host: Host, firewall: Firewall, net: Network) -> None:
    client, home = net.namespace("client2"), net.namespace("host2")
    net.pair(client, "eth0", home, "fw0")
    elsewhere = Host(home, host.make_firewall)
    elsewhere.apply(host.make_firewall(home))
    host.apply(firewall)
    firewall.detach()
    assert (host.setting, elsewhere.setting) == (1, 2)


def test_a_namespace_that_is_gone_keeps_nobody_from_detaching(
    net: Network, make_firewall: Callable[[Namespace], Firewall]
) -> None:
    client, home = net.namespace("client"), net.namespace("host")
    net.pair(client, "eth0", home, "fw0")
    gone = Host(home, make_firewall)
    firewall = make_firewall(home)
    gone.apply(firewall)
    run("ip", "netns", "delete", home.name)
    firewall.detach()
