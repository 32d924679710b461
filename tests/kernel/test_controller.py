# SPDX-License-Identifier: GPL-2.0-or-later
"""apply and detach, broken off at every step: by death, by a signal, and by a kernel that refuses.

The policy is on two interfaces of one namespace:

        home                 peer
    ┌───────────┐       ┌───────────┐
    │    fw0 ───┼───────┼─── eth0   │
    │    fw1 ───┼───────┼─── eth1   │
    └───────────┘       └───────────┘
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests import frames
from tests.firewall import exists, policy
from tests.topology import Namespace, network, wait_for
from tests.wire import parsed
from xdpfw.compiler.image import compile_policy
from xdpfw.controller import Applied, Controller, Source
from xdpfw.errors import AttachError, KernelError, UsageError
from xdpfw.kernel import egress, loader
from xdpfw.kernel.egress import FilterEgress, Hook, TcxEgress
from xdpfw.kernel.features import takes_redirects
from xdpfw.kernel.interface import Link, attached, find, namespace
from xdpfw.kernel.libbpf import BpfObject
from xdpfw.kernel.loader import Program
from xdpfw.kernel.maps import ArrayMap
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.program import Generation
from xdpfw.kernel.state import STATE_MAPS
from xdpfw.observe import metadata, totals
from xdpfw.observe.stats import Statistics
from xdpfw.observe.status import Status

pytestmark = pytest.mark.needs("privileges", "bpffs", "data plane")

INTERFACES = ("fw0", "fw1")
FIRST = policy(
    "{name: udp, match: {proto: udp}, action: pass}",
    interfaces=INTERFACES,
    allow="{established: false, icmp_errors: false}",
)
SECOND = policy(
    "{name: tcp, match: {proto: tcp}, action: pass}",
    interfaces=INTERFACES,
    extra="knocks: {ssh: {sequence: [7000/tcp, 9000/udp, 8000/tcp], opens: [22/tcp]}}\n",
)
"""One follows flows and has knocks, the other neither."""

CHANGES = {"unlink", "rename", "mkdir", "rmdir"}
"""Of files: system calls."""
STEPS = {
    function.__qualname__
    for function in (
        BpfObject.pin,
        Link.replace,
        Link.detach,
        Program.open,
        Link.open,
        ArrayMap.fill,
        Generation.load,
        metadata.pin,
        egress.attach,
        egress.take_off,
        TcxEgress.replace,
        TcxEgress.detach,
        FilterEgress.replace,
        FilterEgress.detach,
        FilterEgress._find,
    )
}
"""Functions of ours that change what is in the kernel, or are about to."""


@dataclass(frozen=True)
class Home:
    namespace: Namespace
    peer: Namespace
    pins: Pins
    hook: Hook

    def apply(self, text: str) -> Applied:
        loaded = parsed(text)
        source = Source("policy.yaml", {"policy.yaml": text}, digest=text, rules_digest=text)
        return Controller(self.pins, self.namespace.name, hook=self.hook).apply(loaded, compile_policy(loaded), source)

    def programs(self) -> dict[str, int | None]:
        """The id of the program that each interface runs."""
        with namespace(self.namespace.name):
            found = {name: attached(find(name).ifindex) for name in INTERFACES}
        return {name: each and each.program_id for name, each in found.items()}

    def seen(self) -> dict[str, int | None]:
        """The id of the program that sees what each interface sends."""
        with namespace(self.namespace.name), contextlib.ExitStack() as opened:
            found = {each.ifindex: each.program_id for each in egress.held(self.pins, opened)}
            return {name: found[index] for name in INTERFACES if (index := find(name).ifindex) in found}

    def filters(self) -> str:
        return "".join(self.namespace.run("tc", "filter", "show", "dev", name, "egress").stdout for name in INTERFACES)

    def tree(self) -> set[str]:
        return {str(path.relative_to(self.pins.root)) for path in self.pins.root.rglob("*") if path.is_file()}

    def check_whole(self) -> int:
        """Both interfaces run the newest generation, and nothing else is pinned. Returns its number."""
        (number,) = self.pins.generations()
        with Program.open(str(self.pins.generation(number) / "program")) as program:
            assert set(self.programs().values()) == {program.id}
        sees = self.pins.generation(number) / "egress"
        if sees.exists():
            with Program.open(str(sees)) as program:
                assert self.seen() == dict.fromkeys(INTERFACES, program.id)
        else:
            assert self.pins.egress_records() == {}
            assert "xdpfw" not in self.filters()
        assert {path.split("/")[0] for path in self.tree()} - {"egress"} == {"generations", "links", "state"}
        state = {path.removeprefix("state/") for path in self.tree() if path.startswith("state/")}
        assert state - {"names"} == set(STATE_MAPS)
        assert {path for path in self.tree() if path.startswith("links/")} == {"links/fw0", "links/fw1"}
        assert {path.split("/")[1] for path in self.tree() if path.startswith("generations/")} == {str(number)}
        status = Status.read(self.pins)
        assert status
        assert [interface.generation for interface in status.interfaces] == [number, number]
        assert Statistics.read(self.pins)
        return number


@pytest.fixture
def hook() -> Hook:
    """The kernel's best."""
    with egress.null_program() as program:
        return egress.best_hook(program)


