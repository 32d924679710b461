# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules and knocks, each on one line, in canonical form: ``match proto tcp, dport 80 443 → pass``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Final

from xdpfw.policy import models, names
from xdpfw.policy.addresses import V4_BITS, V6_BITS
from xdpfw.policy.knocks import LoadedKnock
from xdpfw.policy.rates import Per, amount_text
from xdpfw.policy.values import NO_TAG, Flags, Mac, Protocol, SetName, Span, duration_text

MAX_VALUES_SHOWN: Final = 8

_PROTOCOLS: Final = {number: name for name, number in reversed(names.PROTOCOLS.items())}
_MAC_BITS: Final = (1 << 48) - 1


def rule_text(rule: models.Rule) -> str:
    """Of long lists, the first values and how many more there are."""
    text = f"match {_match(rule.match) or 'all'}"
    if rule.unless is not None:
        text += f" except {_match(rule.unless)}"
    return f"{text} → {_action(rule.action)}{_limit(rule.limit)}{_add_to(rule)}{_log(rule.log)}"


def knock_text(knock: LoadedKnock) -> str:
    """Without secrets: of keys, the numbers and names."""
    model = knock.model
    text = f"{_way(knock)}{_times(model)} → opens {_listed(model.opens)} for {duration_text(model.lasts)}"
    if model.close is not None:
        text += f", close {_listed(model.close)}"
    if (model.scope.v4, model.scope.v6) != (V4_BITS, V6_BITS):
        text += f", scope /{model.scope.v4} /{model.scope.v6}"
    if model.to is not None:
        text += f", to {_condition(model.to, _or_set)}"
    if model.unless is not None:
        text += f", except {_match(model.unless)}"
    return text


def _way(knock: LoadedKnock) -> str:
    model = knock.model
    if model.spa is not None:
        assert knock.keys is not None
        keys = [f"{key.number} {key.name}{' nat' if key.nat else ''}" for key in knock.keys.keys]
        shown = _condition(tuple(keys), str) if keys else "none"
        return f"spa port {model.spa.port} window {duration_text(model.spa.window)} keys {shown}"
    if model.rotate is not None:
        rotate = model.rotate
        every = duration_text(rotate.every)
        return f"rotate every {every} ports {_span(rotate.ports)} length {rotate.length}"
    assert model.sequence is not None
    return f"sequence {_listed(model.sequence)}"


def _times(knock: models.Knock) -> str:
    if knock.sequence is None and knock.rotate is None and knock.close is None:
        return ""
    within = knock.within or models.DEFAULT_WITHIN_NS
    step = "" if knock.step in (None, within) else f" step {duration_text(knock.step)}"
    return f" within {duration_text(within)}{step}"


def _limit(limit: models.Limit | None) -> str:
    if limit is None:
        return ""
    text = f", limit {limit.rate}{' bytes' if limit.bytes else ''}"
    if limit.burst is not None:
        text += f" burst {amount_text(limit.burst)}"
    return f"{text} per {per_of(limit)}, beyond it {limit.exceed}"


def per_of(limit: models.Limit) -> Per:
    return Per("src", limit.per.v4, limit.per.v6) if isinstance(limit.per, models.Prefixes) else limit.per


def adds_beyond(rule: models.Rule) -> bool:
    """Whether a rule's ``add_to`` is for packets beyond its limit, and for no others."""
    assert rule.add_to is not None
    return rule.limit is not None if rule.add_to.when is None else rule.add_to.when == "exceed"


def _add_to(rule: models.Rule) -> str:
    add_to = rule.add_to
    if add_to is None:
        return ""
    when = "" if rule.limit is None else " beyond the limit" if adds_beyond(rule) else " at each match"
    timeout = "" if add_to.timeout is None else f" for {duration_text(add_to.timeout)}"
    return f", add to @{add_to.set}{timeout}{when}"


def _log(log: models.Log | bool | None) -> str:
    if isinstance(log, models.Log):
        return ", log" if log.sample == 1 else f", log 1/{log.sample}"
    return ", log" if log else ""


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def mac_text(mac: int) -> str:
    return mac.to_bytes(6, "big").hex(":")


def _match(match: models.Match) -> str:
    given = match.model_fields_set
    return ", ".join([_field(field, getattr(match, field)) for field in _WRITERS if field in given])


@functools.lru_cache(maxsize=1 << 16)
def _field(field: str, value: object) -> str:
    return f"{field} {_condition(value, _WRITERS[field])}"


def _condition(value: object, write: Callable[..., str]) -> str:
    if not isinstance(value, tuple):
        return write(value)
    shown = [write(each) for each in value[:MAX_VALUES_SHOWN]]
    more = len(value) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _action(action: models.Forward | str) -> str:
    if isinstance(action, str):
        return action
    if action.route is not None:
        return f"route {action.route}"
    if action.cpu is not None:
        return f"cpu {_condition(action.cpu, _span)}"
    assert action.redirect is not None
    target = action.redirect
    macs = [
        f" {field} {mac_text(mac)}"
        for field, mac in (("src_mac", target.src_mac), ("dst_mac", target.dst_mac))
        if mac is not None
    ]
    return f"redirect {target.interface}{''.join(macs)}"


def _span(span: Span) -> str:
    return str(span.low) if span.low == span.high else f"{span.low}-{span.high}"


def _vlan(span: Span) -> str:
    return "none" if span.low == NO_TAG else _span(span)


def _ethertype(span: Span) -> str:
    return f"{span.low:#06x}" if span.low == span.high else f"{span.low:#06x}-{span.high:#06x}"


def _or_set(value: object) -> str:
    if isinstance(value, SetName):
        return f"@{value}"
    return _span(value) if isinstance(value, Span) else str(value)


def _protocol(protocol: Protocol) -> str:
    return _PROTOCOLS.get(protocol.number, str(protocol.number))


def _icmp(value: Span | str) -> str:
    return value if isinstance(value, str) else _span(value)


def _mac(mac: Mac) -> str:
    return mac_text(mac.value) if mac.mask == _MAC_BITS else f"{mac_text(mac.value)}/{mac_text(mac.mask)}"


def _flags(flags: Flags) -> str:
    if flags in (Flags(0, 0xFF), Flags(0xFF, 0)):
        return "all" if flags.set else "none"
    on = [name for name, bit in names.TCP_FLAGS.items() if flags.set & bit]
    off = [f"!{name}" for name, bit in names.TCP_FLAGS.items() if flags.clear & bit]
    return ",".join(on + off)


def _boolean(value: bool) -> str:
    return "true" if value else "false"


_WRITERS: Final[dict[str, Callable[..., str]]] = {
    "interface": str,
    "family": str,
    "ethertype": _ethertype,
    "vlan": _vlan,
    "inner_vlan": _vlan,
    "src_mac": _mac,
    "dst_mac": _mac,
    "src": _or_set,
    "dst": _or_set,
    "proto": _protocol,
    "sport": _or_set,
    "dport": _or_set,
    "tcp_flags": _flags,
    "icmp_type": _icmp,
    "icmp_code": _icmp,
    "fragment": str,
    "length": _span,
    "ttl": _span,
    "dscp": _span,
    "ip_options": _boolean,
    "state": str,
    "knocked": str,
}
