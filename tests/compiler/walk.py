# SPDX-License-Identifier: GPL-2.0-or-later
"""bpf/classify.h in plain Python: what the program would find in a compiled image, read in the same way.

It holds the compiler against the reference without a kernel. Unlike the program it never reads behind the tables:
an index that the compiler should not have made raises IndexError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from xdpfw.compiler.image import MapImage
from xdpfw.compiler.ir import Family
from xdpfw.compiler.pairs import pair_hash
from xdpfw.kernel import abi
from xdpfw.kernel.abi import Absent, Detail, Direction, Field, Kind, Layout, Limit, Mac, RowReference, Trie
from xdpfw.packet.decode import Packet

WORD_BITS: Final = 64
ADDRESS_BITS: Final = 128
NODE_UNIT: Final = Layout.BLOCK_BYTES // 4
PROTO_ICMP: Final = 1


class Leaf(NamedTuple):
    pair_class: int
    row: int
    wide_class: int


class Found(NamedTuple):
    """``rule`` decides (None: no rule does); ``counted`` are the rules before it that only count, in order."""

    rule: int | None
    counted: tuple[int, ...]


def field_values(packet: Packet, interface: int | None) -> list[int]:
    """What bpf/parse.h would put into ``value``, but for the MAC addresses."""
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
        Field.SRC_MAC: (0, 0),
        Field.DST_MAC: (0, 0),
    }
    return [int(absent if value is None else value) for value, absent in (values[field] for field in Field)]


class Walk:
    """Looks packets up in one image."""

    def __init__(self, image: MapImage) -> None:
        self.config: Any = abi.unpack("config", image.config)
        assert self.config.table_bytes == len(image.tables)
        tables = memoryview(image.tables)
        self.u16, self.u32, self.u64 = tables.cast("H"), tables.cast("I"), tables.cast("Q")
        self.combined: list[int] = []
        self.leaves: list[Leaf] = []

    def classify(self, packet: Packet, interface: int | None = 0) -> Found:
        self.combined = self._combine_fields(packet, field_values(packet, interface))
        addresses = (packet.src, packet.dst)
        self.leaves = [self._leaf(direction, packet.family, addresses[direction]) for direction in Direction]
        candidates = [*self._narrow_rules(), *self._wide_rules(0, self.config.wide_words)]
        rule = min(candidates, default=None)
        counting = self._wide_rules(self.config.wide_words, self.config.count_words)
        return Found(rule, tuple(dict.fromkeys(number for number in counting if rule is None or number < rule)))

    def _entry(self, index: int) -> memoryview:
        entry = self.u32[index * 4 : index * 4 + 4]
        if len(entry) < 4:
            raise IndexError(index)
        return entry

    def _combine(self, table: Any, combined: int, value: int) -> int:
        number = self.u16[table.classes + value] if table.classes else value
        if not table.combine:
            return number
        assert number < table.class_count
        return self.u16[table.combine + combined * table.class_count + number]

    def _mac_class(self, mac: int, address: int) -> int:
        combined = 0
        for part in range(Mac.PARTS):
            word = address >> 16 * (Mac.PARTS - 1 - part) & 0xFFFF
            combined = self._combine(self.config.macs[mac * Mac.PARTS + part], combined, word)
        return combined

    def _combine_fields(self, packet: Packet, values: list[int]) -> list[int]:
        combined = [0] * self.config.group_count
        for field, mac, address in ((Field.SRC_MAC, Mac.SRC, packet.src_mac), (Field.DST_MAC, Mac.DST, packet.dst_mac)):
            if self.config.fields[field].used:
                values[field] = self._mac_class(mac, address)
        for field in Field:
            table = self.config.fields[field]
            if table.used:
                combined[table.group] = self._combine(table, combined[table.group], values[field])
        return combined

    def trie_leaf(self, direction: Direction, family: Family, address: int | None) -> int:
        """The number of the leaf of a host-order address; None for packets that have none."""
        table = self.config.directions[direction]
        if address is None:
            return int(table.no_address_leaf)
        is_v4 = family is Family.IPV4
        root, stride = (table.root_v4, table.stride_bits_v4) if is_v4 else (table.root_v6, table.stride_bits_v6)
        left = address << 96 if is_v4 else address
        bits, at = int(Layout.ROOT_BITS), root
        for _ in range(1 + (ADDRESS_BITS - Layout.ROOT_BITS) // Layout.MIN_STRIDE_BITS):
            entry = self.u32[at + (left >> ADDRESS_BITS - bits)]
            if entry & Trie.LEAF:
                return entry & Trie.NUMBER_MASK
            left = left << bits & (1 << ADDRESS_BITS) - 1
            bits, at = stride, entry * NODE_UNIT
        raise AssertionError("a trie of more levels than an address has")

    def _leaf(self, direction: Direction, family: Family, address: int | None) -> Leaf:
        table = self.config.directions[direction]
        if not table.used:
            return Leaf(0, 0, 0)
        number = self.trie_leaf(direction, family, address)
        return Leaf(*self._entry(table.leaves + number)[:3]) if table.leaves else Leaf(0, 0, number)

    def _predicate_holds(self, predicate: int) -> bool:
        word, bit = divmod(predicate, WORD_BITS)
        words = self.config.predicate_words
        assert word < words
        return all(
            self.u64[group.predicates + number * words + word] >> bit & 1
            for group, number in zip(self.config.groups, self.combined, strict=False)
        )

    def _condition_holds(self, direction: Direction, condition: int) -> bool:
        table = self.config.directions[direction]
        word, bit = divmod(condition, WORD_BITS)
        assert word < table.condition_words
        return bool(
            self.u64[table.conditions + self.leaves[direction].wide_class * table.condition_words + word] >> bit & 1
        )

    def row(self, reference: int) -> list[memoryview]:
        """The entries of struct xdpfw_row that a reference leads to."""
        if reference & RowReference.ROW_DISPATCH:
            group = reference >> RowReference.ROW_GROUP_SHIFT & RowReference.ROW_GROUP_MASK
            number = reference & RowReference.ROW_NUMBER_MASK
            reference = self.u32[self.config.dispatch + number + self.combined[group]]
            assert not reference & RowReference.ROW_DISPATCH
        if not reference:
            return []
        entries = []
        for i in range(Limit.MAX_ROW_ENTRIES):
            entries.append(self._entry(self.config.rows + reference - 1 + i))
            if entries[-1][3]:
                return entries
        raise AssertionError("a row that is longer than the program reads")

    def _search_row(self, reference: int, other: Direction) -> Iterator[int]:
        for rule, predicate, condition, _ in self.row(reference):
            if self._predicate_holds(predicate) and (not condition or self._condition_holds(other, condition - 1)):
                yield rule
                return

    def find_pair(self, src_class: int, dst_class: int) -> int:
        """The row reference of a pair of classes; 0 if it is not in the table."""
        value = pair_hash(src_class, dst_class)
        for half in (value & 0xFFFFFFFF, value >> 32):
            bucket = half & self.config.pair_bucket_mask
            for slot in range(Layout.BLOCK_ENTRIES):
                pair = self._entry(self.config.pairs + bucket * Layout.BLOCK_ENTRIES + slot)
                if pair[0] == src_class and pair[1] == dst_class:
                    return pair[2]
        return 0

    def _narrow_rules(self) -> Iterator[int]:
        src, dst = self.leaves
        yield from self._search_row(self.config.anywhere_row, Direction.DST)
        if self.config.pairs_used and src.pair_class and dst.pair_class:
            yield from self._search_row(self.find_pair(src.pair_class, dst.pair_class), Direction.DST)
        if self.config.source_rows_used:
            yield from self._search_row(src.row, Direction.DST)
        if self.config.destination_rows_used:
            yield from self._search_row(dst.row, Direction.SRC)

    def _wide_rules(self, first: int, words: int) -> Iterator[int]:
        """The rules of a vector's words that match, in order."""
        width = self.config.vector_words
        for word in range(first, first + words):
            bits = (1 << WORD_BITS) - 1
            for group, number in zip(self.config.groups, self.combined, strict=False):
                bits &= self.u64[group.wide + number * width + word]
            for table, leaf in zip(self.config.directions, self.leaves, strict=True):
                if table.used:
                    bits &= self.u64[table.wide + leaf.wide_class * width + word]
            while bits:
                lowest = (bits & -bits).bit_length() - 1
                yield self.u32[self.config.wide_rules + word * WORD_BITS + lowest]
                bits &= bits - 1
