# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy that a command is given, read and checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xdpfw.compiler import ir
from xdpfw.compiler.lower import lower
from xdpfw.compiler.progress import Progress, unseen
from xdpfw.errors import KernelError, UsageError
from xdpfw.policy.load import LoadedPolicy, load
from xdpfw.policy.source import Sources

if TYPE_CHECKING:
    from xdpfw.simulate.decider import Decider


@dataclass(frozen=True, slots=True)
class PolicyFile:
    path: str
    sources: Sources
    loaded: LoadedPolicy
    policy: ir.Policy

    @classmethod
    def read(cls, path: str, progress: Progress = unseen) -> PolicyFile:
        """Raises PolicyError."""
        return cls.from_sources(path, Sources.from_disk(), progress)

    @classmethod
    def from_sources(cls, path: str, sources: Sources, progress: Progress = unseen) -> PolicyFile:
        loaded = load(path, sources, progress)
        return cls(path, sources, loaded, lower(loaded))

    def interface_number(self, name: str | None) -> int:
        """Raises UsageError where the policy has no such interface."""
        names = [interface.name for interface in self.policy.interfaces]
        if name is None:
            return 0
        if name not in names:
            raise UsageError(
                f"--interface {name}: {self.path} has no such interface", hint=f"it has {', '.join(names)}"
            )
        return names.index(name)


@contextmanager
def decider(policy: ir.Policy, *, reference: bool) -> Iterator[Decider]:
    """Raises CapacityError, KernelError."""
    from xdpfw.simulate.decider import ReferenceDecider, in_kernel

    if reference:
        yield ReferenceDecider(policy)
        return
    with ExitStack() as opened:
        try:
            in_the_kernel = opened.enter_context(in_kernel(policy))
        except KernelError as error:
            error.hint = "; ".join(filter(None, [error.hint, "--reference decides without the kernel"]))
            raise
        yield in_the_kernel
