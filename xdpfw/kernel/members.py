# SPDX-License-Identifier: GPL-2.0-or-later
"""The members of a dynamic set, by the hundred thousand: put in, taken out, listed while the kernel does the same."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from xdpfw.addresstable import U32, U64
from xdpfw.kernel import abi
from xdpfw.kernel.maps import ArrayMap, HashMap, wait_for_programs
from xdpfw.kernel.ring import address, halves
from xdpfw.kernel.sets import create_members, members_at, put_members
from xdpfw.kernel.state import State

V4_BITS: Final = 32
V6_BITS: Final = 128
FEW: Final = 64
"""So many prefixes are looked for one by one; for more, all members are read."""

_LOW_64: Final = np.uint64((1 << 64) - 1)
_FULL: Final = abi.SetLimit.SET_PRESENCE_BITS
_WORDS: Final = int(abi.SetLimit.SET_PRESENCE_WORDS)
_LENGTH_WORDS: Final = int(abi.SetLimit.SET_LENGTH_WORDS)
_HEAD_WORD: Final = 8
_COMMANDS, _RULES = 0, 1


def _dtype(struct: str, **formats: str) -> np.dtype[np.void]:
    """``struct xdpfw_<struct>`` with these members."""
    members: Any = {
        "names": list(formats),
        "formats": list(formats.values()),
        "offsets": [abi.offset_of(struct, member) for member in formats],
        "itemsize": abi.size_of(struct),
    }
    dtype: np.dtype[np.void] = np.dtype(members)
    return dtype


KEY: Final = _dtype("member_key", high="u8", low="u8", family="u1", prefix_bits="u1", padding="V6")
MEMBER: Final = _dtype("member", until_ns="u8", added_ns="u8", origin="u4", padding="u4")

Keys = npt.NDArray[np.void]
"""Of type KEY: prefixes, each once."""
Members = npt.NDArray[np.void]
"""Of type MEMBER."""
Mask = npt.NDArray[np.bool_]


class Prefix(NamedTuple):
    """``address``: the first one, a host-order integer of 32 or 128 bits."""

    family: int
    address: int
    bits: int


def keys_of(prefixes: Iterable[tuple[int, int, int]]) -> Keys:
    """Keys of prefixes, members as of ``Prefix``, none of them there twice."""
    rows = [(*halves(family, first), family, bits, b"") for family, first, bits in prefixes]
    return np.array(rows, KEY)


def prefixes_of(keys: Keys) -> list[Prefix]:
    """The other way round."""
    return [Prefix(family, address(family, high, low), bits) for high, low, family, bits, _ in keys.tolist()]


def keys_of_ranges(v4: U32, v6: U64) -> Keys | None:
    """Keys of ranges, which are in order and each of them once, as ``Entries`` has them; None if one is no prefix."""
    keys = np.zeros(len(v4) + len(v6), KEY)
    first, second = keys[: len(v4)], keys[len(v4) :]
    low, high = v4.astype(np.uint64).T
    first["high"] = low << np.uint64(32)
    first["family"] = abi.Family.IPV4
    free_v4 = low ^ high
    first["prefix_bits"] = V4_BITS - _ones(free_v4)
    high_low, low_low, high_high, low_high = v6.T
    second["high"], second["low"] = high_low, low_low
    second["family"] = abi.Family.IPV6
    free_high, free_low = high_low ^ high_high, low_low ^ low_high
    second["prefix_bits"] = V6_BITS - _ones(free_high) - _ones(free_low)
    is_prefix = (
        (_is_mask(free_v4) & (low & free_v4 == 0)).all()
        and (_is_mask(free_high) & _is_mask(free_low) & (high_low & free_high == 0) & (low_low & free_low == 0)).all()
        and ((free_high == 0) | (free_low == _LOW_64)).all()
    )
    return keys if is_prefix else None


def covers(keys: Keys, prefix: Prefix) -> bool:
    """Whether one of these prefixes is ``prefix`` or one that it lies in."""
    own = keys[(keys["family"] == prefix.family) & (keys["prefix_bits"] <= prefix.bits)]
    full = V4_BITS if prefix.family == abi.Family.IPV4 else V6_BITS
    for bits in np.unique(own["prefix_bits"]).tolist():
        high, low = halves(prefix.family, prefix.address >> full - bits << full - bits)
        if np.any((own["prefix_bits"] == bits) & (own["high"] == np.uint64(high)) & (own["low"] == np.uint64(low))):
            return True
    return False


class Added(NamedTuple):
    """``new``: of the prefixes, those that were no members before, or not any more. ``refused``: there was no room.

    ``displaced``: members that rules had put in, and that made room.
    """

    new: Mask
    refused: Mask
    displaced: int


class MemberSet:
    """A dynamic set of an instance. Usable with ``with``.

    Whatever changes it needs the instance's lock: programs put members in meanwhile, other commands do not.
    """

    def __init__(self, members: HashMap, set_heads: ArrayMap, slot: int) -> None:
        self._members = members
        self._slot = slot
        self._start = slot * set_heads.stride
        self._memory = set_heads.mapped(set_heads.max_entries * set_heads.stride, mmap.PROT_READ | mmap.PROT_WRITE)

    @classmethod
    def open(cls, state: State, slot: int) -> Self | None:
        """The set in a slot of ``state``, which must stay open; None where there is none. Raises KernelError."""
        members = members_at(state.dynamic_sets, slot)
        return None if members is None else cls(members, state.set_heads, slot)

    @property
    def size(self) -> int:
        return self._members.max_entries

    @property
    def refused(self) -> int:
        """How many members rules would have put in, had there been room."""
        return int(self._words("refused", 1)[0])

    def read(self) -> tuple[Keys, Members]:
        """All members, those whose time is over among them, in no order."""
        found = list(self._members.batches())
        keys = np.frombuffer(b"".join(keys for keys, _ in found), KEY)
        return keys, np.frombuffer(b"".join(values for _, values in found), MEMBER)

    def add(self, keys: Keys, until_ns: int | U64, now_ns: int) -> Added:
        """Puts prefixes in until a time (0: for good), one for all or one each, those that are in already likewise, be
        it longer or shorter.

        Members whose time is over make room first, then those that rules have put in, which end soonest.
        """
        held = self.held(keys)
        is_live: Mask = _is_live(held, now_ns) & (held["added_ns"] != 0)
        self._note(keys)
        values = np.zeros(len(keys), MEMBER)
        values["until_ns"] = until_ns
        values["added_ns"] = np.where(is_live, held["added_ns"], now_ns)
        values["origin"] = abi.SetOrigin.COMMAND
        refused = np.zeros(len(keys), np.bool_)
        displaced = 0
        done = self._members.put_all(keys.tobytes(), values.tobytes())
        if done < len(keys):
            displaced = self._make_room(len(keys) - done, now_ns)
        while done < len(keys):
            done += self._members.put_all(keys[done:].tobytes(), values[done:].tobytes())
            if done < len(keys):
                refused[done] = True
                done += 1
        self._words("sweep_from_ns", 1)[0] = 0
        return Added(~is_live & ~refused, refused & ~is_live, displaced)

    def delete(self, keys: Keys, now_ns: int) -> Mask:
        """Takes prefixes out; says which were members whose time was not over."""
        held = self.held(keys)
        is_live: Mask = _is_live(held, now_ns) & (held["added_ns"] != 0)
        self._members.delete_all(keys[held["added_ns"] != 0].tobytes())
        self._tidy(now_ns)
        return is_live

    def flush(self, now_ns: int) -> tuple[Keys, Members]:
        """Takes all members out; returns those whose time was not over."""
        keys, members = self.read()
        self._members.delete_all(keys.tobytes())
        self._tidy(now_ns)
        is_live = _is_live(members, now_ns)
        return keys[is_live], members[is_live]

    def sweep(self, now_ns: int) -> None:
        """Takes out members whose time is over."""
        self._tidy(now_ns)

    def live(self, now_ns: int) -> Keys:
        """Members whose time is not over."""
        keys, members = self.read()
        return keys[_is_live(members, now_ns)]

    def count(self, now_ns: int) -> int:
        """How many members there are whose time is not over."""
        return len(self.live(now_ns))

    def resize(self, state: State, size: int, now_ns: int) -> None:
        """Gives the set a map that has room for ``size`` members. What programs put in meanwhile is taken over, too.

        Where there is no room for all, it is those that rules have put in and that end soonest that go; what programs
        have put in meanwhile finds no room then.
        """
        with create_members(size) as other:
            keys, members = self.read()
            live = np.flatnonzero(_is_live(members, now_ns))
            kept = live[_by_rank(members[live])[:size]]
            other.put_all(keys[kept].tobytes(), members[kept].tobytes())
            put_members(state.dynamic_sets, self._slot, other)
            # No program that knows the old map is running any more.
            copied = dict(zip(keys.tolist(), members.tolist(), strict=True))
            keys, members = self.read()
            late = [copied.get(key) != member for key, member in zip(keys.tolist(), members.tolist(), strict=True)]
            late_keys, late_members = keys[late], members[late]
            done = 0
            while done < len(late_keys):
                # Those behind one that finds no room may be there already, with another time.
                done += other.put_all(late_keys[done:].tobytes(), late_members[done:].tobytes()) + 1

    def note_all(self) -> None:
        """Says in the head what is there: for members that were put in by their map alone."""
        self._note(self.read()[0])

    def close(self) -> None:
        with contextlib.suppress(BufferError):  # an exception under way may still refer to an array of it
            self._memory.close()
        self._members.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def held(self, keys: Keys) -> Members:
        """What is there of these prefixes, in their order; of those that are not there, nothing but 0."""
        held = np.zeros(len(keys), MEMBER)
        if len(keys) <= FEW:
            for number, key in enumerate(keys):
                if (value := self._members.read(key.tobytes())) is not None:
                    held[number] = np.frombuffer(value, MEMBER)[0]
            return held
        there, members = self.read()
        both = np.concatenate((there, keys))
        order = np.lexsort((both["prefix_bits"], both["family"], both["low"], both["high"]))
        ordered = both[order]
        # A prefix that is in both comes twice in a row; the sort is stable, so that of the set comes first.
        is_same = ordered[1:] == ordered[:-1]
        held[order[1:][is_same] - len(there)] = members[order[:-1][is_same]]
        return held

    def _make_room(self, wanted: int, now_ns: int) -> int:
        """Returns how many members of rules it took out."""
        keys, members = self.read()
        is_over = ~_is_live(members, now_ns)
        self._members.delete_all(keys[is_over].tobytes())
        missing = wanted - int(np.count_nonzero(is_over))
        if missing <= 0:
            return 0
        by_rules = np.flatnonzero(~is_over & (members["origin"] == abi.SetOrigin.RULE))
        given_up = by_rules[_by_rank(members[by_rules])[::-1][:missing]]
        self._members.delete_all(keys[given_up].tobytes())
        return len(given_up)

    def _note(self, keys: Keys) -> None:
        presence, lengths = _bits_of(keys)
        self._presence[:, _COMMANDS] |= presence
        self._lengths[:, _COMMANDS] |= lengths

    def _tidy(self, now_ns: int) -> None:
        """Takes out what is over, and bits that nothing needs any more.

        A program may have found a bit set that is taken away, whoever had set it, and put its member in only then: so
        when no program from before runs any more, members are looked at again.
        """
        keys, members = self.read()
        is_live = _is_live(members, now_ns)
        self._members.delete_all(keys[~is_live].tobytes())
        for words, needed in zip((self._presence, self._lengths), _bits_of(keys[is_live]), strict=True):
            words[:, _COMMANDS] = needed
            words[:, _RULES] = 0
        wait_for_programs()
        self.note_all()
        self._words("sweep_from_ns", 1)[0] = 0

    @property
    def _presence(self) -> npt.NDArray[np.uint64]:
        """Shape (words of both families, who writes them)."""
        return self._words("presence", 4 * _WORDS).reshape(-1, 2)

    @property
    def _lengths(self) -> npt.NDArray[np.uint64]:
        return self._words("lengths", 4 * _LENGTH_WORDS).reshape(-1, 2)

    def _words(self, member: str, count: int) -> npt.NDArray[np.uint64]:
        return np.frombuffer(self._memory, np.uint64, count, self._start + abi.offset_of("set_head", member))


def _is_mask(free: npt.NDArray[np.uint64]) -> Mask:
    """Whether the bits of these numbers are the lowest ones."""
    found: Mask = free & (free + np.uint64(1)) == 0
    return found


def _ones(free: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """How many bits of these numbers are set."""
    found: npt.NDArray[np.uint8] = np.unpackbits(np.ascontiguousarray(free).view(np.uint8).reshape(-1, 8), axis=1).sum(
        axis=1, dtype=np.uint8
    )
    return found


def _is_live(members: Members, now_ns: int) -> Mask:
    found: Mask = (members["until_ns"] == 0) | (members["until_ns"] > now_ns)
    return found


def _by_rank(members: Members) -> npt.NDArray[np.intp]:
    """Their order where there is no room for all: those by commands first, then the others, the last to end first."""
    ends = members["until_ns"] - np.uint64(1)  # those for good are the last: 0 - 1
    return np.lexsort((~ends, members["origin"] == abi.SetOrigin.RULE))


def _bits_of(keys: Keys) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The words of a head's presence and lengths that stand for these prefixes."""
    presence = np.zeros((2, _FULL), np.bool_)
    lengths = np.zeros((2, _LENGTH_WORDS * 64), np.bool_)
    for row, family in enumerate((abi.Family.IPV4, abi.Family.IPV6)):
        own = keys[keys["family"] == family]
        bits = own["prefix_bits"].astype(np.int64)
        first, second = own["high"] >> np.uint64(48), own["high"] >> np.uint64(32) & np.uint64(0xFFFF)
        is_wide = family == abi.Family.IPV6
        place = (first ^ second if is_wide else first).astype(np.int64)
        # Of a wider prefix, some bits of the place are free: a block of all places that differ in no more than them.
        free = np.clip((32 if is_wide else 16) - bits, 0, 16)
        presence[row, place[free == 0]] = True
        blocks = np.unique(np.stack((place >> free, free), axis=1)[free > 0], axis=0)
        for start, width in blocks.tolist():
            presence[row, start << width : start + 1 << width] = True
        lengths[row, bits] = True
    return _packed(presence), _packed(lengths)


def _packed(bits: Mask) -> npt.NDArray[np.uint64]:
    return np.packbits(bits.reshape(-1), bitorder="little").view("<u8").astype(np.uint64)
