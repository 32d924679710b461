# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rule gets wrong although each of its values is right: names of nothing, fields that do not go together."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from xdpfw.policy import icmp, names
from xdpfw.policy.addresses import V4_BITS, Addresses
from xdpfw.policy.models import Match, Rule
from xdpfw.policy.names import ICMP, ICMPV6, PORT_PROTOCOLS, TCP
from xdpfw.policy.sets import LoadedSet
from xdpfw.policy.source import Path
from xdpfw.policy.values import NO_TAG, Protocol, SetName, Span

_ICMP_HINT = "icmp is IPv4's and icmpv6 IPv6's; as numbers they are of both"
_IPV4 = frozenset(("ipv4",))
_IPV6 = frozenset(("ipv6",))
_IP = _IPV4 | _IPV6
_NOT_IN_LATER_FRAGMENTS = ("sport", "dport", "tcp_flags", "icmp_type", "icmp_code", "state")
_IP_FIELDS = ("ttl", "length", "dscp", "ip_options", "fragment", "knocked", *_NOT_IN_LATER_FRAGMENTS)
_LOOKED_UP = frozenset(("interface", "icmp_type", "icmp_code"))

Shape: TypeAlias = tuple[Hashable, ...]
Sets: TypeAlias = Mapping[str, LoadedSet | None]
"""By name; None for a set that exists but could not be read."""


class Fault(NamedTuple):
    """What is wrong at ``path``, from the rule on."""

    path: Path
    message: str
    hint: str | None = None


def faults(rule: Rule, sets: Sets, interfaces: Collection[str] | None, faultless: set[Shape]) -> Iterator[Fault]:
    """All faults of a rule.

    ``interfaces`` is None where they could not be read.
    ``faultless`` gets the shape of a match that is right, and spares looking at further ones of that shape.
    """
    protocols = protocols_of(rule.match)
    if (shape := _shape(rule.match, protocols)) not in faultless:
        found = tuple(match_faults("match", rule.match, protocols, sets, interfaces))
        yield from found
        if shape is not None and not found:
            faultless.add(shape)
    if rule.unless is not None:
        if not rule.unless.model_fields_set:
            yield Fault(("except",), "is empty: it holds for every packet, so the rule never matches", "leave it out")
        protocols = protocols_of(rule.unless) or protocols_of(rule.match)
        yield from match_faults("except", rule.unless, protocols, sets, interfaces)


def _shape(match: Match, protocols: tuple[Protocol, ...] | None) -> Shape | None:
    """All that faults depend on, where that is not much; None where they depend on more."""
    if not match.model_fields_set.isdisjoint(_LOOKED_UP):
        return None
    for ports in (match.sport, match.dport):
        for port in ports or ():
            if isinstance(port, SetName):
                return None
    families: list[frozenset[int]] = []
    for addresses in (match.src, match.dst):
        if any(isinstance(each, SetName) for each in addresses or ()):
            return None
        families.append(frozenset([each.bits for each in addresses or () if isinstance(each, Addresses)]))
    values = (match.family, match.ethertype, match.proto, match.fragment, match.vlan, match.inner_vlan)
    return (frozenset(match.model_fields_set), protocols, *families, *values)


def protocols_of(match: Match) -> tuple[Protocol, ...] | None:
    """The protocols that a match says or implies; None: it says nothing about them."""
    if match.proto is None and match.tcp_flags is not None:
        return (Protocol(TCP, named=True),)
    return match.proto


def match_faults(
    where: str,
    match: Match,
    protocols: tuple[Protocol, ...] | None,
    sets: Sets,
    interfaces: Collection[str] | None,
) -> Iterator[Fault]:
    """Those of the match under the key ``where``. ``protocols``: those that it is about; None: not said."""
    for index, name in enumerate(match.interface or ()):
        if interfaces is not None and name not in interfaces:
            yield Fault(
                (where, "interface", index),
                f"{name} is not one of the policy's interfaces",
                f"they are {', '.join(interfaces)}",
            )
    unknown = False
    for field, kind in (("src", "prefix"), ("dst", "prefix"), ("sport", "port"), ("dport", "port")):
        for index, value in enumerate(getattr(match, field) or ()):
            if isinstance(value, SetName) and (fault := set_fault((where, field, index), value, kind, sets)):
                unknown = True
                yield fault
    yield from _protocol_faults(where, match, protocols)
    if match.fragment == ("later",):
        for field in _NOT_IN_LATER_FRAGMENTS:
            if getattr(match, field) is not None:
                yield Fault((where, field), "is never in a later fragment, and the rule is about no others")
    if match.vlan == (Span(NO_TAG, NO_TAG),) and match.inner_vlan not in (None, match.vlan):
        yield Fault((where, "inner_vlan"), "is never in a packet without tags, and the rule is about no others")
    if not unknown:
        yield from _family_faults(where, match, sets)


def set_fault(path: Path, name: str, kind: str, sets: Sets) -> Fault | None:
    """What is wrong with a set that stands where one of ``kind`` belongs."""
    if name not in sets:
        of_kind = [known for known, found in sets.items() if found is None or found.kind == kind]
        return Fault(path, f"@{name} is not a set of this policy", names.suggestion(name, of_kind, form="@{}"))
    found = sets[name]
    if found is not None and found.kind != kind:
        holds = "ports" if found.kind == "port" else "prefixes"
        return Fault(path, f"@{name} is a set of {holds}", f"a set of type {kind} belongs here")
    return None


