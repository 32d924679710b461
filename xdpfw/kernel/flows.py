# SPDX-License-Identifier: GPL-2.0-or-later
"""The flows that an instance follows, read and deleted while its programs go on writing them."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from xdpfw.kernel import abi
from xdpfw.kernel.maps import ArrayMap
from xdpfw.kernel.ring import address

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xdpfw.kernel.state import State

FIRST_TAG: Final = 2
"""Smaller ones are those of slots that are empty or about to be written (bpf/flowtable.h)."""


class Flow(NamedTuple):
    """``remote`` is who sends the packets that come in; addresses are host-order integers of 32 or 128 bits.

    Of an ICMP echo, ``local_port`` is its id and ``remote_port`` the type of the messages that come in. The flow counts
    before ``until_ns`` of CLOCK_BOOTTIME, not at it.
    """

    family: int
    protocol: int
    remote: int
    remote_port: int
    local: int
    local_port: int
    state: abi.FlowState
    rank: abi.FlowRank
    created_ns: int
    until_ns: int
    expected_ack: int = 0


class Kind(NamedTuple):
    protocol: int
    state: abi.FlowState


class FlowTable:
    """The maps ``flow_tags`` and ``flows``. They stay the state's."""

    def __init__(self, state: State) -> None:
        self._tags = state.flow_tags
        self._flows = state.flows

    @property
    def capacity(self) -> int:
        return self._flows.max_entries

    def live(self, now_ns: int) -> list[Flow]:
        """Those that are live, in no order. What comes or goes meanwhile may be among them or not."""
        return [flow for _, _, flow in self._live(now_ns)]

    def count(self, now_ns: int) -> dict[Kind, int]:
        """How many are live. Quicker than a list of them."""
        found = self._slots()[np.nonzero(self._all_tags() >= FIRST_TAG)[0]]
        found = found[found["until_ns"] > now_ns]
        kinds = Counter(zip(found["protocol"].tolist(), found["state"].tolist(), strict=True))
        return {Kind(protocol, abi.FlowState(state)): count for (protocol, state), count in kinds.items()}

    def delete(self, is_wanted: Callable[[Flow], bool], now_ns: int) -> list[Flow]:
        """Ends the live flows for which ``is_wanted`` says so, and returns them."""
        wanted = [each for each in self._live(now_ns) if is_wanted(each[2])]
        tags = self._all_tags()
        for index, tag, _ in wanted:
            if tags[index] == tag:  # else its place is another's by now
                tags[index] = 0
        return [flow for _, _, flow in wanted]

    def _live(self, now_ns: int) -> Iterator[tuple[int, int, Flow]]:
        """Number of the slot, tag and flow."""
        tags = self._all_tags()
        indexes = np.nonzero(tags >= FIRST_TAG)[0]
        tagged, found = tags[indexes], self._slots()[indexes]  # copies, which do not change any more
        live = found["until_ns"] > now_ns
        columns = [found[live][name].tolist() for name in _MEMBERS]
        for index, tag, *values in zip(indexes[live].tolist(), tagged[live].tolist(), *columns, strict=True):
            yield index, tag, _flow(dict(zip(_MEMBERS, values, strict=True)))

    def _all_tags(self) -> NDArray[Any]:
        return _elements(self._tags, np.dtype("u8"), self.capacity)

    def _slots(self) -> NDArray[Any]:
        return _elements(self._flows, _DTYPE, self.capacity)


def _flow(found: dict[str, int]) -> Flow:
    family = found["family"]
    return Flow(
        family,
        found["protocol"],
        address(family, found["remote_high"], found["remote_low"]),
        found["remote_port"],
        address(family, found["local_high"], found["local_low"]),
        found["local_port"],
        abi.FlowState(found["state"]),
        abi.FlowRank(found["rank"]),
        found["created_ns"],
        found["until_ns"],
        found["expected_ack"],
    )


def _elements(map_: ArrayMap, dtype: Any, count: int) -> NDArray[Any]:
    """The map's memory, which is unmapped with the last view of it."""
    memory = map_.mapped(map_.max_entries * map_.stride, mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(memory, dtype, count)


_KEY_MEMBERS: Final = {
    "remote_high": "u8",
    "remote_low": "u8",
    "local_high": "u8",
    "local_low": "u8",
    "remote_port": "u2",
    "local_port": "u2",
    "protocol": "u1",
    "family": "u1",
}
_FLOW_MEMBERS: Final = {"until_ns": "u8", "expected_ack": "u4", "state": "u1", "rank": "u1", "created_ns": "u8"}
_MEMBERS: Final = (*_KEY_MEMBERS, *_FLOW_MEMBERS)
_DTYPE: Final[Any] = np.dtype(
    {
        "names": list(_MEMBERS),
        "formats": [*_KEY_MEMBERS.values(), *_FLOW_MEMBERS.values()],
        "offsets": [
            *(abi.offset_of("flow", "key") + abi.offset_of("flow_key", name) for name in _KEY_MEMBERS),
            *(abi.offset_of("flow", name) for name in _FLOW_MEMBERS),
        ],
        "itemsize": abi.size_of("flow"),
    }
)
