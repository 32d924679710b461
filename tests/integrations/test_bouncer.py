# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose entries a bouncer writes and takes out, in a set of its own and in one that it shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from xdpfw.integrations.bouncer import RESYNC_NS, Bouncer
from xdpfw.integrations.crowdsec import ApiUnreachableError, Changes, Network

S = 1_000_000_000
HOUR = 3600 * S

A, B, C = (Network(4, 0xC6336400 + number, 32) for number in (1, 2, 3))
WIDE = Network(6, 0x20010DB8 << 96, 32)


@dataclass
class Clock:
    now_ns: int = 1000 * S

    def __call__(self) -> int:
        return self.now_ns


@dataclass
class FakeSet:
    """As those of a firewall are."""

    clock: Clock
    size: int = 1000
    made: int = 0
    ends: dict[Network, int] = field(default_factory=dict)

    def identity(self) -> object:
        return self.made

    def entries(self, among: Iterable[Network] | None = None) -> Mapping[Network, int]:
        live = {each: end for each, end in self.ends.items() if not end or end > self.clock()}
        return live if among is None else {each: live[each] for each in among if each in live}

    def add(self, remaining_ns: Mapping[Network, int]) -> int:
        refused = 0
        for network, ns in remaining_ns.items():
            if network in self.ends or len(self.ends) < self.size:
                self.ends[network] = self.clock() + ns
            else:
                refused += 1
        return refused

    def delete(self, networks: Iterable[Network]) -> None:
        for network in networks:
            self.ends.pop(network, None)


@dataclass
class FakeDecisions:
    """An API with one decision a network; what is asked for is told as CrowdSec tells it."""

    clock: Clock
    decided: dict[Network, int] = field(default_factory=dict)
    told: dict[Network, int] = field(default_factory=dict)
    asked: list[bool] = field(default_factory=list)
    is_down: bool = False

    def decide(self, network: Network, ns: int) -> None:
        self.decided[network] = self.clock() + ns

    def decisions(self, *, startup: bool) -> Changes:
        if self.is_down:
            raise ApiUnreachableError("down")
        self.asked.append(startup)
        live = {each: end for each, end in self.decided.items() if end > self.clock()}
        before = {} if startup else self.told
        self.told = dict(live)
        new = {each: end - self.clock() for each, end in live.items() if before.get(each) != end}
        return Changes(new, frozenset(before.keys() - live.keys()), Counter())


