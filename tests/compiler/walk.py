# SPDX-License-Identifier: GPL-2.0-or-later
"""bpf/classify.h in plain Python: what the program would find in a compiled image, read in the same way.

It holds the compiler against the reference without a kernel. Unlike the program it never reads behind the tables:
an index that the compiler should not have made raises IndexError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from xdpfw.compiler.image import MapImage
from xdpfw.compiler.ir import Family, Fragment
from xdpfw.compiler.pairs import pair_hash
from xdpfw.kernel import abi
from xdpfw.kernel.abi import Absent, Detail, Direction, Field, Key, Kind, Layout, Limit, Mac, PacketState, RowFlag, Trie
from xdpfw.packet.decode import Packet

WORD_BITS: Final = 64
KEY_BITS: Final = 64
BLOCK_WORDS: Final = Layout.BLOCK_BYTES // 4
PROTO_ICMP: Final = 1


class Head(NamedTuple):
    """struct xdpfw_row."""

    key: int
    condition: int


NO_ROW: Final = Head(int(Key.NONE), 0)


class Leaf(NamedTuple):
    pair_class: int
    wide_class: int
    row: Head


class Found(NamedTuple):
    """``rule`` decides (None: no rule does); ``counted`` are the rules before it that only count, in order."""

    rule: int | None
    counted: tuple[int, ...]


class Known(NamedTuple):
    """What the program has looked up. ``sets``: by direction, bits of the dynamic sets that the address is in."""

    state: PacketState | None = None  # None: that of a packet of no flow that is known
    sets: tuple[int, int] = (0, 0)


NOTHING_KNOWN: Final = Known()


def field_values(packet: Packet, interface: int | None, known: Known) -> list[int]:
    """What would be in ``value``, but for MAC addresses and grants."""
    if packet.tcp_flags is not None:
        detail = Detail.TCP + packet.tcp_flags
    elif packet.icmp_type is not None and packet.icmp_code is not None:
        base = Detail.ICMP if packet.proto == PROTO_ICMP else Detail.ICMPV6
        detail = base + (packet.icmp_type << 8 | packet.icmp_code)
    else:
        detail = int(Absent.NO_DETAIL)
    kind = 0
    if packet.family is not Family.OTHER:
        assert packet.fragment is not None
        kind = packet.family | packet.fragment << Kind.FRAGMENT_SHIFT | bool(packet.ip_options) << Kind.OPTIONS_SHIFT
    values = {
        Field.PROTO: (packet.proto, Absent.NO_PROTO),
        Field.DPORT: (packet.dport, Absent.NO_PORT),
        Field.SPORT: (packet.sport, Absent.NO_PORT),
        Field.KIND: (kind, 0),
        Field.DETAIL: (detail, 0),
        Field.INTERFACE: (interface, Absent.NO_INTERFACE),
        Field.ETHERTYPE: (packet.ethertype, 0),
        Field.VLAN: (packet.vlan, Absent.NO_TAG),
        Field.INNER_VLAN: (packet.inner_vlan, Absent.NO_TAG),
        Field.LENGTH: (packet.length, Absent.NO_LENGTH),
        Field.TTL: (packet.ttl, Absent.NO_TTL),
        Field.DSCP: (packet.dscp, Absent.NO_DSCP),
        Field.KNOCKED: (0, 0),
        Field.STATE: (_state(packet) if known.state is None else known.state, 0),
        Field.SRC_SETS: (known.sets[Direction.SRC], 0),
        Field.DST_SETS: (known.sets[Direction.DST], 0),
        Field.SRC_MAC: (0, 0),
        Field.DST_MAC: (0, 0),
    }
    return [int(absent if value is None else value) for value, absent in (values[field] for field in Field)]


def _state(packet: Packet) -> PacketState:
    """Of a packet of no flow that is known."""
    has_state = packet.family is not Family.OTHER and packet.fragment is not Fragment.LATER
    return PacketState.NEW if has_state else PacketState.NONE


def trie_leaf(words: memoryview, root: int, key: int) -> int:
    """The leaf of an address, 128 bits, IPv4 on top; ``words`` is the map as u32, ``root`` the base there."""
    high, low = key >> KEY_BITS, key & (1 << KEY_BITS) - 1
    entry = words[root + (high >> KEY_BITS - Layout.ROOT_BITS)]
    half = high
    for _ in range(Trie.MAX_STEPS):
        kind = entry >> Trie.KIND_SHIFT
        first = (entry & Trie.NUMBER_MASK) * (BLOCK_WORDS // 2 if kind == Trie.SEARCH_3 else BLOCK_WORDS)
        left = half >> (entry >> Trie.SHIFT_SHIFT & Trie.SHIFT_MASK)
        if kind == Trie.LEAF:
            break
        if kind in (Trie.SEARCH, Trie.SEARCH_3):
            behind = first + (Trie.BOUNDARIES if kind == Trie.SEARCH else Trie.FEW_BOUNDARIES)
            entry = words[behind + sum(before < left & 0xFFFFFFFF for before in words[first:behind])]
        elif kind == Trie.LOW:
            half = low
            entry = words[first]
        else:
            entry = words[first + (left & (15 if kind == Trie.NODE_16 else 255))]
    assert entry >> Trie.KIND_SHIFT == Trie.LEAF, "a trie of more steps than the program takes"
    return int(entry)


class Walk:
    """Looks packets up in one image."""

    def __init__(self, image: MapImage) -> None:
        self.config: Any = abi.unpack("config", image.config)
        assert self.config.table_bytes == len(image.tables)
        assert self.config.sets.bytes == len(image.set_tables)
        tables = memoryview(image.tables)
        self.u16, self.u32, self.u64 = tables.cast("H"), tables.cast("I"), tables.cast("Q")
        sets = memoryview(image.set_tables)
        self.set_u32, self.set_u64 = sets.cast("I"), sets.cast("Q")
        self.combined: list[int] = []
        self.leaves: list[Leaf] = []
        self.set_classes: list[int] = []

    def classify(self, packet: Packet, interface: int | None = 0, known: Known = NOTHING_KNOWN) -> Found:
        self.combined = self._combine_fields(packet, field_values(packet, interface, known))
        addresses = (packet.src, packet.dst)
        self.leaves = [self._leaf(direction, packet.family, addresses[direction]) for direction in Direction]
        self.set_classes = [self._set_class(direction, packet.family, addresses[direction]) for direction in Direction]
        best = min(self._narrow_keys(), default=int(Key.NONE))
        # As the program does: rules of the wide group may come too late to matter.
        if self.config.wide_words and self.config.wide_first < best:
            best = min(best, next(self._wide_keys(0, self.config.wide_words), int(Key.NONE)))
        counting = self._wide_keys(self.config.wide_words, self.config.count_words)
        counted = tuple(dict.fromkeys(key >> Key.SHIFT for key in counting if key < best))
        return Found(None if best == Key.NONE else best >> Key.SHIFT, counted)

    def _entry(self, index: int) -> memoryview:
        entry = self.u32[index * 4 : index * 4 + 4]
        if len(entry) < 4:
            raise IndexError(index)
        return entry

    def _step(self, step: int, table: Any, value: int) -> int:
        number = self.u16[table.classes + value] if table.classes else value
        return self.u32[step + number]

    def _mac_class(self, mac: int, address: int) -> int:
        step = self.config.mac_steps[mac]
        for part in range(Mac.PARTS):
            word = address >> 16 * (Mac.PARTS - 1 - part) & 0xFFFF
            step = self._step(step, self.config.macs[mac * Mac.PARTS + part], word)
        return int(step)

    def _combine_fields(self, packet: Packet, values: list[int]) -> list[int]:
        combined = [int(self.config.groups[group].first_step) for group in range(self.config.group_count)]
        for field, mac, address in ((Field.SRC_MAC, Mac.SRC, packet.src_mac), (Field.DST_MAC, Mac.DST, packet.dst_mac)):
            if self.config.fields[field].used:
                values[field] = self._mac_class(mac, address)
        for field in Field:
            table = self.config.fields[field]
            assert not table.used or table.group == 0 or self.config.group_count > 1
            if table.used:
                combined[table.group] = self._step(combined[table.group], table, values[field])
        return combined

    def _leaf(self, direction: Direction, family: Family, address: int | None) -> Leaf:
        table = self.config.directions[direction]
        if not table.used:
            return Leaf(0, 0, NO_ROW)
        number = int(table.no_address_leaf)
        if address is not None:
            is_v4 = family is Family.IPV4
            root = table.root_v4 if is_v4 else table.root_v6
            number = trie_leaf(self.u32, root, address << 96 if is_v4 else address)
        if not table.leaves:
            return Leaf(0, number, NO_ROW)
        pair_class, wide_class, key, condition = self._entry(table.leaves + number)
        return Leaf(pair_class, wide_class, Head(key, condition))

    def _set_class(self, direction: Direction, family: Family, address: int | None) -> int:
        table = self.config.sets
        if not self.config.directions[direction].sets_used:
            return 0
        if address is None:
            return int(table.no_address_class)
        is_v4 = family is Family.IPV4
        root = table.root_v4 if is_v4 else table.root_v6
        return trie_leaf(self.set_u32, root, address << 96 if is_v4 else address)

    def _predicate_holds(self, predicate: int) -> bool:
        word, bit = divmod(predicate, WORD_BITS)
        words = self.config.predicate_words
        assert word < words
        return all(
            self.u64[group.predicates + number * words + word] >> bit & 1
            for group, number in zip(self.config.groups, self.combined, strict=False)
        )

    def _condition_holds(self, direction: Direction, condition: int) -> bool:
        word, bit = divmod((condition & RowFlag.ROW_OTHER_MASK) - 1, WORD_BITS)
        if condition & RowFlag.ROW_OTHER_SET:
            sets = self.config.sets
            assert word < sets.condition_words
            held = self.set_u64[sets.conditions + self.set_classes[direction] * sets.condition_words + word]
        else:
            table = self.config.directions[direction]
            assert word < table.condition_words
            held = self.u64[table.conditions + self.leaves[direction].wide_class * table.condition_words + word]
        return bool(held >> bit & 1)

    def _row_entry(self, base: int, index: int) -> Head:
        at = 2 * (base + index)
        key, condition = self.u32[at : at + 2]
        return Head(key, condition)

    def row(self, head: Head) -> list[Head]:
        """The entries of a row."""
        if head.key & RowFlag.ROW_DISPATCH:
            group = head.condition >> RowFlag.ROW_GROUP_SHIFT
            number = head.condition & RowFlag.ROW_REFERENCE_MASK
            first = head.key & Key.MASK
            head = self._row_entry(self.config.dispatch, number + self.combined[group])
            assert not head.key & RowFlag.ROW_DISPATCH
            assert first <= head.key & Key.MASK
        if not head.key & RowFlag.ROW_LIST:
            return [] if head == NO_ROW else [head]
        entries = []
        for i in range(Limit.MAX_ROW_ENTRIES):
            entries.append(self._row_entry(self.config.rows, (head.condition & RowFlag.ROW_REFERENCE_MASK) + i))
            if entries[-1].key & RowFlag.ROW_LAST:
                assert head.key & Key.MASK == entries[0].key & Key.MASK
                return entries
        raise AssertionError("a row that is longer than the program reads")

    def _search_row(self, head: Head, other: Direction) -> Iterator[int]:
        for key, conditions in self.row(head):
            condition = conditions >> RowFlag.ROW_OTHER_SHIFT
            if self._predicate_holds(conditions & RowFlag.ROW_PREDICATE_MASK) and (
                not condition or self._condition_holds(other, condition)
            ):
                yield key & Key.MASK
                return

    def find_pair(self, src_class: int, dst_class: int) -> Head:
        """The row of a pair of classes; NO_ROW if it is not in the table."""
        value = pair_hash(src_class, dst_class)
        for half in (value & 0xFFFFFFFF, value >> 32):
            bucket = half & self.config.pair_bucket_mask
            for slot in range(Layout.BLOCK_ENTRIES):
                pair = self._entry((self.config.pair_blocks + bucket) * Layout.BLOCK_ENTRIES + slot)
                if pair[0] == src_class and pair[1] == dst_class:
                    return Head(pair[2], pair[3])
        return NO_ROW

    def _narrow_keys(self) -> Iterator[int]:
        src, dst = self.leaves
        if self.config.anywhere_used:
            yield from self._search_row(Head(self.config.anywhere.key, self.config.anywhere.condition), Direction.DST)
        if self.config.pairs_used and src.pair_class and dst.pair_class:
            yield from self._search_row(self.find_pair(src.pair_class, dst.pair_class), Direction.DST)
        if self.config.source_rows_used:
            yield from self._search_row(src.row, Direction.DST)
        if self.config.destination_rows_used:
            yield from self._search_row(dst.row, Direction.SRC)

    def _vector_word(self, word: int) -> int:
        width = self.config.vector_words
        bits = (1 << WORD_BITS) - 1
        for group, number in zip(self.config.groups, self.combined, strict=False):
            bits &= self.u64[group.wide + number * width + word]
        for table, leaf, set_class in zip(self.config.directions, self.leaves, self.set_classes, strict=True):
            if table.used:
                bits &= self.u64[table.wide + leaf.wide_class * width + word]
            if table.sets_used:
                bits &= self.set_u64[table.sets_wide + set_class * width + word]
        return bits

    def _wide_keys(self, first: int, words: int) -> Iterator[int]:
        """The keys of a vector's words that match, in order."""
        summary = self.config.summary_word
        for word in range(first, first + words):
            if summary and word < self.config.wide_words and not self._vector_word(summary) >> word & 1:
                continue
            bits = self._vector_word(word)
            while bits:
                lowest = (bits & -bits).bit_length() - 1
                yield self.u32[self.config.wide_rules + word * WORD_BITS + lowest]
                bits &= bits - 1
