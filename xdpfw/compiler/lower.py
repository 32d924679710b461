# SPDX-License-Identifier: GPL-2.0-or-later
"""A loaded policy to the IR: names become numbers, sets become their ranges, defaults are filled in."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from xdpfw.compiler import ir
from xdpfw.compiler.ranges import merge
from xdpfw.compiler.ruletext import adds_beyond, knock_text, per_of, rule_text
from xdpfw.compiler.version import compiler_digest
from xdpfw.knock.steps import Step
from xdpfw.policy import icmp, models
from xdpfw.policy.addresses import V4_BITS, V6_BITS, Addresses
from xdpfw.policy.collector import collector_paused
from xdpfw.policy.knocks import LoadedKnock
from xdpfw.policy.load import LoadedPolicy, LoadedRule, LoadedTest
from xdpfw.policy.names import TCP
from xdpfw.policy.rates import default_burst
from xdpfw.policy.sets import LoadedSet
from xdpfw.policy.values import SetName, Span

_FAMILIES: Final = {"other": ir.Family.OTHER, "ipv4": ir.Family.IPV4, "ipv6": ir.Family.IPV6}
_FRAGMENTS: Final = {
    "none": (ir.Fragment.NONE, ir.Fragment.NONE),
    "first": (ir.Fragment.FIRST, ir.Fragment.FIRST),
    "later": (ir.Fragment.LATER, ir.Fragment.LATER),
    "any": (ir.Fragment.FIRST, ir.Fragment.LATER),
}
_STATES: Final = {"new": ir.State.NEW, "established": ir.State.ESTABLISHED}

DEFAULT_SET_SIZE: Final = 65_536
BANS_SIZE: Final = 1 << 18
"""Entries that there is room for where the policy does not say."""

SETS_STAY_WHOLE: Final = True
"""Whether conditions of rules name the sets that have files, or have the addresses of these among their own."""


def lower(loaded: LoadedPolicy, *, sets_stay_whole: bool = SETS_STAY_WHOLE) -> ir.Policy:
    """The IR of a policy. What can be wrong with one, ``load`` has refused."""
    with collector_paused():
        return _Lowering(loaded, sets_stay_whole).policy()


def rules_digest(loaded: LoadedPolicy, *, sets_stay_whole: bool = SETS_STAY_WHOLE) -> str:
    """SHA-256 in hex over all that what rules and knocks are compiled to depends on: the files, and the compiler.

    The files are all but those of sets that stay whole wherever they are named.
    """
    in_knocks = {name for knock in loaded.knocks.values() for name in _sets_of_knock(knock.model)}
    cut_up: set[str] = set()
    whole: set[str] = set()
    for found in loaded.sets.values():
        if found.file is not None:
            (whole if sets_stay_whole and found.name not in in_knocks else cut_up).add(found.file)
    files = loaded.sources.digest_without(whole - cut_up)
    return hashlib.sha256(f"{compiler_digest()} {files}".encode()).hexdigest()


def _sets_of_knock(knock: models.Knock) -> Iterator[str]:
    for addresses in (knock.to, knock.unless and knock.unless.src, knock.unless and knock.unless.dst):
        yield from (each for each in addresses or () if isinstance(each, SetName))


class _Lowering:
    """Conditions that are written alike become one object: a policy repeats few of them many times."""

    def __init__(self, loaded: LoadedPolicy, sets_stay_whole: bool) -> None:
        self.loaded = loaded
        self.sets_stay_whole = sets_stay_whole
        self.interface_index = {name: index for index, name in enumerate(loaded.interfaces)}
        self.address_sets = {
            found.name: ir.AddressSet(found.name, found.prefixes.table, found.entries, found.file)
            for found in loaded.sets.values()
            if found.kind == "prefix" and not found.is_dynamic
        }
        self.port_sets = {
            found.name: ir.PortSet(found.name, merge(found.ports), found.entries)
            for found in loaded.sets.values()
            if found.kind == "port"
        }
        self.conditions: dict[tuple[str, Any], object] = {}
        self.merged: dict[tuple[tuple[int, int], ...], ir.Ranges] = {}
        self.set_ranges: dict[str, ir.AddressRanges] = {}
        self.unions: dict[tuple[tuple[Addresses | SetName, ...], bool], ir.AddressRanges] = {}

    def policy(self) -> ir.Policy:
        loaded = self.loaded
        allow_by_default = loaded.default == "drop"
        allow = {
            key: allow_by_default if (given := getattr(loaded.allow, key)) is None else given
            for key in models.Allow.model_fields
        }
        return ir.Policy(
            interfaces=tuple(
                ir.Interface(name, ir.AttachMode(interface.mode), loaded.interface_positions[name])
                for name, interface in loaded.interfaces.items()
            ),
            default=ir.Verdict(loaded.default),
            invalid=ir.Verdict(loaded.invalid),
            allow=ir.Allow(**allow),
            knocks=tuple(self.knock(knock) for knock in loaded.knocks.values()),
            rules=tuple(self.rule(rule) for rule in loaded.rules if rule.model.enabled),
            address_sets=tuple(self.address_sets.values()),
            port_sets=tuple(self.port_sets.values()),
            dynamic_sets=tuple(_dynamic_set(found) for found in loaded.sets.values() if found.is_dynamic),
            never_ban=self.addresses(loaded.never_ban or None, whole_sets=False),
            protect_syn=self.ports(loaded.protect_syn),
            tests=tuple(_test(test) for test in loaded.tests),
        )

    def rule(self, rule: LoadedRule) -> ir.Rule:
        model = rule.model
        protocols = _protocols(model.match)
        return ir.Rule(
            name=rule.name,
            match=self.match(model.match, protocols),
            action=_action(model.action),
            unless=None if model.unless is None else self.match(model.unless, _protocols(model.unless) or protocols),
            limit=None if model.limit is None else _limit(model.limit),
            add_to=_add_to(model),
            log_sample=_log_sample(model.log),
            comment=model.comment,
            text=rule_text(model),
            sets=_set_names(model),
            position=rule.place.position(),
        )

    def knock(self, knock: LoadedKnock) -> ir.Knock:
        model = knock.model
        unless = model.unless
        return ir.Knock(
            name=knock.name,
            way=_way(knock),
            opens=tuple(ir.Service(*service) for service in model.opens),
            for_ns=model.lasts,
            close=None if model.close is None else _sequence(model.close, model),
            scope_v4=model.scope.v4,
            scope_v6=model.scope.v6,
            to=self.addresses(model.to, whole_sets=False),
            unless=None
            if unless is None
            else self.match(unless, _protocols(unless) or _opened_protocols(model), whole_sets=False),
            text=knock_text(knock),
            sets=tuple(dict.fromkeys(_sets_of_knock(model))),
            position=knock.place.position(of_key=True),
        )

    def match(self, match: models.Match, protocols: tuple[int, ...] | None, *, whole_sets: bool = True) -> ir.Match:
        """``protocols`` are those that the match is about, by its own word or, in ``except``, by the rule's.

        ``whole_sets``: its conditions may name sets. Those of knocks may not: they are cut up.
        """
        found: dict[str, Any] = {}
        for field in match.model_fields_set:
            value = getattr(match, field)
            if field in ("src", "dst"):
                found[field] = self.addresses(value, whole_sets=whole_sets)
            elif field in _LOWERING:
                key = field, value
                if key not in self.conditions:
                    self.conditions[key] = _LOWERING[field](self, value)
                found[field] = self.conditions[key]
        if match.tcp_flags is not None and match.proto is None:
            found["proto"] = self.ranges(((TCP, TCP),))
        if match.icmp_type is not None or match.icmp_code is not None:
            found["icmp"] = _icmp(match, protocols)
        return ir.Match(**found)

    def ranges(self, spans: tuple[tuple[int, int], ...]) -> ir.Ranges:
        if spans not in self.merged:
            self.merged[spans] = merge((int(low), int(high)) for low, high in spans)
        return self.merged[spans]

    def numbers(self, given: tuple[str, ...], numbers: Mapping[str, int]) -> ir.Ranges:
        return self.ranges(tuple((numbers[name], numbers[name]) for name in given))

    def ports(self, ports: tuple[Span | SetName, ...]) -> ir.Ranges:
        if len(ports) == 1 and isinstance(ports[0], SetName):
            return self.port_sets[ports[0]].ranges
        spans: list[tuple[int, int]] = []
        for port in ports:
            spans += self.port_sets[port].ranges if isinstance(port, SetName) else [port]
        return self.ranges(tuple(spans))

    def addresses(
        self, addresses: tuple[Addresses | SetName, ...] | None, *, whole_sets: bool
    ) -> ir.AddressRanges | None:
        if addresses is None:
            return None
        key = addresses, whole_sets and self.sets_stay_whole
        if key not in self.unions:
            self.unions[key] = self.union(*key)
        return self.unions[key]

    def union(self, addresses: tuple[Addresses | SetName, ...], whole_sets: bool) -> ir.AddressRanges:
        if len(addresses) == 1 and isinstance(only := addresses[0], Addresses):
            span = (ir.Range(only.low, only.high),)
            return ir.AddressRanges(v4=span) if only.bits == V4_BITS else ir.AddressRanges(v6=span)
        v4: list[tuple[int, int]] = []
        v6: list[tuple[int, int]] = []
        sets: dict[str, ir.AddressSet] = {}
        dynamic: set[str] = set()
        for each in addresses:
            if not isinstance(each, SetName):
                (v4 if each.bits == V4_BITS else v6).append((each.low, each.high))
            elif each not in self.address_sets:
                dynamic.add(str(each))
            elif whole_sets and self.address_sets[each].file is not None:
                sets[each] = self.address_sets[each]
            elif len(addresses) == 1:
                return self.ranges_of_set(each)
            else:
                v4 += self.ranges_of_set(each).v4
                v6 += self.ranges_of_set(each).v6
        whole = tuple(sets[name] for name in sorted(sets))
        return ir.AddressRanges(merge(v4), merge(v6), whole, tuple(sorted(dynamic)))

    def ranges_of_set(self, name: str) -> ir.AddressRanges:
        if name not in self.set_ranges:
            table = self.address_sets[name].table
            v4, v6 = (tuple(map(ir.Range._make, table.spans(bits))) for bits in (V4_BITS, V6_BITS))
            self.set_ranges[name] = ir.AddressRanges(v4, v6)
        return self.set_ranges[name]


_LOWERING: Final[dict[str, Callable[[_Lowering, Any], object]]] = {
    "interface": lambda lowering, names: lowering.numbers(names, lowering.interface_index),
    "family": lambda lowering, names: lowering.numbers(names, _FAMILIES),
    **dict.fromkeys(("ethertype", "vlan", "inner_vlan", "length", "ttl", "dscp"), _Lowering.ranges),
    **dict.fromkeys(("sport", "dport"), _Lowering.ports),
    **dict.fromkeys(("src_mac", "dst_mac"), lambda _, macs: tuple(ir.MacMask(*mac) for mac in macs)),
    "proto": lambda lowering, given: lowering.ranges(tuple((each.number, each.number) for each in given)),
    "tcp_flags": lambda _, given: tuple(ir.TcpFlags(*flags) for flags in given),
    "state": lambda lowering, names: lowering.numbers(names, _STATES),
    "fragment": lambda _, names: merge(_FRAGMENTS[name] for name in names),
    "ip_options": lambda lowering, given: lowering.ranges(((given, given),)),
    "knocked": lambda _, names: tuple(sorted(set(names))),
}
"""Of each condition but those on addresses and ICMP, how it is lowered."""


def _way(knock: LoadedKnock) -> ir.Sequence | ir.Rotation | ir.Spa:
    model = knock.model
    if model.spa is not None:
        assert knock.keys is not None
        keys = tuple(ir.SpaKey(key.number, key.name, key.key, key.nat) for key in knock.keys.keys)
        return ir.Spa(model.spa.port, keys, model.spa.window)
    if model.rotate is not None:
        assert knock.secret is not None
        rotate, within = model.rotate, model.within or models.DEFAULT_WITHIN_NS
        ports = ir.Range(*rotate.ports)
        return ir.Rotation(knock.secret, rotate.every, ports, rotate.length, within, model.step or within)
    assert model.sequence is not None
    return _sequence(model.sequence, model)


def _sequence(steps: tuple[Step, ...], knock: models.Knock) -> ir.Sequence:
    within = knock.within or models.DEFAULT_WITHIN_NS
    return ir.Sequence(tuple(ir.Step(*step) for step in steps), within, knock.step or within)


def _opened_protocols(knock: models.Knock) -> tuple[int, ...]:
    return tuple(sorted({service.protocol for service in knock.opens}))


def _log_sample(log: models.Log | bool | None) -> int:
    return log.sample if isinstance(log, models.Log) else int(log or False)


def _limit(limit: models.Limit) -> ir.Limit:
    per = per_of(limit)
    return ir.Limit(
        amount=limit.rate.amount,
        window_ns=limit.rate.window_ns,
        burst=limit.burst or default_burst(limit.rate, in_bytes=limit.bytes),
        per=ir.Per(per.whom),
        v4_bits=per.v4,
        v6_bits=per.v6,
        bytes=limit.bytes,
        exceed=ir.Verdict(limit.exceed),
    )


def _add_to(rule: models.Rule) -> ir.AddTo | None:
    if rule.add_to is None:
        return None
    return ir.AddTo(rule.add_to.set, rule.add_to.timeout, exceeded=adds_beyond(rule))


def _dynamic_set(found: LoadedSet) -> ir.DynamicSet:
    default = BANS_SIZE if found.name == ir.BANS else DEFAULT_SET_SIZE
    return ir.DynamicSet(found.name, found.size or default, found.timeout_ns)


def _set_names(rule: models.Rule) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for match in (rule.match, rule.unless):
        if match is not None:
            for values in (match.src, match.dst, match.sport, match.dport):
                for each in values or ():
                    if isinstance(each, SetName):
                        found[str(each)] = None
    return tuple(found)


def _protocols(match: models.Match) -> tuple[int, ...] | None:
    """Flags without a proto are TCP's."""
    if match.proto is None:
        return None if match.tcp_flags is None else (TCP,)
    return tuple(protocol.number for protocol in match.proto)


