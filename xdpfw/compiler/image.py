# SPDX-License-Identifier: GPL-2.0-or-later
"""MapImage: all that a policy puts into the kernel, as bytes. The same policy always gives the same bytes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.atoms import asked_sets
from xdpfw.compiler.classifier import LOOKUP_MEMBERS, LOOKUP_STEPS, build_lookup, is_plain
from xdpfw.compiler.cutsets import with_sets_cut_up
from xdpfw.compiler.knocks import KnockTables, compile_knocks, with_rules
from xdpfw.compiler.limits import limit_value
from xdpfw.compiler.neverban import never_ban_keys
from xdpfw.compiler.progress import Progress, unseen
from xdpfw.compiler.rulestables import RulesTables
from xdpfw.compiler.settables import SetConditions, build_set_tables
from xdpfw.compiler.tables import bounds
from xdpfw.errors import CapacityError
from xdpfw.kernel import abi
from xdpfw.kernel.abi import ActionFlag, ActionKind, Direction, Verdict
from xdpfw.policy.collector import collector_paused

_STEPS: Final = LOOKUP_STEPS + 2
"""Of compiling, that are reported: those of the lookup tables, then the sets, then the actions."""

_VERDICTS = {ir.Verdict.PASS: Verdict.PASS, ir.Verdict.DROP: Verdict.DROP}

_ACTIONS = {
    ir.ActionKind.PASS: ActionKind.ACTION_PASS,
    ir.ActionKind.DROP: ActionKind.ACTION_DROP,
    ir.ActionKind.TX: ActionKind.ACTION_TX,
    ir.ActionKind.REDIRECT: ActionKind.ACTION_REDIRECT,
    ir.ActionKind.ROUTE: ActionKind.ACTION_ROUTE,
    ir.ActionKind.CPU: ActionKind.ACTION_CPU,
    ir.ActionKind.COUNT: ActionKind.ACTION_PASS,  # never looked up: the classifier leaves these rules out
}


@dataclass(frozen=True)
class MapImage:
    """``config``: struct xdpfw_config, but for what a loader decides (trace, interface_factor, generation,
    hash_secret), which is 0; ``tables`` and ``set_tables``: blocks of 64 bytes; ``actions``: struct xdpfw_action, one
    a rule, those of knocks first; ``targets``: the interface behind each slot of the devmap.
    """

    config: bytes
    tables: bytes
    set_tables: bytes
    actions: bytes
    rule_count: int  # of the policy; knocks have more
    targets: tuple[str, ...]
    knocks: KnockTables
    limits: bytes  # struct xdpfw_rate
    dynamic_sets: tuple[ir.DynamicSet, ...]  # by number; the first are the bans
    never_ban_keys: bytes  # struct xdpfw_never_ban_key
    cpu_choices: tuple[int, ...]
    protected_ports: ir.Ranges
    wanted_sets: SetConditions  # what set_tables are made from
    has_cut_sets: bool = False  # sets with files are among the rules' own addresses: a later image takes nothing over

    @property
    def set_sizes(self) -> tuple[int, ...]:
        return tuple(each.size for each in self.dynamic_sets)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over everything, in hex."""
        knocks = self.knocks
        parts = (
            self.config,
            self.tables,
            self.set_tables,
            self.actions,
            "\0".join(self.targets).encode(),
            *(knocks.knocks, knocks.sequences, knocks.tokens, knocks.guards),
            *(knocks.rotations, knocks.spa_ports, knocks.spa_keys),
            self.limits,
            repr((self.dynamic_sets, self.cpu_choices, self.protected_ports)).encode(),
            self.never_ban_keys,
        )
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


