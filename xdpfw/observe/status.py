# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in force, as the kernel has it: links and programs tell, metadata only names."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from typing import Any

from xdpfw.errors import KernelError
from xdpfw.kernel.interface import attached, name_of, namespace
from xdpfw.kernel.pins import Pins
from xdpfw.kernel.program import FillLevel, Generation
from xdpfw.observe import metadata
from xdpfw.observe.inforce import in_force, running
from xdpfw.observe.metadata import Metadata, SetMeta


@dataclass(frozen=True, slots=True)
class InterfaceStatus:
    """``generation``: the number of the one that it runs; None if none of the instance's is attached."""

    name: str
    ifindex: int
    mode: str | None
    generation: int | None
    note: str | None = None


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
        return cls(
            instance=pins.instance,
            generation=number,
            policy_file=meta.policy_file,
            source_digest=meta.source_digest,
            applied_at=meta.applied_at,
            netns=meta.netns,
            rules=len(meta.rules),
            sets=meta.sets,
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
        return {**asdict(self), "fill": fill, "pending_confirm": None}


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