both_hooks = pytest.mark.parametrize("hook", Hook)


@pytest.fixture
def home(bpffs: Path, hook: Hook) -> Iterator[Home]:
    with egress.null_program() as program:
        if hook is Hook.TCX and egress.best_hook(program) is not hook:
            pytest.skip("this kernel has no TCX: Linux 6.6 has")
    with network() as net:
        home, peer = net.namespace("home", ipv6=False), net.namespace("peer", ipv6=False)
        for number, name in enumerate(INTERFACES):
            net.pair(home, name, peer, f"eth{number}")
        made = Home(home, peer, Pins("default", bpffs), hook)
        yield made
        with contextlib.suppress(UsageError):
            Controller(made.pins).detach()


class Breaker:
    """Calls ``action`` at the step of this number, once."""

    def __init__(self, at: int, action: Callable[[], None]) -> None:
        self.left = at
        self.action = action

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "return":
            is_step = frame.f_code.co_qualname in STEPS
        else:
            is_step = event == "c_return" and argument.__name__ in CHANGES
        if is_step:
            self.left -= 1
            if self.left == 0:
                self.action()


def break_at(number: int, action: Callable[[], None], work: Callable[[], object]) -> bool:
    """Does ``work`` with ``action`` at its step of this number; False if it has not so many."""
    breaker = Breaker(number, action)
    sys.setprofile(breaker)
    try:
        work()
    finally:
        sys.setprofile(None)
    return breaker.left <= 0


