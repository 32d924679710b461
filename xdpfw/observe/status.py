# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in force, as the kernel has it: links and programs tell, metadata only names."""

from __future__ import annotations

import contextlib
import platform
from dataclasses import asdict, dataclass
from typing import Any, Final

from xdpfw.errors import KernelError
from xdpfw.kernel import abi, egress
from xdpfw.kernel.interface import attached, name_of, namespace
from xdpfw.kernel.maps import FlowCounter
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.program import FillLevel, Generation
from xdpfw.kernel.sets import members_at
from xdpfw.kernel.state import State, boot_ns
from xdpfw.observe import metadata
from xdpfw.observe.events import rfc3339
from xdpfw.observe.inforce import in_force, running
from xdpfw.observe.metadata import Metadata, SetMeta
from xdpfw.observe.names import address_text

FAILURES_SHOWN: Final = 5
_PREFIX_BITS: Final = {int(abi.Family.IPV4): 24, int(abi.Family.IPV6): 64}


@dataclass(frozen=True, slots=True)
class InterfaceStatus:
    """``generation``: the number of the one that it runs; None if none of the instance's is attached."""

    name: str
    ifindex: int
    mode: str | None
    generation: int | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class FailureStatus:
    """SPA messages from a /24 or /64 that were not accepted; ``last`` in ns since 1970."""

    prefix: str
    packets: int
    last: int


@dataclass(frozen=True, slots=True)
class KnockStatus:
    """What is remembered of those who knock. ``half_done``: sources that may be in the middle of a sequence."""

    grants: FillLevel
    refused: int
    half_done: int
    failures: tuple[FailureStatus, ...]  # the prefixes with most of them

    @classmethod
    def read(cls, state: State) -> KnockStatus:
        now_ns = boot_ns()
        failures = (
            FailureStatus(
                address_text(each.family, each.prefix, _PREFIX_BITS[each.family]), each.packets, each.last_wall_ns
            )
            for each in state.list_spa_failures()[:FAILURES_SHOWN]
        )
        return cls(
            grants=FillLevel(state.count_grants(now_ns), state.grants.max_entries),
            refused=state.read_shared().grants_refused,
            half_done=state.half_done(now_ns),
            failures=tuple(failures),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "grants": {**self.grants._asdict(), "refused": self.refused},
            "half_done": self.half_done,
            "spa_failures": [
                {"prefix": each.prefix, "packets": each.packets, "last": rfc3339(each.last)} for each in self.failures
            ],
        }


@dataclass(frozen=True, slots=True)
class FlowStatus:
    """Of a policy that follows flows. ``counters``: since it was applied.

    ``seen``: how what each interface sends is seen, ``tcx`` or ``clsact``; None where it is not.
    """

    used: int
    capacity: int
    counters: FlowCounter
    seen: dict[str, str | None]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "counters": self.counters._asdict()}


@dataclass(frozen=True, slots=True)
class Status:
    instance: str
    generation: int
    policy_file: str
    source_digest: str
    applied_at: float
    netns: str | None
    rules: int
    sets: tuple[SetMeta, ...]
    knocks: tuple[str, ...]
    knocking: KnockStatus | None  # None: the policy has no knocks
    flows: FlowStatus | None  # None: the policy follows none
    interfaces: tuple[InterfaceStatus, ...]
    fill: dict[str, FillLevel]
    memory_bytes: int
    kernel: str

    @classmethod
    def read(cls, pins: Pins) -> Status | None:
        """None where nothing is applied. Raises KernelError."""
        number = in_force(pins)
        if number is None:
            return None
        directory = pins.generation(number)
        meta = metadata.read(directory)
        with Generation.open(directory) as generation:
            fill = generation.fill_levels()
            memory = generation.memory_bytes
            flow_counter = generation.flow_counter() if generation.egress is not None else None
        knocking = flows = None
        if pins.state.exists():
            with State.open(pins.state) as state:
                if meta.knocks:
                    knocking = KnockStatus.read(state)
                    fill["grants"] = knocking.grants
                fill |= _set_levels(state, meta)
                memory += state.memory_bytes
                if flow_counter is not None:
                    used = state.count_flows(boot_ns())
                    flows = FlowStatus(used, state.flows.max_entries, flow_counter, _seen(pins, meta))
        return cls(
            instance=pins.instance,
            generation=number,
            policy_file=meta.policy_file,
            source_digest=meta.source_digest,
            applied_at=meta.applied_at,
            netns=meta.netns,
            rules=len(meta.rules),
            sets=meta.sets,
            knocks=tuple(knock.name for knock in meta.knocks),
            knocking=knocking,
            flows=flows,
            interfaces=_interfaces(pins, meta),
            fill=fill,
            memory_bytes=memory,
            kernel=platform.release(),
        )

    @property
    def attached(self) -> bool:
        """True if an interface of the policy runs the firewall."""
        return any(interface.generation is not None for interface in self.interfaces)

    def to_json(self) -> dict[str, Any]:
        fill = {name: level._asdict() for name, level in self.fill.items()}
        knocking = self.knocking.to_json() if self.knocking else None
        flows = self.flows.to_json() if self.flows else None
        return {**asdict(self), "fill": fill, "knocking": knocking, "flows": flows, "pending_confirm": None}


def _seen(pins: Pins, meta: Metadata) -> dict[str, str | None]:
    """How what each interface sends is seen, by its name in the policy."""
    with contextlib.suppress(KernelError), namespace(meta.netns), contextlib.ExitStack() as opened:
        hooks = {each.ifindex: str(each.hook) for each in egress.held(pins, opened)}
        return {interface.name: hooks.get(interface.ifindex) for interface in meta.interfaces}
    return dict.fromkeys([interface.name for interface in meta.interfaces])


def _set_levels(state: State, meta: Metadata) -> dict[str, FillLevel]:
    """Entries of dynamic sets, those whose time is over and that nobody has swept yet among them."""
    found = {}
    for each in meta.dynamic_sets:
        members = members_at(state.dynamic_sets, each.slot)
        if members is not None:
            with members:
                found[f"entries of {each.name}"] = FillLevel(members.count(), members.max_entries)
    return found


def _interfaces(pins: Pins, meta: Metadata) -> tuple[InterfaceStatus, ...]:
    generations = running(pins)
    try:
        with namespace(meta.netns):
            return tuple(_interface(i.name, i.ifindex, generations) for i in meta.interfaces)
    except KernelError:
        note = f"network namespace {meta.netns} is gone"
        return tuple(InterfaceStatus(i.name, i.ifindex, None, None, note) for i in meta.interfaces)


def _interface(name: str, ifindex: int, generations: dict[int, int | None]) -> InterfaceStatus:
    """``generations`` that run, by interface index."""
    present = name_of(ifindex)
    if present is None:
        return InterfaceStatus(name, ifindex, None, None, "the interface is gone: xdpfw apply attaches a new one")
    if ifindex not in generations:
        return InterfaceStatus(name, ifindex, None, None, "not attached: xdpfw apply attaches it")
    found = attached(ifindex)
    mode = None if found is None or found.mode is None else str(found.mode)
    note = f"now named {present}" if present != name else None
    return InterfaceStatus(name, ifindex, mode, generations[ifindex], note)
