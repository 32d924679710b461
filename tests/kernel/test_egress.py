# SPDX-License-Identifier: GPL-2.0-or-later
"""The program at the interfaces' way out: there when a policy follows flows, gone when none does, and nobody else's.

    home                 peer
┌───────────┐       ┌───────────┐
│    fw0 ───┼───────┼─── eth0   │
│    fw1 ───┼───────┼─── eth1   │
└───────────┘       └───────────┘
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.firewall import exists, policy
from tests.topology import Namespace, Network, network, wait_for
from tests.wire import parsed
from xdpfw.compiler.image import compile_policy
from xdpfw.controller import Applied, Controller, Source
from xdpfw.errors import AttachError, UsageError
from xdpfw.kernel import egress
from xdpfw.kernel.egress import Hook
from xdpfw.kernel.interface import Link, find, namespace
from xdpfw.kernel.loader import Program
from xdpfw.kernel.pins import Pins

pytestmark = pytest.mark.needs("privileges", "bpffs", "data plane")

INTERFACES = ("fw0", "fw1")
FOLLOWS = policy(interfaces=INTERFACES)
FOLLOWS_TOO = policy("{name: web, match: {proto: tcp, dport: 80}, action: pass}", interfaces=INTERFACES)
FOLLOWS_NOTHING = policy(interfaces=INTERFACES, allow="{established: false, icmp_errors: false}")
TC_ACT_OK = 0
TC_ACT_SHOT = 2


@dataclass(frozen=True)
class Home:
    net: Network
    namespace: Namespace
    peer: Namespace
    pins: Pins
    hook: Hook

    @property
    def controller(self) -> Controller:
        return Controller(self.pins, self.namespace.name, hook=self.hook)

    def apply(self, text: str) -> Applied:
        loaded = parsed(text)
        source = Source("policy.yaml", {"policy.yaml": text}, digest=text, rules_digest=text)
        return self.controller.apply(loaded, compile_policy(loaded), source)

    def index(self, name: str) -> int:
        with namespace(self.namespace.name):
            return find(name).ifindex

    def seen(self, pins: Pins | None = None) -> dict[str, int | None]:
        """The ids of the programs at the way out, by interface."""
        with namespace(self.namespace.name), contextlib.ExitStack() as opened:
            found = {each.ifindex: each for each in egress.held(pins or self.pins, opened)}
            assert {each.hook for each in found.values()} <= {self.hook}
            return {name: found[index].program_id for name in INTERFACES if (index := find(name).ifindex) in found}

    def check_seen(self, *names: str) -> None:
        """What these interfaces send is seen by the generation in force, and others' by nothing of ours."""
        number = self.pins.generations()[-1]
        with Program.open(str(self.pins.generation(number) / "egress")) as program:
            assert self.seen() == dict.fromkeys(names, program.id)

    def tc(self, *arguments: str, status: int = 0) -> str:
        return self.namespace.run("tc", *arguments, status=status).stdout

    def qdiscs(self, name: str) -> bool:
        return "clsact" in self.tc("qdisc", "show", "dev", name)

    def filters(self, name: str) -> str:
        return self.tc("filter", "show", "dev", name, "egress")

    def foreign(self, name: str, priority: int, verdict: int, direction: str = "egress", protocol: str = "all") -> None:
        """A filter of somebody else's: classic BPF that returns ``verdict``."""
        place = ("dev", name, direction, "prio", str(priority), "protocol", protocol)
        self.tc("filter", "add", *place, "bpf", "da", "bytecode", f"1,6 0 0 {verdict}")


@pytest.fixture(params=Hook)
def home(bpffs: Path, request: pytest.FixtureRequest) -> Iterator[Home]:
    hook = Hook(request.param)
    with egress.null_program() as program:
        if hook is Hook.TCX and egress.best_hook(program) is not hook:
            pytest.skip("this kernel has no TCX: Linux 6.6 has")
    with network() as net:
        home, peer = net.namespace("home", ipv6=False), net.namespace("peer", ipv6=False)
        for number, name in enumerate(INTERFACES):
            net.pair(home, name, peer, f"eth{number}")
        made = Home(net, home, peer, Pins("default", bpffs), hook)
        yield made
        with contextlib.suppress(UsageError):
            made.controller.detach()


def test_it_is_there_while_a_policy_follows_flows(home: Home) -> None:
    home.apply(FOLLOWS)
    home.check_seen(*INTERFACES)
    before = home.seen()
    home.apply(FOLLOWS_TOO)
    home.check_seen(*INTERFACES)
    assert home.seen() != before
    home.apply(FOLLOWS_NOTHING)
    assert home.seen() == {}
    assert home.pins.egress_records() == {}
    home.apply(FOLLOWS)
    home.check_seen(*INTERFACES)


def test_nothing_of_it_is_left_after_detach(home: Home) -> None:
    home.apply(FOLLOWS)
    (program,) = set(home.seen().values())
    assert program
    home.controller.detach()
    wait_for(lambda: not exists("prog", program), "the program to be gone")
    assert not home.pins.root.exists()
    assert not any(home.qdiscs(name) for name in INTERFACES)


def test_detach_finds_filters_in_the_namespace_of_apply(home: Home) -> None:
    home.apply(FOLLOWS)
    Controller(home.pins).detach()
    assert not any(home.filters(name) for name in INTERFACES)


def test_detach_after_the_namespace_was_deleted(home: Home) -> None:
    home.apply(FOLLOWS)
    home.net.close()
    Controller(home.pins).detach()
    assert not home.pins.root.exists()


