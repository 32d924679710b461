# SPDX-License-Identifier: GPL-2.0-or-later
"""IR -> the lookup tables that bpf/classify.h reads.

ARCHITECTURE.md describes the structure; atoms.py, fields.py, addresses.py, grouping.py, rows.py, pairs.py and
trie.py are its parts. Here they are put together and laid into one run of blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from xdpfw.compiler import ir
from xdpfw.compiler.addresses import Active
from xdpfw.compiler.atoms import AddressCondition, Atom, Predicate, atoms
from xdpfw.compiler.fields import Fields, bit_matrix, bit_vectors, classify_fields
from xdpfw.compiler.grouping import AtomGroup, DirectionConditions, Grouping, group_atoms
from xdpfw.compiler.pairs import build_pairs
from xdpfw.compiler.rows import NO_ROW, Entry, Head, Row, RowTable, RowTooLongError
from xdpfw.compiler.settables import SetConditions, with_summary
from xdpfw.compiler.tables import Tables
from xdpfw.compiler.trie import add_trie, addresses_of
from xdpfw.errors import CapacityError
from xdpfw.kernel.abi import Direction, Field, Key, Layout, Limit, Mac, RowFlag, Value

_MAX_ATTEMPTS: Final = 16
"""So many times conditions are made wide to shorten rows; then the policy is refused."""

_ENTRY_BYTES: Final = Layout.BLOCK_BYTES // Layout.BLOCK_ENTRIES

_PLAIN: Final = {ir.ActionKind.PASS: Key.PASS, ir.ActionKind.DROP: Key.DROP}
"""Actions that are nothing but a verdict."""

Matrix = npt.NDArray[np.uint8]


Lookup = dict[str, Value]
"""The part of struct xdpfw_config that says where the tables are."""

LOOKUP_MEMBERS: Final = (
    "group_count",
    "unusual_fields",
    "predicate_words",
    "wide_words",
    "count_words",
    "vector_words",
    "summary_word",
    "wide_first",
    "wide_rules",
    "rows",
    "dispatch",
    "anywhere_used",
    "anywhere",
    "pair_blocks",
    "pair_bucket_mask",
    "pairs_used",
    "source_rows_used",
    "destination_rows_used",
    "fields",
    "macs",
    "mac_steps",
    "directions",
    "groups",
)
"""Its members."""

LOOKUP_STEPS: Final = 4
"""Steps that build_lookup() reports: atoms, groups, rows, tables. An attempt that fails goes back to the groups."""


def _words(bits: int) -> int:
    return -(-bits // Limit.WORD_BITS)


class _Builder:
    """One attempt: fails with RowTooLongError where another division of the rules is needed."""

    def __init__(self, policy_atoms: Sequence[Atom], keys: Sequence[int], grouping: Grouping) -> None:
        self.atoms = policy_atoms
        self.key_of = [keys[atom.rule] for atom in policy_atoms]
        self.grouping = grouping
        self.tables = Tables()
        numbers: dict[Predicate, int] = {}
        self.predicate_of = [numbers.setdefault(atom.predicate, len(numbers)) for atom in policy_atoms]
        self.predicates = list(numbers)
        self.fields: Fields = classify_fields(self.predicates)
        self.row_table = RowTable(self.predicates, self.fields.groups)

        wide = grouping.members(AtomGroup.WIDE)
        self.deciding = [i for i in wide if not policy_atoms[i].counts]
        self.counting = [i for i in wide if policy_atoms[i].counts]
        self.wide_words = _words(len(self.deciding))
        self.count_words = _words(len(self.counting))
        if self.count_words > Limit.MAX_COUNT_WORDS:
            raise CapacityError(
                f"{len(self.counting):,} rules that only count, exceptions included, are more than "
                f"{Limit.MAX_COUNT_WORDS * Limit.WORD_BITS:,}",
                hint="let rules that pass or drop do the counting: each has a counter of its own",
            )
        self.summary_words = self.wide_words if self.wide_words > 1 else 0
        self.vector_words = max(self.wide_words + self.count_words, 1) + bool(self.summary_words)
        # Bits of a vector: the rules that decide, padded to whole words, then the rules that count.
        padding: list[int | None] = [None] * (self.wide_words * Limit.WORD_BITS - len(self.deciding))
        self.vector: list[int | None] = [*self.deciding, *padding, *self.counting]
        # Conditions on the other address, in rows: those that the kernel finds a bit for.
        self.others: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.set_conditions: dict[AddressCondition, int] = {}
        for i in wide:
            for condition in (policy_atoms[i].src, policy_atoms[i].dst):
                if condition is not None and condition.sets:
                    self.set_conditions.setdefault(condition, len(self.set_conditions))

    # Rows

    @functools.cached_property
    def atoms_of_rule(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for number, atom in enumerate(self.atoms):
            found.setdefault(atom.rule, []).append(number)
        return found

    def _by_condition(self, group: AtomGroup, direction: Direction) -> dict[int, list[int]]:
        of_atom = self.grouping.directions[direction].of_atom
        found: dict[int, list[int]] = {}
        for i in self.grouping.members(group):
            number = of_atom[i]
            assert number is not None
            found.setdefault(number, []).append(i)
        return found

    def _condition(self, atom: int, direction: Direction) -> AddressCondition | None:
        return self.atoms[atom].src if direction is Direction.SRC else self.atoms[atom].dst

    def _entries(self, members: Sequence[int], other: Direction | None) -> list[Entry]:
        if len(members) == 1:
            return [self._entry(members[0], other)]
        return list(dict.fromkeys(self._entry(i, other) for i in sorted(members)))

    def _entry(self, atom: int, other: Direction | None) -> Entry:
        return Entry(self.key_of[atom], self.predicate_of[atom], 0 if other is None else self._other(atom, other))

    def _other(self, atom: int, other: Direction) -> int:
        """The condition on the other address as an entry has it."""
        condition = self._condition(atom, other)
        if condition is None:
            return 0
        if condition.sets:
            return RowFlag.ROW_OTHER_SET | self.set_conditions.setdefault(condition, len(self.set_conditions)) + 1
        number = self.grouping.directions[other].of_atom[atom]
        assert number is not None
        return self.others[other].setdefault(number, len(self.others[other])) + 1

    def _anywhere_row(self) -> Head:
        return self.row_table.head_for_all(self._entries(self.grouping.members(AtomGroup.ANYWHERE), None))

    def _row_of_set(self, group: AtomGroup, direction: Direction, other: Direction) -> dict[Active, Head]:
        """The row of the atoms that have a condition of a narrow set, for each such set in a direction that has any."""
        members = self._by_condition(group, direction)
        if not members:
            return {}
        space = self.grouping.directions[direction].space
        rows = {}
        for active in dict.fromkeys((*space.v4.narrow, *space.v6.narrow)):
            found = [i for condition in active for i in members.get(condition, ())]
            if found:
                rows[active] = self.row_table.head(self._entries(found, other))
        return rows

    # Pairs

    def _pair_classes(self, direction: Direction) -> dict[Active, int]:
        """Class of each narrow set in the group of pairs: 0 where none of its conditions is in that group."""
        used = frozenset(self._by_condition(AtomGroup.PAIRS, direction))
        if not used:
            return {}
        space = self.grouping.directions[direction].space
        class_of: dict[Active, int] = {frozenset(): 0}
        return {
            active: class_of.setdefault(active & used, len(class_of))
            for active in dict.fromkeys((*space.v4.narrow, *space.v6.narrow))
        }

    def _pairs(self, src_classes: dict[Active, int], dst_classes: dict[Active, int]) -> dict[tuple[int, int], Head]:
        def classes_with(classes: dict[Active, int]) -> dict[int, set[int]]:
            found: dict[int, set[int]] = {}
            for active, number in classes.items():
                for condition in active:
                    found.setdefault(condition, set()).add(number)
            return found

        src_with, dst_with = classes_with(src_classes), classes_with(dst_classes)
        src, dst = self.grouping.directions
        members: dict[tuple[int, int], list[int]] = {}
        for i in self.grouping.members(AtomGroup.PAIRS):
            src_number, dst_number = src.of_atom[i], dst.of_atom[i]
            assert src_number is not None
            assert dst_number is not None
            for s in src_with.get(src_number, ()):
                for d in dst_with.get(dst_number, ()):
                    members.setdefault((s, d), []).append(i)
        return {pair: self.row_table.head(self._entries(found, None)) for pair, found in members.items()}

    # Vectors

    def _predicate_vector(self, held: Matrix) -> Matrix:
        """Columns of predicates, shape (classes, predicates) -> columns of the vector's atoms."""
        return self._columns(held, [None if i is None else self.predicate_of[i] for i in self.vector])

    @staticmethod
    def _columns(held: Matrix, columns: Sequence[int | None]) -> Matrix:
        found = np.zeros((held.shape[0], len(columns)), dtype=np.uint8)
        present = [k for k, column in enumerate(columns) if column is not None]
        if present:
            found[:, present] = held[:, [column for column in columns if column is not None]]
        return found

    def _vectors(self, matrix: Matrix) -> npt.NDArray[np.uint64]:
        """As the tables have them: the words of rules, and their summary."""
        return with_summary(bit_vectors(matrix, self.vector_words - bool(self.summary_words)), self.summary_words)

    # Tables

    def _lay_steps(self, chain: Sequence[tuple[npt.NDArray[np.uint16] | None, int]]) -> int:
        """Combining tables of fields that are combined one after the other; returns the first step.

        ``chain``: each field's table, ``combined * class_count + class`` to combined (None: the class is it), and its
        class_count.
        """
        base = count = 0
        for number, (combine, class_count) in enumerate(reversed(chain)):
            combined = np.arange(class_count, dtype=np.uint32) if combine is None else combine.astype(np.uint32)
            base = self.tables.add(base + combined * np.uint32(count) if number else combined)
            count = class_count
        return base

    def _lay_fields(self) -> tuple[list[Value], list[Value], list[int]]:
        fields: list[Value] = [{} for _ in Field]
        macs: list[Value] = [{} for _ in range(Mac.COUNT * Mac.PARTS)]
        mac_steps = [0] * Mac.COUNT
        for table in self.fields.tables:
            fields[table.field] = {
                "used": 1,
                "classes": 0 if table.classes is None else self.tables.add(table.classes),
                "group": table.group,
            }
            if table.macs is None:
                continue
            mac = Mac.SRC if table.field is Field.SRC_MAC else Mac.DST
            mac_steps[mac] = self._lay_steps(list(zip(table.macs.combine, table.macs.class_counts, strict=True)))
            for part in range(Mac.PARTS):
                macs[mac * Mac.PARTS + part] = {"classes": self.tables.add(table.macs.parts[part])}
        return fields, macs, mac_steps

    def _lay_groups(self, predicate_words: int) -> list[Value]:
        laid: list[Value] = [{} for _ in range(Limit.MAX_GROUPS)]
        for number, group in enumerate(self.fields.groups):
            held = bit_matrix(group.predicates, len(self.predicates))
            chain = [(table.combine, table.class_count) for table in self.fields.tables if table.group == number]
            laid[number] = {
                "first_step": self._lay_steps(chain) if chain else 0,
                "predicates": self.tables.add(bit_vectors(held, predicate_words)),
                "wide": self.tables.add(self._vectors(self._predicate_vector(held))),
            }
        return laid

    def _lay_direction(self, direction: Direction, pair_classes: dict[Active, int], rows: dict[Active, Head]) -> Value:
        conditions = self.grouping.directions[direction]
        if not conditions.conditions:
            return {}
        space = conditions.space
        no_narrow: Active = frozenset()
        wide_class: dict[Active, int] = {}
        leaf_number: dict[tuple[int, int, int, int], int] = {}

        def leaf(narrow: Active, wide: Active) -> int:
            wide_number = wide_class.setdefault(wide, len(wide_class))
            words = (pair_classes.get(narrow, 0), wide_number, *rows.get(narrow, NO_ROW))
            return leaf_number.setdefault(words, len(leaf_number))

        no_address = leaf(no_narrow, space.no_address)
        roots = []
        for intervals in (space.v4, space.v6):
            known: dict[tuple[Active, Active], int] = {}
            leaves = np.empty(len(intervals.starts), dtype=np.uint32)
            for i, key in enumerate(zip(intervals.narrow, intervals.wide, strict=True)):
                if key not in known:
                    known[key] = leaf(*key)
                leaves[i] = known[key]
            roots.append(add_trie(self.tables, addresses_of(intervals.starts, intervals.bits), leaves))

        held = self._wide_matrix(wide_class, conditions)
        columns = [None if i is None else conditions.of_atom[i] for i in self.vector]
        vector = self._columns(held, columns)
        anywhere = [k for k, i in enumerate(self.vector) if i is not None and columns[k] is None]
        vector[:, anywhere] = 1
        others = list(self.others[direction])
        condition_words = max(_words(len(others)), 1)
        only_wide = all(words == (0, words[1], *NO_ROW) for words in leaf_number)
        table = np.array(list(leaf_number), dtype=np.uint32)
        if only_wide:
            assert [words[1] for words in leaf_number] == list(range(len(leaf_number)))
        return {
            "used": 1,
            "root_v4": roots[0],
            "root_v6": roots[1],
            "no_address_leaf": no_address,
            "leaves": 0 if only_wide else self.tables.add(table, _ENTRY_BYTES),
            "wide": self.tables.add(self._vectors(vector)),
            "conditions": self.tables.add(bit_vectors(held[:, others], condition_words)),
            "condition_words": condition_words,
        }

    @staticmethod
    def _wide_matrix(wide_class: dict[Active, int], conditions: DirectionConditions) -> Matrix:
        held = np.zeros((len(wide_class), len(conditions.conditions)), dtype=np.uint8)
        for active, number in wide_class.items():
            held[number, list(active)] = 1
        return held

    def build(self, step: Callable[[int], None]) -> Lookup:
        src_classes, dst_classes = (self._pair_classes(direction) for direction in Direction)
        pairs = self._pairs(src_classes, dst_classes)
        src_rows = self._row_of_set(AtomGroup.SOURCE, Direction.SRC, Direction.DST)
        dst_rows = self._row_of_set(AtomGroup.DESTINATION, Direction.DST, Direction.SRC)
        anywhere = self._anywhere_row()
        self.row_table.check_lengths()
        self._check_numbers()

        step(3)
        predicate_words = max(_words(len(self.predicates)), 1)
        fields, macs, mac_steps = self._lay_fields()
        groups = self._lay_groups(predicate_words)
        directions = [
            self._lay_direction(Direction.SRC, src_classes, src_rows),
            self._lay_direction(Direction.DST, dst_classes, dst_rows),
        ]
        keys = [0 if i is None else self.key_of[i] for i in self.vector] or [0]
        rows, dispatch = self.row_table.lay(self.tables)
        pair_table, bucket_mask = build_pairs(pairs)
        found: Lookup = {
            "group_count": len(self.fields.groups),
            "unusual_fields": int(any(table.field > Field.DETAIL for table in self.fields.tables)),
            "predicate_words": predicate_words,
            "wide_words": self.wide_words,
            "count_words": self.count_words,
            "vector_words": self.vector_words,
            "summary_word": self.vector_words - 1 if self.summary_words else 0,
            "wide_first": keys[0],
            "wide_rules": self.tables.add(np.array(keys, dtype=np.uint32)),
            "rows": rows,
            "dispatch": dispatch,
            "anywhere_used": int(anywhere != NO_ROW),
            "anywhere": {"key": anywhere[0], "condition": anywhere[1]},
            "pair_blocks": self.tables.add(pair_table, Layout.BLOCK_BYTES),
            "pair_bucket_mask": bucket_mask,
            "pairs_used": int(bool(pairs)),
            "source_rows_used": int(any(row != NO_ROW for row in src_rows.values())),
            "destination_rows_used": int(any(row != NO_ROW for row in dst_rows.values())),
            "fields": fields,
            "macs": macs,
            "mac_steps": mac_steps,
            "directions": directions,
            "groups": groups,
        }
        assert found.keys() == set(LOOKUP_MEMBERS)
        return found

    def _check_numbers(self) -> None:
        """Raises CapacityError where an entry of a row has no room for a number."""
        others = max(*map(len, self.others), len(self.set_conditions))
        for count, most, what in (
            (
                len(self.predicates),
                RowFlag.ROW_PREDICATE_MASK + 1,
                "distinct combinations of conditions besides addresses",
            ),
            (others, int(RowFlag.ROW_OTHER_MASK), "distinct conditions on wide addresses"),
        ):
            if count > most:
                raise CapacityError(
                    f"the rules have {count:,} {what}, more than {most:,}", hint="put ports or addresses into sets"
                )

    def _set_condition(self, atom: int, direction: Direction) -> int | None:
        condition = self._condition(atom, direction)
        return None if condition is None else self.set_conditions.get(condition)

    def wanted_sets(self) -> SetConditions:
        """What the tables of sets with files are made for."""
        conditions = [condition.sets for condition in self.set_conditions]
        columns = tuple(
            tuple(None if i is None else self._set_condition(i, direction) for i in self.vector)
            for direction in Direction
        )
        return SetConditions(
            tuple(each for each in conditions if each is not None),
            tuple(
                bool(conditions) and any(_names_sets(self._condition(i, direction)) for i in range(len(self.atoms)))
                for direction in Direction
            ),
            tuple(condition.none for condition in self.set_conditions),
            columns,
            self.vector_words,
            self.summary_words,
        )


