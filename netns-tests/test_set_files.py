# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of a set changes while the firewall is in force: the rules' tables stay, what they decide does not.

   sender              home
┌───────────┐      ┌───────────┐
│   eth0 ───┼──────┼─── fw0    │  XDP
└───────────┘      └───────────┘
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from tests import frames
from tests.firewall import policy
from tests.wire import Wire
from xdpfw.compiler.lower import lower, rules_digest
from xdpfw.controller import Controller
from xdpfw.kernel.program import Generation
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

LISTED, LATER = 0xC6336405, 0xC6336499  # 198.51.100.5 and .153

RULES = (
    "{name: log, match: {src: '@bad'}, action: count}",
    "{name: listed, match: {src: '@bad'}, except: {src: '@good'}, action: drop}",
    *(f"{{name: host{n}, match: {{dst: 10.0.{n // 250}.{n % 250}, src: '@good'}}, action: drop}}" for n in range(200)),
)


def frame(source: int) -> bytes:
    return frames.v4_frame(frames.udp(), frames.UDP, src=source)


def v6_frame() -> bytes:
    source = int(ipaddress.IPv6Address("2001:db8::bad"))
    return frames.v6_frame(frames.udp(), frames.UDP, src=source)


@pytest.fixture
def lists(wire: Wire) -> dict[str, Path]:
    return {name: wire.firewall.directory / f"{name}.txt" for name in ("bad", "good")}


def text(lists: dict[str, Path], *more: str) -> str:
    sets = "".join(f"  {name}: {{type: prefix, file: {path}}}\n" for name, path in lists.items())
    return policy(*RULES, *more, default="pass", extra=f"sets:\n{sets}")


def tables(wire: Wire) -> bytes:
    (number,) = wire.firewall.pins.generations()
    with Generation.open(wire.firewall.pins.generation(number)) as generation:
        return generation.tables()[1]


def test_a_file_that_changed_is_applied(wire: Wire, lists: dict[str, Path]) -> None:
    lists["bad"].write_text("198.51.100.5\n")
    lists["good"].write_text("")
    wire.firewall.apply(text(lists))
    before = tables(wire)
    sent = [frame(LISTED), frame(LATER), v6_frame()]
    wire.send(sent)
    assert (wire.firewall.rule("listed"), wire.firewall.reason("default")) == (1, 2)

    lists["bad"].write_text("198.51.100.128/25\n2001:db8::bad\n198.51.100.5\n")
    lists["good"].write_text("198.51.100.5\n")
    wire.firewall.apply(text(lists))
    assert tables(wire) == before
    wire.send(sent)
    assert (wire.firewall.rule("listed"), wire.firewall.rule("log"), wire.firewall.reason("default")) == (3, 4, 3)


def test_rules_that_changed_with_it_are_compiled(wire: Wire, lists: dict[str, Path]) -> None:
    for path in lists.values():
        path.write_text("198.51.100.5\n")
    wire.firewall.apply(text(lists))
    before = tables(wire)
    lists["good"].write_text("")
    wire.firewall.apply(text(lists, "{name: later, match: {src: 198.51.100.153}, action: drop}"))
    assert tables(wire) != before
    wire.send([frame(LISTED), frame(LATER)])
    assert (wire.firewall.rule("listed"), wire.firewall.rule("later")) == (1, 1)


def test_a_file_with_an_error_changes_nothing(wire: Wire, lists: dict[str, Path]) -> None:
    for path in lists.values():
        path.write_text("198.51.100.5\n")
    wire.firewall.apply(text(lists))
    lists["bad"].write_text("198.51.100.5\n198.51.100.300\n")
    refused = wire.firewall.apply(text(lists), status=2)
    assert f"{lists['bad']}:2:1" in refused.stderr
    lists["good"].write_text("")
    wire.send([frame(LISTED)])
    assert wire.firewall.rule("listed") == 0
    assert wire.firewall.reason("default") == 1


def test_what_another_compiler_made_is_not_taken_over(
    wire: Wire, lists: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mended compiler must not go on with the tables of one that was wrong."""
    for path in lists.values():
        path.write_text("198.51.100.5\n")
    written = wire.firewall.write(text(lists))
    loaded = load(str(written), Sources.from_disk())
    lowered, digest = lower(loaded), rules_digest(loaded)
    wire.firewall.apply(text(lists))
    controller = Controller(wire.firewall.pins)
    found = controller.earlier_rules(lowered, digest)
    assert found is not None
    assert found.tables == tables(wire)
    monkeypatch.setattr("xdpfw.compiler.lower.compiler_digest", lambda: "another")
    assert rules_digest(loaded) != digest
    assert controller.earlier_rules(lowered, rules_digest(loaded)) is None
    monkeypatch.setattr("xdpfw.controller.object_digest", lambda: "another")
    assert controller.earlier_rules(lowered, digest) is None
