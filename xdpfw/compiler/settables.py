# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets with files -> the map ``set_tables``: addresses to set classes, and what a set class means to the rules.

The rules' own tables know nothing of what such sets hold, so that a set's file may change and only this is made anew.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xdpfw.addresstable import AddressTable
from xdpfw.compiler.atoms import SetCondition
from xdpfw.compiler.fields import bit_vectors
from xdpfw.compiler.ir import AddressRanges
from xdpfw.compiler.tables import Tables, bounds
from xdpfw.compiler.trie import Addresses, add_trie
from xdpfw.errors import CapacityError
from xdpfw.kernel.abi import Direction, Limit, Value

_WORD_BITS: Final = int(Limit.WORD_BITS)
_ONE: Final = np.uint64(1)

U64 = npt.NDArray[np.uint64]
Matrix = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SetConditions:
    """The conditions of rules that name sets with a file, by number: what the tables of rules leave open.

    ``used``: by direction, if any condition is on its addresses. ``meets_no_address[i]``: packets that are not IP meet
    condition i. ``columns``: for each direction and each bit of a vector the condition of its rule (None: it has none).
    """

    conditions: tuple[SetCondition, ...]
    used: tuple[bool, ...]
    meets_no_address: tuple[bool, ...]
    columns: tuple[tuple[int | None, ...], ...]
    vector_words: int
    summary_words: int  # so many words are summed up in the last one; 0: there is no such word


def with_summary(vectors: U64, words: int) -> U64:
    """Vectors, shape (classes, words), with one word more: its bit i says that word i of the first ``words`` is not 0.

    ``words`` 0: as they are.
    """
    if not words:
        return vectors
    bits = (vectors[:, :words] != 0).astype(np.uint64) << np.arange(words, dtype=np.uint64)
    return np.concatenate((vectors, np.bitwise_or.reduce(bits, axis=1)[:, None]), axis=1)