def _names_sets(condition: AddressCondition | None) -> bool:
    return condition is not None and condition.sets is not None


def is_plain(rule: ir.Rule) -> bool:
    """True if there is nothing to the rule but its verdict."""
    return rule.action.kind in _PLAIN and not rule.log_sample and rule.limit is None and rule.add_to is None


def _key(policy: ir.Policy, number: int, knock_rules: int) -> int:
    """The key of a rule, as enum xdpfw_key has it."""
    rule = policy.rules[number]
    is_own = number >= knock_rules and is_plain(rule)
    return number << Key.SHIFT | (_PLAIN[rule.action.kind] if is_own else Key.LOOK_UP)


def _shared(row: Row, builder: _Builder) -> AddressCondition | None:
    """The narrow condition that most of a row's rules share; None for the row ANYWHERE, which share the lack of one."""
    tally: dict[AddressCondition, int] = {}
    for rule in {entry.key >> Key.SHIFT for entry in row}:
        for atom in builder.atoms_of_rule[rule]:
            for conditions in builder.grouping.directions:
                number = conditions.of_atom[atom]
                if number is not None and number not in conditions.wide:
                    condition = conditions.conditions[number]
                    tally[condition] = tally.get(condition, 0) + 1
    return max(tally, key=lambda condition: tally[condition]) if tally else None