class ActionContext:
    """What the numbers in actions stand for."""

    def __init__(self, policy: ir.Policy, dynamic_sets: Sequence[ir.DynamicSet]) -> None:
        rules = policy.rules
        self.targets = tuple(dict.fromkeys(r.action.interface for r in rules if r.action.interface is not None))
        self.limit_numbers = {rule.name: number for number, rule in enumerate(limited_rules(policy), 1)}
        self.set_numbers = {each.name: number for number, each in enumerate(dynamic_sets)}
        self.cpu_choices = tuple(cpu for rule in rules for cpu in rule.action.cpus)
        self._timeouts = {each.name: each.timeout_ns for each in dynamic_sets}
        self._first_choices = 0

    def target(self, action: ir.Action) -> int:
        """Asked for once an action, in order of the rules."""
        if action.kind is ir.ActionKind.CPU:
            first, self._first_choices = self._first_choices, self._first_choices + len(action.cpus)
            return first
        return 0 if action.interface is None else self.targets.index(action.interface)

    def add_ns(self, add_to: ir.AddTo) -> int:
        return (self._timeouts[add_to.set] if add_to.timeout_ns is None else add_to.timeout_ns) or 0


def limited_rules(policy: ir.Policy) -> list[ir.Rule]:
    """The rules that have a limit, in order of the limits' numbers."""
    return [rule for rule in policy.rules if rule.limit is not None]


def numbered_sets(policy: ir.Policy) -> tuple[ir.DynamicSet, ...]:
    """The dynamic sets by number: the bans, then the others that the policy declares."""
    declared = {each.name: each for each in policy.dynamic_sets}
    bans = declared.pop(ir.BANS, ir.DynamicSet(ir.BANS, int(abi.SetLimit.BANS_SIZE)))
    return (bans, *declared.values())


def _set_config(policy: ir.Policy, numbers: Mapping[str, int]) -> dict[str, abi.Value]:
    """What the constants say of dynamic sets. Raises CapacityError where there are too many."""
    most = int(abi.Limit.MAX_DYNAMIC_SETS)
    if len(numbers) > most:
        raise CapacityError(f"{len(numbers)} dynamic sets, the bans among them, and {most} are the most")
    asked = [0] * (2 * abi.Limit.MAX_ASKED_SETS)
    counts = []
    for direction, name in ((Direction.SRC, "src"), (Direction.DST, "dst")):
        names = asked_sets(policy, name)
        if len(names) > abi.Limit.MAX_ASKED_SETS:
            most = int(abi.Limit.MAX_ASKED_SETS)
            raise CapacityError(f"rules ask for {len(names)} dynamic sets in {name}, and {most} are the most")
        counts.append(len(names))
        for bit, each in enumerate(names):
            asked[direction * abi.Limit.MAX_ASKED_SETS + bit] = numbers[each]
    never = policy.never_ban or ir.AddressRanges()
    return {
        "set_count": len(numbers),
        "asked_set_count": counts,
        "asked_sets": asked,
        "never_ban_used": bool(never.v4 or never.v6 or never.sets),
        "never_ban_sets": sum(1 << numbers[name] for name in never.dynamic),
    }


def _uses_state(policy: ir.Policy) -> bool:
    """Whether rules ask for the state of packets."""
    matches = (match for rule in policy.rules for match in (rule.match, rule.unless) if match is not None)
    return any(match.state is not None for match in matches)


def _action(rule: ir.Rule, context: ActionContext) -> abi.Value:
    action, add_to = rule.action, rule.add_to
    flags = 0
    if action.src_mac is not None:
        flags |= ActionFlag.ACTION_SET_SRC_MAC
    if action.dst_mac is not None:
        flags |= ActionFlag.ACTION_SET_DST_MAC
    if is_plain(rule):
        flags |= ActionFlag.ACTION_PLAIN
    if add_to is not None and add_to.exceeded:
        flags |= ActionFlag.ACTION_ADD_EXCEEDED
    return {
        "kind": _ACTIONS[action.kind],
        "flags": flags,
        "src_mac": (action.src_mac or 0).to_bytes(6, "big"),
        "dst_mac": (action.dst_mac or 0).to_bytes(6, "big"),
        "cpu_count": len(action.cpus),
        "target": context.target(action),
        "log_sample": rule.log_sample,
        "limit": context.limit_numbers.get(rule.name, 0),
        "add_to": 0 if add_to is None else context.set_numbers[add_to.set] + 1,
        "add_ns": 0 if add_to is None else context.add_ns(add_to),
    }