def build_set_tables(wanted: SetConditions) -> tuple[Value, list[dict[str, int]], bytes]:
    """``struct xdpfw_set_table``, what it adds to each direction's table, and the value of the map.

    Raises CapacityError where the sets do not fit into it.
    """
    if not wanted.conditions:
        return {}, [{} for _ in Direction], b""
    families = [_meets(wanted.conditions, is_v6=is_v6) for is_v6 in (False, True)]
    no_address = np.array([wanted.meets_no_address], dtype=np.uint8)
    condition_words = -(-len(wanted.conditions) // _WORD_BITS)
    words = np.concatenate((*(met for _, met in families), bit_vectors(no_address, condition_words)))
    classes, class_of = _distinct(words)

    tables = Tables()
    roots = []
    first = 0
    for starts, met in families:
        leaves = class_of[first : first + len(met)].astype(np.uint32)
        roots.append(add_trie(tables, starts, leaves))
        first += len(met)
    held = np.unpackbits(classes.view(np.uint8), axis=1, bitorder="little")[:, : len(wanted.conditions)]
    directions = []
    for used, columns in zip(wanted.used, wanted.columns, strict=True):
        vector = np.ones((len(classes), len(columns)), dtype=np.uint8)
        bound = [k for k, number in enumerate(columns) if number is not None]
        vector[:, bound] = held[:, [number for number in columns if number is not None]]
        words_of_rules = wanted.vector_words - bool(wanted.summary_words)
        laid = with_summary(bit_vectors(vector, words_of_rules), wanted.summary_words)
        directions.append({"sets_used": int(used), "sets_wide": tables.add(laid)})
    table = {
        "root_v4": roots[0],
        "root_v6": roots[1],
        "no_address_class": int(class_of[-1]),
        "conditions": tables.add(classes),
        "condition_words": condition_words,
        "bytes": tables.size_bytes,
        "bounds": bounds(tables.size_bytes),
    }
    if tables.size_bytes > Limit.MAX_TABLE_BYTES:
        raise CapacityError(
            f"the sets' addresses need {tables.size_bytes >> 20:,} MiB, more than {Limit.MAX_TABLE_BYTES >> 20:,}",
            hint="use sets with fewer entries, or prefixes that cover several of them",
        )
    return table, directions, tables.tobytes()


def _distinct(rows: U64) -> tuple[U64, npt.NDArray[np.int64]]:
    """Distinct rows of words, and the number of each row among them. Few are distinct."""
    class_of = np.zeros(len(rows), dtype=np.int64)
    for word in rows.T:
        # Looking up each among few is several times faster than sorting all.
        values = np.unique(word)
        combined = class_of * len(values) + np.searchsorted(values, word)
        class_of = np.searchsorted(np.unique(combined), combined)
    example = np.empty(class_of.max(initial=-1) + 1, dtype=np.int64)
    example[class_of] = np.arange(len(rows))
    return rows[example], class_of


def _meets(conditions: Sequence[SetCondition], *, is_v6: bool) -> tuple[Addresses, U64]:
    """Where which conditions hold: where intervals begin, and for each the bits of conditions, shape (n, words)."""
    numbers: dict[AddressTable, int] = {}
    members = [
        (
            None if each.within is None else _numbered(each.within, numbers),
            tuple(number for out in each.without for number in _numbered(out, numbers)),
        )
        for each in conditions
    ]
    parts = [_part(table, is_v6=is_v6) for table in numbers]
    starts, holds = _sweep(parts)
    met = np.empty((len(conditions), len(starts.high)), dtype=bool)
    for number, (within, without) in enumerate(members):
        met[number] = True if within is None else _any(holds, within)
        if without:
            met[number] &= ~_any(holds, without)
    words = -(-len(conditions) // _WORD_BITS)
    packed = np.zeros((len(starts.high), words), dtype=np.uint64)
    for number, here in enumerate(met):
        packed[:, number // _WORD_BITS] |= here.astype(np.uint64) << np.uint64(number % _WORD_BITS)
    return starts, packed


def _any(holds: npt.NDArray[np.bool_], parts: Sequence[int]) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = np.any(holds[list(parts)], axis=0)
    return found


def _numbered(addresses: AddressRanges, numbers: dict[AddressTable, int]) -> tuple[int, ...]:
    tables: Iterable[AddressTable] = (each.table for each in addresses.sets)
    if addresses.v4 or addresses.v6:
        tables = (*tables, _own_table(addresses.v4, addresses.v6))
    return tuple(numbers.setdefault(table, len(numbers)) for table in tables)


@functools.lru_cache(maxsize=64)
def _own_table(v4: tuple[tuple[int, int], ...], v6: tuple[tuple[int, int], ...]) -> AddressTable:
    low_64 = (1 << 64) - 1
    halves = [(low >> 64, low & low_64, high >> 64, high & low_64) for low, high in v6]
    return AddressTable(np.array(v4, dtype=np.uint32).reshape(-1, 2), np.array(halves, dtype=np.uint64).reshape(-1, 4))


def _part(table: AddressTable, *, is_v6: bool) -> Addresses:
    """Each range's first address and the one behind its last, in turns: ascending, but that 0 is behind them all."""
    if not is_v6:
        edges = table.v4.astype(np.uint64)
        edges[:, 1] += _ONE
        # 2^32, behind the last address, wraps to the 0 that _sweep takes for "never".
        return Addresses(edges.reshape(-1) << np.uint64(32), np.zeros(edges.size, dtype=np.uint64))
    high, low = table.v6[:, 0::2].copy(), table.v6[:, 1::2].copy()
    low[:, 1] += _ONE
    high[:, 1] += low[:, 1] == 0
    return Addresses(high.reshape(-1), low.reshape(-1))


def _order(found: Addresses) -> npt.NDArray[np.intp]:
    """What sorts addresses, made of few runs that are in order."""
    order = np.argsort(found.high, kind="stable")
    high, low = found.high[order], found.low[order]
    if np.any((high[1:] == high[:-1]) & (low[1:] < low[:-1])):
        return np.lexsort((found.low, found.high))
    return order


def _sweep(parts: Sequence[Addresses]) -> tuple[Addresses, npt.NDArray[np.bool_]]:
    """Where the address space changes, 0 among it, and which parts hold there, shape (parts, starts)."""
    zero = np.zeros(1, dtype=np.uint64)
    found = Addresses(*(np.concatenate((zero, *halves)) for halves in zip(*parts, strict=True)))
    order = _order(found)
    high, low = found.high[order], found.low[order]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.cumsum(is_new) - 1
    starts = Addresses(high[is_new], low[is_new])
    holds = np.empty((len(parts), len(starts.high)), dtype=bool)
    at = 1
    for number, part in enumerate(parts):
        edges = place[at : at + len(part.high)]
        at += len(edges)
        # As ranges are disjoint and do not touch, each edge of a table turns its bit over.
        change = np.zeros(len(starts.high), dtype=bool)
        change[edges[0::2]] = True
        ends = edges[1::2]
        change[ends[ends != 0]] = True
        holds[number] = np.logical_xor.accumulate(change)
    return starts, holds