@dataclass
class Setting:
    clock: Clock
    api: FakeDecisions
    members: FakeSet

    def bouncer(self, *, is_sole: bool) -> Bouncer:
        return Bouncer(self.api, self.members, is_sole, self.clock)

    def remaining_s(self) -> dict[Network, int]:
        """0 is for good."""
        return {each: (end - self.clock()) // S if end else 0 for each, end in self.members.entries().items()}


@pytest.fixture
def setting() -> Setting:
    clock = Clock()
    return Setting(clock, FakeDecisions(clock), FakeSet(clock))


@pytest.fixture(params=[True, False], ids=["sole", "shared"])
def is_sole(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_decisions_come_and_go(setting: Setting, is_sole: bool) -> None:
    bouncer = setting.bouncer(is_sole=is_sole)
    setting.api.decide(A, HOUR)
    setting.api.decide(WIDE, 2 * HOUR)
    report = bouncer.round()
    assert (report.everything, report.added, report.deleted) == (True, 2, 0)
    assert setting.remaining_s() == {A: 3600, WIDE: 7200}
    assert not bouncer.round().is_change
    setting.api.decide(B, 60 * S)
    del setting.api.decided[A]
    setting.clock.now_ns += 10 * S
    report = bouncer.round()
    assert (report.everything, report.added, report.deleted) == (False, 1, 1)
    assert setting.remaining_s() == {WIDE: 7190, B: 50}
    assert setting.api.asked == [True, False, False]


def test_an_entry_ends_with_its_decision_though_nobody_takes_it_out(setting: Setting, is_sole: bool) -> None:
    setting.api.decide(A, 60 * S)
    setting.bouncer(is_sole=is_sole).round()
    setting.clock.now_ns += 60 * S
    assert setting.remaining_s() == {}


def test_a_decision_that_is_renewed_or_cut_short(setting: Setting, is_sole: bool) -> None:
    bouncer = setting.bouncer(is_sole=is_sole)
    setting.api.decide(A, HOUR)
    bouncer.round()
    for ns in (2 * HOUR, HOUR // 2):
        setting.api.decide(A, ns)
        assert bouncer.round().added == 1
        assert setting.remaining_s() == {A: ns // S}


def test_a_bouncer_that_starts_again_writes_nothing_twice(setting: Setting, is_sole: bool) -> None:
    setting.api.decide(A, HOUR)
    setting.bouncer(is_sole=is_sole).round()
    again = setting.bouncer(is_sole=is_sole)
    assert not again.round().is_change
    del setting.api.decided[A]
    assert again.round().deleted == 1
    assert setting.remaining_s() == {}


def test_its_own_set_holds_the_decisions_and_nothing_else(setting: Setting) -> None:
    """What was decided when it died, and is no more; and what others have put there."""
    setting.members.ends = {A: 0, B: setting.clock() + HOUR, C: setting.clock() + HOUR}
    setting.api.decide(B, 2 * HOUR)
    report = setting.bouncer(is_sole=True).round()
    assert (report.added, report.deleted) == (1, 2)
    assert setting.remaining_s() == {B: 7200}


def test_the_operators_bans_stay(setting: Setting) -> None:
    """A is banned for good, B for longer than is decided, C is not decided on at all."""
    setting.members.ends = {A: 0, B: setting.clock() + 2 * HOUR, C: setting.clock() + HOUR}
    before = setting.remaining_s()
    bouncer = setting.bouncer(is_sole=False)
    for network in (A, B):
        setting.api.decide(network, HOUR)
    assert not bouncer.round().is_change
    setting.api.decided.clear()
    assert not bouncer.round().is_change
    assert setting.remaining_s() == before


def test_a_ban_that_the_operator_makes_meanwhile_stays(setting: Setting) -> None:
    bouncer = setting.bouncer(is_sole=False)
    setting.api.decide(A, HOUR)
    setting.api.decide(B, HOUR)
    bouncer.round()
    setting.members.ends[A] = 0
    setting.members.ends[B] = setting.clock() + 60 * S
    setting.api.decided.clear()
    bouncer.round()
    assert setting.remaining_s() == {A: 0, B: 60}


def test_a_shorter_ban_is_prolonged_and_then_as_it_was(setting: Setting) -> None:
    """A's own time is over when the decision ends, B's is not."""
    setting.members.ends = {A: setting.clock() + 60 * S, B: setting.clock() + 1000 * S}
    bouncer = setting.bouncer(is_sole=False)
    for network in (A, B):
        setting.api.decide(network, HOUR)
    assert bouncer.round().added == 2
    assert setting.remaining_s() == {A: 3600, B: 3600}
    setting.api.decide(B, 2 * HOUR)
    assert bouncer.round().added == 1
    setting.clock.now_ns += 100 * S
    setting.api.decided.clear()
    assert bouncer.round().deleted == 2
    assert setting.remaining_s() == {B: 900}
    assert not bouncer.round().is_change


def test_bans_for_good_are_not_taken_for_its_own(setting: Setting) -> None:
    """The end of such a ban is 0, as is that of an entry that it never wrote."""
    setting.members.ends = {A: 0}
    bouncer = setting.bouncer(is_sole=False)
    setting.api.told = {A: 1}
    bouncer.round()
    setting.api.told = {A: 1}
    bouncer.round()
    assert setting.remaining_s() == {A: 0}


def test_a_failure_makes_it_ask_for_everything(setting: Setting, is_sole: bool) -> None:
    """An answer that got lost may have had changes."""
    bouncer = setting.bouncer(is_sole=is_sole)
    setting.api.decide(A, HOUR)
    setting.api.decide(B, HOUR)
    bouncer.round()
    setting.api.is_down = True
    with pytest.raises(ApiUnreachableError):
        bouncer.round()
    assert setting.remaining_s() == {A: 3600, B: 3600}
    del setting.api.decided[A]
    setting.api.told = dict(setting.api.decided)
    setting.api.is_down = False
    report = bouncer.round()
    assert (report.everything, report.deleted) == (True, 1)
    assert setting.remaining_s() == {B: 3600}
    assert not bouncer.round().everything


def test_a_set_that_was_made_anew_is_filled_again(setting: Setting, is_sole: bool) -> None:
    """As ``detach`` and ``apply`` leave it."""
    bouncer = setting.bouncer(is_sole=is_sole)
    setting.api.decide(A, HOUR)
    bouncer.round()
    setting.members.made += 1
    setting.members.ends = {}
    assert bouncer.round().added == 1
    assert setting.remaining_s() == {A: 3600}


def test_what_was_flushed_comes_back_after_a_while(setting: Setting, is_sole: bool) -> None:
    bouncer = setting.bouncer(is_sole=is_sole)
    setting.api.decide(A, 2 * RESYNC_NS)
    bouncer.round()
    setting.members.ends = {}
    assert not bouncer.round().is_change
    setting.clock.now_ns += RESYNC_NS
    assert bouncer.round().added == 1
    assert not bouncer.round().everything


def test_what_has_no_room_is_told_and_tried_again(setting: Setting, is_sole: bool) -> None:
    setting.members.size = 2
    bouncer = setting.bouncer(is_sole=is_sole)
    for network in (A, B, C):
        setting.api.decide(network, 2 * RESYNC_NS)
    report = bouncer.round()
    assert (report.added, report.refused) == (2, 1)
    setting.members.size = 3
    setting.clock.now_ns += RESYNC_NS
    report = bouncer.round()
    assert (report.added, report.refused) == (1, 0)
    assert setting.remaining_s().keys() == {A, B, C}


def test_what_goes_makes_room_for_what_comes(setting: Setting, is_sole: bool) -> None:
    setting.members.size = 1
    bouncer = setting.bouncer(is_sole=is_sole)
    setting.api.decide(A, HOUR)
    bouncer.round()
    del setting.api.decided[A]
    setting.api.decide(B, HOUR)
    report = bouncer.round()
    assert (report.added, report.refused) == (1, 0)
    assert setting.remaining_s().keys() == {B}
