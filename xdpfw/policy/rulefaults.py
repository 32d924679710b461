# SPDX-License-Identifier: GPL-2.0-or-later
"""What rules get wrong about what lives at run time: limits, and dynamic sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from xdpfw.policy import names
from xdpfw.policy.consistency import Fault, Sets
from xdpfw.policy.models import Limit, Rule
from xdpfw.policy.names import BANS
from xdpfw.policy.rates import amount_text, default_burst
from xdpfw.policy.sets import LoadedSet
from xdpfw.policy.values import SetName, duration_text

MAX_DYNAMIC_SETS: Final = 16  # the bans among them
MAX_ASKED_SETS: Final = 8  # dynamic sets that rules ask for, of each direction
FRAME_BYTES: Final = 1514
MAX_REFILL_NS: Final = 4 * 86_400 * 10**9
MAX_PACKETS_PER_S: Final = 10**9

_BYTES_HINT: Final = "with bytes: true it would be one of bytes"


def effect_faults(rule: Rule, sets: Sets) -> Iterator[Fault]:
    """Those of a rule's ``limit`` and ``add_to``."""
    if rule.action == "count":
        for key in ("limit", "add_to"):
            if getattr(rule, key) is not None:
                hint = "leave it out, or write an action that decides"
                yield Fault((key,), "is of rules that decide, and count only counts", hint)
        return
    if rule.limit is not None:
        yield from _limit_faults(rule.limit)
    if rule.add_to is None:
        return
    if rule.add_to.when == "exceed" and rule.limit is None:
        yield Fault(("add_to", "when"), "is exceed, and the rule has no limit", "add a limit, or write when: match")
    name = rule.add_to.set
    if name not in sets:
        dynamic = [known for known, found in sets.items() if found is None or found.is_dynamic]
        yield Fault(("add_to", "set"), f"{name} is not a dynamic set of this policy", names.suggestion(name, dynamic))
    elif (found := sets[name]) is not None and not found.is_dynamic:
        hint = "declare a set with dynamic: true, or write bans"
        yield Fault(("add_to", "set"), f"{name} is not dynamic: its entries are the policy's", hint)


def _limit_faults(limit: Limit) -> Iterator[Fault]:
    if limit.bytes and limit.burst is not None and limit.burst < FRAME_BYTES:
        message = f"{limit.burst} is less than one full frame, which would never be within the limit"
        yield Fault(("limit", "burst"), message, f"write {FRAME_BYTES} or more")
    if not limit.bytes and limit.rate.amount * 10**9 > MAX_PACKETS_PER_S * limit.rate.window_ns:
        yield Fault(("limit", "rate"), f"{limit.rate} is above {amount_text(MAX_PACKETS_PER_S)}/s", _BYTES_HINT)
    burst = limit.burst or default_burst(limit.rate, in_bytes=limit.bytes)
    if burst * limit.rate.window_ns > MAX_REFILL_NS * limit.rate.amount:
        key = "rate" if limit.burst is None else "burst"
        message = f"{limit.rate if limit.burst is None else amount_text(burst)} is out of proportion: "
        message += f"{amount_text(burst)} at once would take longer than {duration_text(MAX_REFILL_NS)} to come back"
        yield Fault(("limit", key), message, "write a smaller burst or a higher rate")


def excess_sets(sets: Sequence[LoadedSet]) -> LoadedSet | None:
    """The first dynamic set beyond the limit."""
    declared = [each for each in sets if each.is_dynamic and each.name != BANS]
    return declared[MAX_DYNAMIC_SETS - 1] if len(declared) >= MAX_DYNAMIC_SETS else None


def excess_asked(rules: Sequence[Rule], sets: Sets) -> Iterator[tuple[int, Fault]]:
    """For each direction, the index of the first rule that asks for one dynamic set more than the limit; the fault."""
    for field in ("src", "dst"):
        if excess := _excess_asked(field, rules, sets):
            yield excess


def _excess_asked(field: str, rules: Sequence[Rule], sets: Sets) -> tuple[int, Fault] | None:
    asked: set[str] = set()
    for number, rule in enumerate(rules):
        for where, match in (("match", rule.match), ("except", rule.unless)):
            for index, name in enumerate((match and getattr(match, field)) or ()):
                if not isinstance(name, SetName) or (found := sets.get(name)) is None or not found.is_dynamic:
                    continue
                asked.add(name)
                if len(asked) > MAX_ASKED_SETS:
                    message = f"@{name} is one dynamic set more than the {MAX_ASKED_SETS} that rules can ask for"
                    return number, Fault((where, field, index), message, "put what they hold into fewer sets")
    return None
