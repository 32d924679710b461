# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies for tests: as people write them, and as IR."""

from __future__ import annotations

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Range, Ranges
from xdpfw.compiler.lower import lower
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

INTERFACES = ("a", "b", "c")

NOTHING_ALLOWED = ir.Allow(arp=False, ndp=False, dhcp=False, icmp_errors=False, established=False, fragments=False)


def written(*rules: str, default: str = "pass", invalid: str = "drop", allow: str = "", sets: str = "") -> ir.Policy:
    """The policy of rules, allowances and sets that are written as YAML flow mappings; nothing is allowed unasked."""
    names = ("arp", "ndp", "dhcp", "icmp_errors", "established", "fragments")
    lines = [
        "version: 1",
        f"interfaces: {{{', '.join(f'{name}: {{}}' for name in INTERFACES)}}}",
        f"default: {default}",
        f"invalid: {invalid}",
        f"allow: {{{', '.join(f'{name}: {str(name in allow.split()).lower()}' for name in names)}}}",
        f"sets: {{{sets}}}",
        "rules:" if rules else "rules: []",
        *(f"  - {rule}" for rule in rules),
    ]
    return lower(load("policy.yaml", Sources.from_bundle({"policy.yaml": "\n".join(lines) + "\n"})))


def policy(
    *rules: ir.Rule,
    default: ir.Verdict = ir.Verdict.PASS,
    invalid: ir.Verdict = ir.Verdict.DROP,
    allow: ir.Allow = NOTHING_ALLOWED,
) -> ir.Policy:
    interfaces = tuple(ir.Interface(name) for name in INTERFACES)
    return ir.Policy(interfaces=interfaces, default=default, invalid=invalid, allow=allow, rules=rules)


def rule(
    number: int, match: ir.Match, kind: ir.ActionKind = ir.ActionKind.DROP, unless: ir.Match | None = None
) -> ir.Rule:
    return ir.Rule(f"r{number}", match, ir.Action(kind), unless)


def one(low: int, high: int | None = None) -> Ranges:
    return (Range(low, low if high is None else high),)


def prefix(address: int, length: int, bits: int = 32) -> Range:
    """The addresses that share the first ``length`` of ``bits`` bits with ``address``."""
    low = address >> bits - length << bits - length
    return Range(low, low + (1 << bits - length) - 1)


def v4(*ranges: Range) -> ir.AddressRanges:
    return ir.AddressRanges(v4=tuple(sorted(ranges)))


def v6(*ranges: Range) -> ir.AddressRanges:
    return ir.AddressRanges(v6=tuple(sorted(ranges)))