def _icmp(match: models.Match, protocols: tuple[int, ...] | None) -> tuple[ir.IcmpMessage, ...]:
    found = icmp.messages(protocols or (), match.icmp_type, match.icmp_code)
    return tuple(
        ir.IcmpMessage(protocol, ir.Range(*type_), ir.Range(*code)) for protocol, type_, code in sorted(set(found))
    )


@functools.cache
def _verb(name: str) -> ir.Action:
    return ir.Action(ir.ActionKind(name))


def _action(action: models.Forward | str) -> ir.Action:
    if isinstance(action, str):
        return _verb(action)
    if action.route is not None:
        return _verb("route")
    if action.cpu is not None:
        cpus = (cpu for low, high in action.cpu for cpu in range(low, high + 1))
        return ir.Action(ir.ActionKind.CPU, cpus=tuple(cpus))
    assert action.redirect is not None
    target = action.redirect
    return ir.Action(ir.ActionKind.REDIRECT, target.interface, target.src_mac, target.dst_mac)


def _test(test: LoadedTest) -> ir.TestCase:
    steps = tuple(
        ir.TestStep(
            packet=step.packet if step.sent is None else step.sent,
            expect=None if step.expect is None else ir.Verdict(step.expect),
            rule=step.rule,
            interface=step.interface,
            wait_ns=step.wait or 0,
            is_sent=step.sent is not None,
            position=test.place.position("steps", index, "packet" if step.sent is None else "sent"),
        )
        for index, step in enumerate(test.model.steps)
    )
    return ir.TestCase(test.name, steps, test.place.position())
