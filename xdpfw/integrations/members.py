# SPDX-License-Identifier: GPL-2.0-or-later
"""The set of a firewall in force that a bouncer keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import numpy as np

from xdpfw.compiler.ir import BANS
from xdpfw.integrations.crowdsec import Network
from xdpfw.kernel import abi
from xdpfw.kernel.members import Keys, keys_of
from xdpfw.kernel.pins import Pins
from xdpfw.livesets import LOCK_WAIT_S, LiveSet, opened
from xdpfw.observe.metadata import Metadata

InForce = Callable[[], tuple[int, Metadata]]

_FAMILIES: Final = {4: int(abi.Family.IPV4), 6: int(abi.Family.IPV6)}
_VERSIONS: Final = {family: version for version, family in _FAMILIES.items()}


class LiveMembers:
    """Opened anew for each thing that is done, so that it is always the set of the generation in force."""

    def __init__(self, pins: Pins, in_force: InForce, name: str | None, *, preferred: str) -> None:
        """The set called ``name``. If that is None, ``preferred`` where the policy has it, else the bans.

        ``in_force`` returns the generation in force and what it was made from, or raises XdpfwError. Raises UsageError
        where there is no such set.
        """
        self._pins = pins
        self._in_force = in_force
        if name is None:
            _, meta = in_force()
            name = preferred if any(each.name == preferred for each in meta.dynamic_sets) else BANS
        self.name = name
        self.identity()

    @property
    def is_sole(self) -> bool:
        """Whether nobody else is to put anything there."""
        return self.name != BANS

    def identity(self) -> object:
        with self._opened() as found:
            return found.identity

    def entries(self, among: Iterable[Network] | None = None) -> Mapping[Network, int]:
        keys = None if among is None else _keys(among)
        if keys is not None and not len(keys):
            return {}
        with self._opened() as found:
            ends = found.ends(keys)
        return {Network(_VERSIONS[family], address, bits): end_ns for (family, address, bits), end_ns in ends}

    def add(self, remaining_ns: Mapping[Network, int]) -> int:
        if not remaining_ns:
            return 0
        keys = _keys(remaining_ns)
        times_ns = np.fromiter(remaining_ns.values(), np.uint64, len(remaining_ns))
        with self._pins.lock(LOCK_WAIT_S, gives_way=True), self._opened() as found:
            return found.add(keys, times_ns).refused

    def delete(self, networks: Iterable[Network]) -> None:
        keys = _keys(networks)
        if len(keys):
            with self._pins.lock(LOCK_WAIT_S, gives_way=True), self._opened() as found:
                found.delete(keys)

    @contextmanager
    def _opened(self) -> Iterator[LiveSet]:
        number, meta = self._in_force()
        with opened(self._pins, number, meta, self.name) as found:
            yield found


def _keys(networks: Iterable[Network]) -> Keys:
    return keys_of((_FAMILIES[version], address, bits) for version, address, bits in networks)
