# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole image: the same policy gives the same bytes, and actions and settings are where the program looks."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.policies import INTERFACES, one, policy, prefix, rule, v4, v6, written
from tests.shapes import SHAPES, shaped
from xdpfw.compiler import ir
from xdpfw.compiler.image import MapImage, compile_policy
from xdpfw.compiler.ir import ActionKind, MacMask, Match, Verdict
from xdpfw.compiler.rulestables import RulesTables
from xdpfw.kernel import abi

ROOT = Path(__file__).parents[2]


def varied() -> ir.Policy:
    """Rules of every group, and of fields whose conditions go through sets and dictionaries."""
    rules = []
    for i in range(60):
        host, net = prefix(0x0A000000 + i * 77, 32), prefix(0xC0000000 + (i << 18), 14)
        half = prefix(i % 2 << 31, 1)
        match = Match(
            src=[v4(host), v4(net), v4(half), v6(prefix(i << 90, 60, 128)), None][i % 5],
            dst=[v4(host, net), None, v4(half), v6(prefix(i, 128, 128))][i % 4],
            proto=one(6 + i % 3),
            dport=one(i * 100, i * 100 + 150) if i % 3 else None,
            src_mac=(MacMask(i << 40, 0xFFFF << 32), MacMask(i, (1 << 48) - 1)) if i % 7 == 0 else None,
        )
        unless = Match(dport=one(i * 100 + 5), ttl=one(i)) if i % 4 == 0 else None
        rules.append(rule(i, match, [ActionKind.DROP, ActionKind.PASS, ActionKind.COUNT][i % 9 % 3], unless))
    return policy(*rules)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_policy_gives_the_same_bytes(shape: str) -> None:
    with shaped(shape):
        assert compile_policy(varied()) == compile_policy(varied())


SCRIPT = """
from tests.compiler.test_image import varied
from tests.shapes import SHAPES, shaped
from xdpfw.compiler.image import compile_policy
for shape in SHAPES:
    with shaped(shape):
        print(compile_policy(varied()).digest)
"""


def test_no_order_of_a_hash_is_in_the_image() -> None:
    digests = set()
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120
        )
        digests.add(run.stdout)
    assert len(digests) == 1


def config(image: MapImage) -> Any:
    return abi.unpack("config", image.config)


def actions(image: MapImage) -> list[Any]:
    size = abi.size_of("action")
    assert len(image.actions) == image.rule_count * size
    return [abi.unpack("action", image.actions[at : at + size]) for at in range(0, len(image.actions), size)]


def test_actions() -> None:
    image = compile_policy(
        written(
            "{action: drop}",
            "{action: pass}",
            "{action: tx}",
            "{action: {redirect: c}}",
            "{action: {redirect: {interface: b, src_mac: '02:11:22:33:44:55'}}}",
            "{action: {redirect: {interface: c, dst_mac: '02:66:77:88:99:aa'}}}",
        )
    )
    found = actions(image)
    assert [action.kind for action in found] == [0, 1, 2, 3, 3, 3]
    assert image.targets == ("c", "b")
    assert [action.target for action in found[3:]] == [0, 1, 0]
    assert [action.flags for action in found] == [4, 4, 0, 0, 1, 2]
    assert bytes(found[4].src_mac).hex(":") == "02:11:22:33:44:55"
    assert bytes(found[5].dst_mac).hex(":") == "02:66:77:88:99:aa"


@pytest.mark.parametrize("default", [Verdict.DROP, Verdict.PASS])
@pytest.mark.parametrize("invalid", [Verdict.DROP, Verdict.PASS])
def test_settings(default: Verdict, invalid: Verdict) -> None:
    found = config(compile_policy(policy(default=default, invalid=invalid)))
    assert found.default_verdict == abi.Verdict[default.name]
    assert found.invalid_verdict == abi.Verdict[invalid.name]
    assert (found.interface_count, found.rule_count, found.trace) == (len(INTERFACES), 0, 0)


@pytest.mark.parametrize("name", ["arp", "ndp", "dhcp", "icmp_errors"])
def test_allowances(name: str) -> None:
    found = config(compile_policy(written(allow=name))).allow
    assert {each: getattr(found, each) for each in ("arp", "ndp", "dhcp", "icmp_errors")} == {
        **dict.fromkeys(("arp", "ndp", "dhcp", "icmp_errors"), 0),
        name: 1,
    }


def test_the_digest_sees_everything() -> None:
    base = compile_policy(written("{name: it, match: {src: 10.0.0.0/8}, action: drop}"))
    others = [
        written("{name: it, match: {src: 10.0.0.0/9}, action: drop}"),
        written("{name: it, match: {src: 10.0.0.0/8}, action: pass}"),
        written("{name: it, match: {src: 10.0.0.0/8}, action: drop}", default="drop"),
        written("{name: it, match: {src: 10.0.0.0/8}, action: drop}", allow="arp"),
        written("{name: it, match: {src: 10.0.0.0/8}, action: {redirect: b}}"),
        written("{name: it, match: {src: 10.0.0.0/8}, action: {redirect: c}}"),
    ]
    assert len({base.digest, *(compile_policy(other).digest for other in others)}) == 7


def test_names_and_comments_are_not_in_the_image() -> None:
    base = written("{name: it, action: drop}")
    renamed = dataclasses.replace(base.rules[0], name="other", comment="why")
    assert compile_policy(dataclasses.replace(base, rules=(renamed,))) == compile_policy(base)


def test_tables_are_whole_blocks_and_the_first_is_empty() -> None:
    image = compile_policy(varied())
    assert len(image.tables) % abi.Layout.BLOCK_BYTES == 0
    assert not any(image.tables[: abi.Layout.BLOCK_BYTES])


def test_progress_is_told_from_the_first_step_to_the_last() -> None:
    told: list[tuple[str, int, int]] = []
    image = compile_policy(varied(), progress=lambda *step: told.append(step))
    assert told == [("compiling", done, len(told)) for done in range(len(told))]
    again: list[tuple[str, int, int]] = []
    earlier = RulesTables(image.config, image.tables, image.wanted_sets)
    compile_policy(varied(), earlier, lambda *step: again.append(step))
    assert again[0] == told[0]
    assert set(again) < set(told)