@collector_paused()
def compile_policy(policy: ir.Policy, earlier: RulesTables | None = None, progress: Progress = unseen) -> MapImage:
    """``earlier``: what the same rules were compiled to before, when sets with files may have held something else.

    Raises CapacityError where the policy does not fit into the data plane's limits.
    """
    progress("compiling", 0, _STEPS)
    knocks = compile_knocks(policy)
    if earlier is None:

        def step(done: int) -> None:
            progress("compiling", done, _STEPS)

        has_cut_sets = False
        try:
            lookup, tables, wanted_sets = build_lookup(with_rules(policy, knocks), len(knocks.rules), step)
        except CapacityError as error:
            cut = with_sets_cut_up(policy)
            if cut is None:
                raise
            has_cut_sets = True
            try:
                lookup, tables, wanted_sets = build_lookup(with_rules(cut, knocks), len(knocks.rules), step)
            except CapacityError:
                raise error from None
        earlier = RulesTables(abi.pack("config", lookup), tables, wanted_sets)
    else:
        has_cut_sets = False
    progress("compiling", LOOKUP_STEPS, _STEPS)
    sets, set_directions, set_tables = build_set_tables(earlier.wanted_sets)
    progress("compiling", LOOKUP_STEPS + 1, _STEPS)
    dynamic_sets = numbered_sets(policy)
    context = ActionContext(policy, dynamic_sets)
    allow = policy.allow
    uses_state = _uses_state(policy)
    kinds = {rule.action.kind for rule in policy.rules}
    logs = any(rule.log_sample for rule in policy.rules)
    config = _with_lookup(
        earlier.config,
        sets,
        set_directions,
        {
            **knocks.config,
            "default_verdict": _VERDICTS[policy.default],
            "invalid_verdict": _VERDICTS[policy.invalid],
            "allow": {field.name: getattr(allow, field.name) for field in dataclasses.fields(allow)},
            "table_bytes": len(earlier.tables),
            "bounds": bounds(len(earlier.tables)),
            "interface_count": len(policy.interfaces),
            "rule_count": len(policy.rules),
            "logs": logs,
            "counts": ir.ActionKind.COUNT in kinds,
            "tracks": allow.established or uses_state or bool(policy.protect_syn),
            "state_used": uses_state,
            "limit_count": len(context.limit_numbers),
            "adds": any(rule.add_to is not None for rule in policy.rules),
            "routes": ir.ActionKind.ROUTE in kinds,
            "spreads": ir.ActionKind.CPU in kinds,
            "protects_syn": bool(policy.protect_syn),
            **_set_config(policy, context.set_numbers),
        },
    )
    own = (_action(rule, context) for rule in policy.rules)
    actions = abi.pack_array("action", (*knocks.actions, *own))
    return MapImage(
        config,
        earlier.tables,
        set_tables,
        actions,
        len(policy.rules),
        context.targets,
        knocks,
        b"".join(map(limit_value, limited_rules(policy))),
        dynamic_sets,
        never_ban_keys(policy),
        context.cpu_choices,
        policy.protect_syn,
        earlier.wanted_sets,
        has_cut_sets,
    )


def _with_lookup(lookup: bytes, sets: abi.Value, directions: Sequence[Mapping[str, int]], rest: abi.Value) -> bytes:
    """A struct xdpfw_config: of ``lookup`` where the tables are, all else from the other arguments."""
    config = abi.unpack("config", abi.pack("config", rest))
    found = abi.unpack("config", lookup)
    for member in LOOKUP_MEMBERS:
        setattr(config, member, getattr(found, member))
    config.sets = sets
    for direction, more in zip(config.directions, directions, strict=True):
        direction.sets_used, direction.sets_wide = more.get("sets_used", 0), more.get("sets_wide", 0)
    return abi.to_bytes(config)
