# SPDX-License-Identifier: GPL-2.0-or-later
"""MapImage: all that a policy puts into the kernel, as bytes. The same policy always gives the same bytes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.classifier import LOOKUP_MEMBERS, LOOKUP_STEPS, build_lookup, is_plain
from xdpfw.compiler.cutsets import with_sets_cut_up
from xdpfw.compiler.knocks import KnockTables, compile_knocks, with_rules
from xdpfw.compiler.progress import Progress, unseen
from xdpfw.compiler.rulestables import RulesTables
from xdpfw.compiler.settables import SetConditions, build_set_tables
from xdpfw.compiler.tables import bounds
from xdpfw.errors import CapacityError
from xdpfw.kernel import abi
from xdpfw.kernel.abi import ActionFlag, ActionKind, Verdict
from xdpfw.policy.collector import collector_paused

_STEPS: Final = LOOKUP_STEPS + 2
"""Of compiling, that are reported: those of the lookup tables, then the sets, then the actions."""

_VERDICTS = {ir.Verdict.PASS: Verdict.PASS, ir.Verdict.DROP: Verdict.DROP}

_ACTIONS = {
    ir.ActionKind.PASS: ActionKind.ACTION_PASS,
    ir.ActionKind.DROP: ActionKind.ACTION_DROP,
    ir.ActionKind.TX: ActionKind.ACTION_TX,
    ir.ActionKind.REDIRECT: ActionKind.ACTION_REDIRECT,
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
    has_state: bool  # it uses the maps that outlive a generation
    wanted_sets: SetConditions  # what set_tables are made from
    has_cut_sets: bool = False  # sets with files are among the rules' own addresses: a later image takes nothing over

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
        )
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _action(rule: ir.Rule, targets: tuple[str, ...]) -> abi.Value:
    action = rule.action
    flags = 0
    if action.src_mac is not None:
        flags |= ActionFlag.ACTION_SET_SRC_MAC
    if action.dst_mac is not None:
        flags |= ActionFlag.ACTION_SET_DST_MAC
    if is_plain(rule):
        flags |= ActionFlag.ACTION_PLAIN
    return {
        "kind": _ACTIONS[action.kind],
        "flags": flags,
        "src_mac": (action.src_mac or 0).to_bytes(6, "big"),
        "dst_mac": (action.dst_mac or 0).to_bytes(6, "big"),
        "target": 0 if action.interface is None else targets.index(action.interface),
        "log_sample": rule.log_sample,
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
    targets = tuple(dict.fromkeys(r.action.interface for r in policy.rules if r.action.interface is not None))
    allow = policy.allow
    logs = any(rule.log_sample for rule in policy.rules)
    config = _with_lookup(
        earlier.config,
        sets,
        set_directions,
        {
            **knocks.config,
            "default_verdict": _VERDICTS[policy.default],
            "invalid_verdict": _VERDICTS[policy.invalid],
            "allow": {"arp": allow.arp, "ndp": allow.ndp, "dhcp": allow.dhcp, "icmp_errors": allow.icmp_errors},
            "table_bytes": len(earlier.tables),
            "bounds": bounds(len(earlier.tables)),
            "interface_count": len(policy.interfaces),
            "rule_count": len(policy.rules),
            "logs": logs,
            "counts": any(rule.action.kind is ir.ActionKind.COUNT for rule in policy.rules),
        },
    )
    own = (_action(rule, targets) for rule in policy.rules)
    actions = abi.pack_array("action", (*knocks.actions, *own))
    has_state = logs or bool(policy.knocks)
    return MapImage(
        config,
        earlier.tables,
        set_tables,
        actions,
        len(policy.rules),
        targets,
        knocks,
        has_state,
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
