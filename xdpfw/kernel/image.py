# SPDX-License-Identifier: GPL-2.0-or-later
"""What the compiler makes of a policy, from the side of who loads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Knocks(Protocol):
    """What the compiler makes of knocks (xdpfw.compiler.knocks.KnockTables): arrays of the structs in bpf/abi.h."""

    @property
    def knocks(self) -> bytes: ...

    @property
    def sequences(self) -> bytes: ...

    @property
    def tokens(self) -> bytes: ...

    @property
    def guards(self) -> bytes: ...

    @property
    def rotations(self) -> bytes: ...

    @property
    def spa_ports(self) -> bytes: ...

    @property
    def spa_keys(self) -> bytes:
        """``struct xdpfw_spa_key``, whose ``slot`` is the loader's."""

    @property
    def fingerprints(self) -> Sequence[int | None]:
        """Of the key of each element of ``spa_keys``; None where there is none."""


class NoKnocks:
    """Those of an image that has none."""

    knocks = sequences = tokens = guards = rotations = spa_ports = spa_keys = b""
    fingerprints = ()


class Image(Protocol):
    """What the compiler makes of a policy (xdpfw.compiler.image.MapImage)."""

    @property
    def config(self) -> bytes:
        """``struct xdpfw_config``, whose ``trace`` and ``interface_factor`` are the loader's."""

    @property
    def tables(self) -> bytes:
        """The value of the map ``tables``: a whole number of blocks of ``Layout.BLOCK_BYTES``."""

    @property
    def set_tables(self) -> bytes:
        """The value of the map ``set_tables``, likewise; empty where no rule looks at sets with files."""

    @property
    def actions(self) -> bytes:
        """Elements of ``struct xdpfw_action``: of the rules of knocks, then ``rule_count`` of the policy's."""

    @property
    def rule_count(self) -> int: ...

    @property
    def knocks(self) -> Knocks: ...

    @property
    def limits(self) -> bytes:
        """Elements of ``struct xdpfw_rate``."""

    @property
    def cpu_choices(self) -> Sequence[int]:
        """CPUs that rules hand packets to, as their actions number them."""

    @property
    def protected_ports(self) -> Sequence[tuple[int, int]]:
        """Ranges of TCP ports."""

    @property
    def set_sizes(self) -> Sequence[int]:
        """How many members each dynamic set has room for, by number; the first are the bans."""

    @property
    def never_ban_keys(self) -> bytes:
        """Elements of ``struct xdpfw_never_ban_key``."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Interfaces that rules redirect to, by slot."""