def test_an_interface_that_the_policy_does_not_name_any_more_is_let_go(home: Home) -> None:
    home.apply(FOLLOWS)
    home.apply(policy(interfaces=("fw1",)))
    home.check_seen("fw1")
    assert not home.filters("fw0")
    assert not home.qdiscs("fw0")
    assert list(home.pins.egress_records()) == [home.index("fw1")]


def test_the_same_policy_again_changes_nothing(home: Home) -> None:
    home.apply(FOLLOWS)
    before = home.seen()
    assert not home.apply(FOLLOWS).changed
    assert home.seen() == before


def test_what_somebody_has_taken_off_comes_back(home: Home) -> None:
    home.apply(FOLLOWS)
    if home.hook is Hook.TCX:
        with Link.open(str(home.pins.egress_record(home.index("fw0")))) as link:
            link.detach()
    else:
        home.tc("qdisc", "del", "dev", "fw0", "clsact")
    assert list(home.seen()) == ["fw1"]
    assert home.apply(FOLLOWS).changed
    home.check_seen(*INTERFACES)


def test_renamed_and_new_interfaces(home: Home) -> None:
    home.apply(FOLLOWS)
    for name, other in (("fw0", "x"), ("fw1", "fw0"), ("x", "fw1")):
        home.namespace.ip("link", "set", name, "down")
        home.namespace.ip("link", "set", name, "name", other)
        home.namespace.ip("link", "set", other, "up")
    home.apply(FOLLOWS_TOO)
    home.check_seen(*INTERFACES)
    home.namespace.ip("link", "delete", "fw1")
    home.net.pair(home.namespace, "fw1", home.peer, "eth2")
    home.apply(FOLLOWS)
    home.check_seen(*INTERFACES)
    assert len(home.pins.egress_records()) == 2


def test_filters_of_others_stay_and_come_behind(home: Home) -> None:
    """At the first priority of all, and at one that ours cannot have, too."""
    home.tc("qdisc", "add", "dev", "fw0", "clsact")
    home.tc("qdisc", "add", "dev", "fw1", "clsact")
    home.foreign("fw0", 1, TC_ACT_OK)
    home.foreign("fw1", 1, TC_ACT_OK, protocol="ip")
    home.apply(FOLLOWS)
    home.check_seen(*INTERFACES)
    home.apply(FOLLOWS_TOO)
    home.check_seen(*INTERFACES)
    if home.hook is Hook.CLSACT:
        ours, others = (home.filters("fw0").index(name) for name in ("xdpfw", "bytecode"))
        assert ours < others
        assert "pref 2 bpf chain 0 handle 0x78647066 xdpfw" in home.filters("fw1")
    home.controller.detach()
    for name in INTERFACES:
        assert "bytecode" in home.filters(name)
        assert "xdpfw" not in home.filters(name)


def test_a_clsact_that_others_have_come_to_use_stays(home: Home) -> None:
    home.apply(FOLLOWS)
    if home.hook is Hook.TCX:
        home.tc("qdisc", "add", "dev", "fw0", "clsact")
    home.foreign("fw0", 7, TC_ACT_OK, direction="ingress")
    home.controller.detach()
    assert "bytecode" in home.tc("filter", "show", "dev", "fw0", "ingress")
    assert not home.qdiscs("fw1")


def test_an_empty_clsact_of_others_stays(home: Home) -> None:
    home.tc("qdisc", "add", "dev", "fw0", "clsact")
    home.apply(FOLLOWS)
    home.controller.detach()
    assert home.qdiscs("fw0")
    assert not home.qdiscs("fw1")


def test_what_is_sent_goes_on_to_others(home: Home) -> None:
    home.apply(FOLLOWS)
    frame = bytes(range(60))
    with home.namespace.raw("fw0") as sender, home.peer.raw("eth0") as receiver:
        sender.send(frame)
        assert receiver.recv(100) == frame
        if home.hook is Hook.TCX:
            home.tc("qdisc", "add", "dev", "fw0", "clsact")
        home.foreign("fw0", 9, TC_ACT_SHOT)
        with pytest.raises(OSError, match="No buffer space"):
            sender.send(frame)


def test_an_interface_that_fails_puts_all_back(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.apply(policy(interfaces=("fw0",)))
    before = home.seen()
    attach = egress.attach

    def fail(info: object, *arguments: object) -> None:
        attach(info, *arguments)  # type: ignore[arg-type]
        raise AttachError("attach to the way out of", "fw1", 12)

    with monkeypatch.context() as failing:
        failing.setattr(egress, "attach", fail)
        with pytest.raises(AttachError):
            home.apply(FOLLOWS)
    assert home.seen() == before
    assert list(home.pins.egress_records()) == [home.index("fw0")]
    assert not home.filters("fw1")
    home.apply(FOLLOWS)
    home.check_seen(*INTERFACES)


def test_two_instances_on_two_interfaces(home: Home) -> None:
    other = Pins("other", home.pins.bpffs)
    mine, theirs = policy(interfaces=("fw0",)), parsed(policy(interfaces=("fw1",)))
    home.apply(mine)
    controller = Controller(other, home.namespace.name, hook=home.hook)
    controller.apply(theirs, compile_policy(theirs), Source("other.yaml", {}, digest="", rules_digest=""))
    assert list(home.seen()) == ["fw0"]
    assert list(home.seen(other)) == ["fw1"]
    home.controller.detach()
    assert list(home.seen(other)) == ["fw1"]
    controller.detach()
    assert not any(home.filters(name) for name in INTERFACES)