def build_lookup(
    policy: ir.Policy, knock_rules: int, step: Callable[[int], None]
) -> tuple[Lookup, bytes, SetConditions]:
    """Where the tables are, the tables, and what is left to the tables of sets with files.

    ``knock_rules``: so many of the first rules are those of knocks. ``step`` is told how many of LOOKUP_STEPS are done.

    Raises CapacityError where the policy does not fit into the structure.
    """
    policy_atoms = atoms(policy)
    keys = [_key(policy, number, knock_rules) for number in range(len(policy.rules))]
    if len(keys) > Key.NONE >> Key.SHIFT:
        raise CapacityError(f"{len(keys):,} rules are more than {Key.NONE >> Key.SHIFT:,}")
    forced: set[AddressCondition | None] = set()
    for attempt in range(_MAX_ATTEMPTS + 1):
        step(1)
        grouping = group_atoms(policy_atoms, forced)
        step(2)
        builder = _Builder(policy_atoms, keys, grouping)
        try:
            lookup = builder.build(step)
        except RowTooLongError as error:
            if attempt == _MAX_ATTEMPTS:
                row = error.rows[0]
                rule = policy.rules[row[-1].key >> Key.SHIFT]
                raise CapacityError(
                    f'rule "{rule.name}" is one of {len(row):,} that differ in one address only',
                    rule.position,
                    hint="put the addresses into a set, or several rules into one",
                ) from None
            # Made wide, a condition takes its rules out of the row.
            forced.update(_shared(row, builder) for row in error.rows)
            continue
        if builder.tables.size_bytes > Limit.MAX_TABLE_BYTES:
            raise CapacityError(
                f"the tables need {builder.tables.size_bytes >> 20:,} MiB, more than {Limit.MAX_TABLE_BYTES >> 20:,}",
                hint="use fewer distinct port ranges, or rules with fewer overlapping networks",
            )
        return lookup, builder.tables.tobytes(), builder.wanted_sets()
    raise AssertionError("the last attempt returns or raises")