def survives(work: Callable[[], object], number: int) -> bool:
    """Does ``work`` in a process that is killed at its step of this number; False if it was."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            break_at(number, lambda: os.kill(os.getpid(), signal.SIGKILL), work)
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"step {number}: status {status}"
    return status == 0


def interrupt() -> None:
    raise KeyboardInterrupt


def stride(home: Home) -> int:
    """How many steps a test goes on at once, or all would take ten minutes: few have to do with the older hook."""
    return 1 if home.hook is Hook.TCX else 3


@both_hooks
def test_apply_after_apply_was_killed_at_any_step(home: Home) -> None:
    home.apply(FIRST)
    number = 0
    survived = False
    while not survived:
        number += stride(home)
        texts = (SECOND, FIRST) if number % 2 else (FIRST, SECOND)
        survived = survives(lambda texts=texts: home.apply(texts[0]), number)  # type: ignore[misc]
        assert all(home.programs().values()), f"killed at step {number}, an interface runs nothing"
        check_report(home)
        home.apply(texts[0])
        home.check_whole()
    assert number > len(STEPS)


def check_bare(home: Home) -> None:
    """Nothing of ours is on the interfaces."""
    assert set(home.programs().values()) == {None}
    assert home.seen() == {}
    for name in INTERFACES:
        assert "clsact" not in home.namespace.run("tc", "qdisc", "show", "dev", name).stdout


def check_report(home: Home) -> None:
    """Status and statistics tell of the newest policy that an interface runs, not of one that is only there."""
    status, statistics = Status.read(home.pins), Statistics.read(home.pins)
    assert status
    assert statistics
    numbers = {interface.generation for interface in status.interfaces}
    assert status.generation == max(numbers, key=lambda number: number or 0)
    assert statistics.meta.source_digest == status.source_digest


@both_hooks
def test_apply_after_the_first_apply_was_killed_at_any_step(home: Home) -> None:
    number = 0
    survived = False
    while not survived:
        number += 2 * stride(home)
        survived = survives(lambda: home.apply(SECOND), number)
        home.apply(SECOND)
        home.check_whole()
        Controller(home.pins).detach()
        check_bare(home)


@both_hooks
def test_apply_and_detach_after_detach_was_killed_at_any_step(home: Home) -> None:
    number = 0
    survived = False
    while not survived:
        number += 2 * stride(home)
        home.apply(SECOND)
        survived = survives(Controller(home.pins).detach, number)
        if number % 2:
            home.apply(SECOND)
            home.check_whole()
        if home.pins.root.exists():
            Controller(home.pins).detach()
        check_bare(home)
        assert not home.pins.root.exists()


def test_apply_interrupted_at_any_step_leaves_one_policy_or_the_other(home: Home) -> None:
    home.apply(FIRST)
    number = 0
    broken = True
    while broken:
        number += 2
        before = home.programs()
        assert len(set(before.values())) == 1
        try:
            broken = break_at(number, interrupt, lambda: home.apply(SECOND))
        except KeyboardInterrupt:
            broken = True
        after = home.programs()
        assert len(set(after.values())) == 1, f"interrupted at step {number}, two policies are in force"
        assert None not in after.values()
        if after == before:
            home.check_whole()
        home.apply(FIRST)
        home.check_whole()


def test_a_foreign_program_on_the_second_interface_puts_the_first_back(home: Home) -> None:
    """It appears after all checks, as late as can be: when the second interface is to be taken."""
    home.apply(policy(interfaces=("fw0",)))
    before, tree = home.programs(), home.tree()
    with Generation.open(home.pins.generation(1)) as foreign, namespace(home.namespace.name):
        index = find("fw1").ifindex
        made: list[Link] = []

        def take() -> None:
            from xdpfw.kernel.interface import attach

            sys.setprofile(None)
            made.append(attach(find("fw1"), foreign.program, "native").link)

        def on_replace(frame: FrameType, event: str, _: Any) -> None:
            if event == "return" and frame.f_code.co_qualname == Link.replace.__qualname__:
                take()

        sys.setprofile(on_replace)
        try:
            with pytest.raises(AttachError, match="never taken over"):
                home.apply(SECOND)
        finally:
            sys.setprofile(None)
        assert made
        taken = attached(index)
        assert taken
        assert taken.program_id == foreign.program_id
        made[0].close()
    assert home.programs() == before
    assert home.tree() == tree


def test_a_second_controller_is_told_who_is_at_work(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xdpfw.controller.SHORT_CHANGE_S", 0.1)
    home.apply(FIRST)
    with home.pins.lock():
        for work in (lambda: home.apply(SECOND), Controller(home.pins).detach):
            with pytest.raises(KernelError, match=f"process {os.getpid()} is changing it"):
                work()
    home.check_whole()


def test_nothing_is_left_after_detach(home: Home) -> None:
    home.apply(FIRST)
    home.apply(SECOND)
    with Generation.open(home.pins.generation(2)) as generation:
        program = generation.program_id
        maps = [each.id for each in generation.maps.by_name().values()]
    assert exists("prog", program)
    Controller(home.pins).detach()
    wait_for(lambda: not exists("prog", program), "the program to be gone")
    wait_for(lambda: not any(exists("map", number) for number in maps), "the maps to be gone")
    assert not home.pins.root.exists()


def test_counters_go_with_the_names_of_rules(home: Home) -> None:
    """Kept, renamed, removed, added, turned from deciding to counting; twice over."""
    udp, tcp = "match: {proto: udp}, action", "match: {proto: tcp}, action"
    first = policy(f"{{name: a, {udp}: pass}}", f"{{name: b, {tcp}: drop}}", interfaces=INTERFACES)
    second = policy(f"{{name: c, {udp}: pass}}", f"{{name: b, {tcp}: pass}}", interfaces=INTERFACES)
    third = policy("{name: b, action: count}", f"{{name: a, {udp}: pass}}", interfaces=INTERFACES)
    sent = {"udp": frames.v4_frame(frames.udp(), frames.UDP), "tcp": frames.v4_frame(frames.tcp())}

    def send(expected: dict[str, int], removed: int) -> None:
        before = seen(home)
        with home.peer.raw("eth0") as wire:
            for frame in (sent["udp"], sent["tcp"], sent["tcp"]):
                wire.send(frame)
        wait_for(lambda: seen(home) == before + 3, "3 packets")
        statistics = Statistics.read(home.pins)
        assert statistics
        assert {row["name"]: row["packets"] for row in statistics.to_json()["rules"]} == expected
        assert statistics.totals.removed.packets == removed

    home.apply(first)
    send({"a": 1, "b": 2}, removed=0)
    home.apply(second)
    send({"c": 1, "b": 4}, removed=1)
    home.apply(third)
    send({"b": 3, "a": 1}, removed=1 + 1 + 4)


def test_a_reader_beside_the_end_of_a_switch_loses_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation before is removed between the reader's look for what was carried on and its next one."""
    home.apply(FIRST)
    with home.peer.raw("eth0") as wire:
        wire.send(frames.v4_frame(frames.tcp()))
    wait_for(lambda: seen(home) == 1, "a packet")
    with monkeypatch.context() as switching:
        switching.setattr(Controller, "_retire", lambda *_: None)
        home.apply(SECOND)
    look, ending = totals._carried, [SECOND]

    def look_and_end(directory: Path) -> totals.Totals | None:
        found = look(directory)
        if ending:
            home.apply(ending.pop())
        return found

    monkeypatch.setattr(totals, "_carried", look_and_end)
    assert seen(home) == 1
    assert not ending