def refused_dynamic(path: Path, value: object, sets: Sets, what: str) -> Fault | None:
    """The fault of naming a dynamic set in ``what``, where its members must be known before."""
    if not isinstance(value, SetName) or (found := sets.get(value)) is None or not found.is_dynamic:
        return None
    hint = "name a set with elements or a file; rules can ask for dynamic ones"
    return Fault(path, f"@{value} is dynamic, and {what} cannot depend on what changes at run time", hint)


def _protocol_faults(where: str, match: Match, protocols: tuple[Protocol, ...] | None) -> Iterator[Fault]:
    numbers = None if protocols is None else {protocol.number for protocol in protocols}
    written = f"proto {_listed(protocols)}" if protocols else "no proto"
    for field in ("sport", "dport"):
        if getattr(match, field) is not None and (numbers is None or not numbers & PORT_PROTOCOLS):
            has = "the rule has no proto" if numbers is None else f"{written} has no ports"
            yield Fault(
                (where, field), f"needs a proto that has ports, and {has}", "add proto: [tcp, udp] or one of them"
            )
    if match.tcp_flags is not None and numbers is not None and TCP not in numbers:
        yield Fault((where, "tcp_flags"), f"needs proto tcp, and the rule has {written}")
    for field in ("icmp_type", "icmp_code"):
        if getattr(match, field) is None:
            continue
        if numbers is None or not numbers & {ICMP, ICMPV6}:
            yield Fault(
                (where, field),
                f"needs proto icmp or icmpv6, and the rule has {written}",
                "write proto: [icmp, icmpv6] or one of them",
            )
        else:
            yield from _icmp_faults(where, field, match, numbers)


def _icmp_faults(where: str, field: str, match: Match, numbers: Collection[int]) -> Iterator[Fault]:
    given = [protocol for protocol in (ICMP, ICMPV6) if protocol in numbers]
    proto = " or ".join("icmp" if protocol == ICMP else "icmpv6" for protocol in given)
    if field == "icmp_type":
        for index, type_ in enumerate(match.icmp_type or ()):
            if all(icmp.type_span(protocol, type_) is None for protocol in given):
                known = [name for protocol in given for name in names.ICMP_TYPES[protocol]]
                yield Fault(
                    (where, field, index), f"{type_} is not a type of {proto}", names.suggestion(str(type_), known)
                )
        return
    for index, code in enumerate(match.icmp_code or ()):
        if isinstance(code, str) and not any(icmp.messages(given, None, (code,))):
            known = [name for protocol in given for name in names.ICMP_CODES[protocol]]
            yield Fault((where, field, index), f"{code} is not a code of {proto}", names.suggestion(code, known))
        elif isinstance(code, str) and not any(icmp.messages(given, match.icmp_type, (code,))):
            yield Fault((where, field, index), f"{code} is not a code of that icmp_type", "leave icmp_type out")


def _family_faults(where: str, match: Match, sets: Sets) -> Iterator[Fault]:
    """The first pair of fields that no packet meets together, since their families differ."""
    seen: list[tuple[str, frozenset[str]]] = []
    for field, families in _families(match, sets):
        for earlier, allowed in seen:
            if not families & allowed:
                message = f"is {_shown(families)} only, and {earlier} {_shown(allowed)} only: no packet is both"
                hint = _ICMP_HINT if field == "proto" and families != _IP else None
                yield Fault((where, field), message, hint)
                return
        seen.append((field, families))


def _families(match: Match, sets: Sets) -> Iterator[tuple[str, frozenset[str]]]:
    """For each field that says so, the families of the packets that can meet it."""
    if match.family is not None:
        yield "family", frozenset(match.family)
    if match.ethertype is not None:
        yield "ethertype", frozenset(map(_ethertype_family, match.ethertype))
    for field in ("src", "dst"):
        if families := _address_families(getattr(match, field) or (), sets):
            yield field, families
    if match.proto is not None:
        yield "proto", frozenset().union(*map(_protocol_families, match.proto))
    for field in _IP_FIELDS:
        if getattr(match, field) is not None:
            yield field, _IP


def _protocol_families(protocol: Protocol) -> frozenset[str]:
    if not protocol.named:
        return _IP
    return {ICMP: _IPV4, ICMPV6: _IPV6}.get(protocol.number, _IP)


def _ethertype_family(span: Span) -> str:
    return {names.ETHERTYPES["ipv4"]: "ipv4", names.ETHERTYPES["ipv6"]: "ipv6"}.get(span, "other")


def _address_families(values: Collection[Addresses | SetName], sets: Sets) -> frozenset[str]:
    """Empty where that cannot be said, or where there are no addresses."""
    families: frozenset[str] = frozenset()
    for value in values:
        if isinstance(value, Addresses):
            families |= _IPV4 if value.bits == V4_BITS else _IPV6
        elif (found := sets.get(value)) and not found.is_dynamic:
            families |= _IPV4 if len(found.prefixes.v4) else frozenset()
            families |= _IPV6 if len(found.prefixes.v6) else frozenset()
        else:
            return frozenset()
    return families


def _shown(families: frozenset[str]) -> str:
    if families == _IP:
        return "IP"
    written = {"ipv4": "IPv4", "ipv6": "IPv6", "other": "non-IP"}
    return " or ".join(text for family, text in written.items() if family in families)


def _listed(protocols: tuple[Protocol, ...]) -> str:
    by_number = {number: name for name, number in reversed(names.PROTOCOLS.items())}
    return ", ".join(by_number.get(protocol.number, str(protocol.number)) for protocol in protocols)
