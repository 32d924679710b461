# SPDX-License-Identifier: GPL-2.0-or-later
"""Golden policies, as pfctl's regress has them: NAME.yaml is accepted as NAME.ok says, or refused as NAME.fail says.

NAME.ok is the IR, NAME.fail the messages, one a line. ``pytest tests/language --update-golden`` writes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from xdpfw.addresstable import AddressTable
from xdpfw.compiler import ir
from xdpfw.compiler.lower import lower
from xdpfw.errors import PolicyError
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
ENUMS = {"family": ir.Family, "fragment": ir.Fragment, "state": ir.State}


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.chdir(FOLDER)
    try:
        kind, found = "ok", "\n".join(dump(lower(load(f"{name}.yaml", Sources.from_disk()))))
    except PolicyError as error:
        kind, found = "fail", "\n".join(str(each) for each in (error, *error.others))
    golden = {kind: FOLDER / f"{name}.{kind}" for kind in ("ok", "fail")}
    if request.config.getoption("--update-golden"):
        for path in golden.values():
            path.unlink(missing_ok=True)
        golden[kind].write_text(found + "\n")
    assert {kind: path.read_text() for kind, path in golden.items() if path.exists()} == {kind: found + "\n"}


def ranges_of(table: AddressTable) -> ir.AddressRanges:
    v4 = (ir.Range(low, high) for low, high in table.v4.tolist())
    v6 = (ir.Range(a << 64 | b, c << 64 | d) for a, b, c, d in table.v6.tolist())
    return ir.AddressRanges(tuple(v4), tuple(v6))


def dump(policy: ir.Policy) -> Iterator[str]:
    """The IR as text: all of it, so that what changes shows."""
    for interface in policy.interfaces:
        yield f"interface {interface.name} {interface.mode}"
    yield f"default {policy.default}"
    yield f"invalid {policy.invalid}"
    yield f"allow {' '.join(key for key, value in dataclasses.asdict(policy.allow).items() if value) or 'nothing'}"
    for address_set in policy.address_sets:
        yield f"set {address_set.name} of {address_set.entries}: {addresses(ranges_of(address_set.table))}"
    for port_set in policy.port_sets:
        yield f"set {port_set.name} of {port_set.entries} ports: {ranges(port_set.ranges)}"
    for dynamic_set in policy.dynamic_sets:
        yield f"set {dynamic_set.name} dynamic: size {dynamic_set.size} timeout_ns {dynamic_set.timeout_ns}"
    if policy.never_ban is not None:
        yield f"never_ban {addresses(policy.never_ban)}"
    if policy.protect_syn:
        yield f"protect_syn {ranges(policy.protect_syn)}"
    for knock in policy.knocks:
        yield from knock_lines(knock)
    for rule in policy.rules:
        assert rule.position is not None
        yield f"rule {rule.name} at {rule.position}: {rule.text}{f' # {rule.comment}' if rule.comment else ''}"
        yield from conditions("match", rule.match)
        if rule.unless is not None:
            yield from conditions("except", rule.unless)
        details = [rule.action.interface, *(mac and mac.to_bytes(6, "big").hex(":") for mac in macs(rule.action))]
        details += [str(cpu) for cpu in rule.action.cpus]
        if rule.limit is not None:
            yield f"  limit {members(rule.limit)}"
        if rule.add_to is not None:
            yield f"  add_to {members(rule.add_to)}"
        if rule.log_sample:
            yield f"  log 1/{rule.log_sample}"
        yield f"  {rule.action.kind}{''.join(f' {detail}' for detail in details if detail)}"
    for test in policy.tests:
        yield f"test {test.name} at {test.position}"
        for step in test.steps:
            values = {"expect": step.expect, "rule": step.rule, "on": step.interface, "wait_ns": step.wait_ns or None}
            text = " ".join(f"{key} {value}" for key, value in values.items() if value is not None)
            text = f"{text} sent" if step.is_sent else text
            yield f"  {step.position}: {step.packet or '-'} | {text}"


def knock_lines(knock: ir.Knock) -> Iterator[str]:
    yield f"knock {knock.name} at {knock.position}: {knock.text}"
    yield f"  way {way(knock.way)}"
    if knock.close is not None:
        yield f"  close {way(knock.close)}"
    opened = " ".join(f"{service.protocol}:{service.port}" for service in knock.opens)
    yield f"  opens {opened} for_ns {knock.for_ns} scope /{knock.scope_v4} /{knock.scope_v6}"
    if knock.to is not None:
        yield f"  to {addresses(knock.to)}"
    if knock.unless is not None:
        yield from conditions("except", knock.unless)


def way(found: ir.Sequence | ir.Rotation | ir.Spa) -> str:
    """Secrets as digests."""
    if isinstance(found, ir.Spa):
        keys = [f"{key.number} {key.name} {digest(key.key)}{' nat' if key.nat else ''}" for key in found.keys]
        return f"spa port {found.port} window_ns {found.window_ns}: {', '.join(keys) or 'no keys'}"
    times = f"within_ns {found.within_ns} step_ns {found.step_ns}"
    if isinstance(found, ir.Rotation):
        ports = ranges([found.ports])
        return f"rotate {digest(found.secret)} every_ns {found.every_ns} ports {ports} length {found.length} {times}"
    steps = " ".join(
        f"{step.protocol}:{step.number}{'' if step.code is None else f'.{step.code}'}" for step in found.steps
    )
    return f"sequence {steps} {times}"


def digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()[:16]


def macs(action: ir.Action) -> tuple[int | None, int | None]:
    return action.src_mac, action.dst_mac


def members(found: ir.Limit | ir.AddTo) -> str:
    return " ".join(f"{field.name} {getattr(found, field.name)}" for field in dataclasses.fields(found))


def conditions(what: str, match: ir.Match) -> Iterator[str]:
    for field in dataclasses.fields(match):
        value = getattr(match, field.name)
        if value is None:
            continue
        if isinstance(value, ir.AddressRanges):
            text = addresses(value)
        elif field.name in ENUMS:
            enum = ENUMS[field.name]
            text = ", ".join(f"{enum(low).name}..{enum(high).name}" for low, high in value)
        elif field.name in ("src_mac", "dst_mac"):
            text = ", ".join(f"{mac.value:012x}/{mac.mask:012x}" for mac in value)
        elif field.name == "tcp_flags":
            text = ", ".join(f"set {flags.set:08b} clear {flags.clear:08b}" for flags in value)
        elif field.name == "knocked":
            text = ", ".join(value)
        elif field.name == "icmp":
            text = ", ".join(f"{each.protocol} type {ranges([each.type])} code {ranges([each.code])}" for each in value)
        else:
            text = ranges(value)
        yield f"  {what} {field.name} {text}"


def ranges(values: list[ir.Range] | ir.Ranges) -> str:
    return ", ".join(str(low) if low == high else f"{low}..{high}" for low, high in values) or "nothing"


def addresses(values: ir.AddressRanges) -> str:
    texts = [f"@{each.name}" for each in values.sets] + [f"@{name} (dynamic)" for name in values.dynamic]
    for bytes_, family in ((4, values.v4), (16, values.v6)):
        for low, high in family:
            first, last = (str(ip_address(each.to_bytes(bytes_, "big"))) for each in (low, high))
            texts.append(first if first == last else f"{first}..{last}")
    return ", ".join(texts) or "nothing"