def seen(home: Home) -> int:
    statistics = Statistics.read(home.pins)
    assert statistics
    return sum(counter.packets for counter in statistics.verdicts.values())


def test_the_same_policy_is_applied_anew_with_another_program(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As after an upgrade of xdpfw itself."""
    home.apply(FIRST)
    assert not home.apply(FIRST).changed
    upgraded = tmp_path / "xdpfw.bpf.o"
    upgraded.write_bytes(loader.OBJECT.read_bytes() + b"\0")
    monkeypatch.setattr(loader, "OBJECT", upgraded)
    assert home.apply(FIRST).changed
    assert home.check_whole() == 2


def test_a_redirect_that_its_target_does_not_take_is_told(home: Home) -> None:
    """A veth takes no frames from native XDP while its other end has neither an XDP program nor GRO."""
    with namespace(home.namespace.name):
        if takes_redirects(find("fw1").ifindex) is None:
            pytest.skip("this kernel does not tell who takes redirects: Linux 6.3 does")
    home.peer.run("ethtool", "-K", "eth1", "gro", "off")
    redirect = policy("{name: over, action: {redirect: fw1}}", interfaces=INTERFACES)
    notes = home.apply(redirect).notes
    assert any("redirects to fw1 are lost" in note for note in notes)
    assert home.apply(redirect).notes == notes
    home.peer.run("ethtool", "-K", "eth1", "gro", "on")
    assert not home.apply(redirect).notes


def test_answers_that_a_driver_does_not_send_are_told(home: Home) -> None:
    with namespace(home.namespace.name):
        if takes_redirects(find("fw0").ifindex) is None:
            pytest.skip("this kernel does not tell who takes frames: Linux 6.3 does")
    home.peer.run("ethtool", "-K", "eth0", "gro", "off")
    back = policy("{name: back, match: {proto: udp}, action: tx}", interfaces=INTERFACES)
    assert any("send back is lost on fw0" in note for note in home.apply(back).notes)
    for name in ("eth0", "eth1"):
        home.peer.run("ethtool", "-K", name, "gro", "on")
    assert not home.apply(back).notes


def test_the_clock_is_asked_when_a_policy_is_applied(home: Home) -> None:
    loaded = parsed(FIRST)
    source = Source("policy.yaml", {}, digest="", rules_digest="")
    controller = Controller(home.pins, home.namespace.name, clock=lambda: 1234.5)
    controller.apply(loaded, compile_policy(loaded), source)
    status = Status.read(home.pins)
    assert status
    assert status.applied_at == 1234.5
    assert dataclasses.asdict(status)["netns"] == home.namespace.name
