/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Typed reads of the compiled policy, which is one large value. An index counts elements of the type from its
 * start. The bound is a constant to the verifier, so that a read is a comparison and a load; beyond the bound a
 * read gives 0. The compiler never makes such an index.
 */
#ifndef XDPFW_TABLES_H
#define XDPFW_TABLES_H

#include "constants.h"

/* Keeps clang from rewriting what the verifier follows only as it is written. */
#define OPAQUE(x) asm volatile("" : "+r"(x))

/* The maps full of tables: of the rules, and of sets with files. */
enum table_map {
	RULES,
	SETS,
	TABLE_MAP_COUNT,
};

/*
 * Leaves a number as it is, and the verifier with nothing known about it: of each way that led here it would remember
 * other bounds, and go on along each. unknown is a number of which it knows nothing.
 */
#define FORGET(number, unknown) asm volatile("%0 ^= %1\n\t%0 ^= %1" : "+r"(number) : "r"(unknown))

/* Where their values are; those of sets only if rules look at such. */
struct policy {
	const void *tables[TABLE_MAP_COUNT];
};

/*
 * Bounds are constants of their own, one an element's size: to divide the size of a map would take instructions at each
 * read.
 */
#define BOUND(map, member) ((map) == RULES ? CONSTANT_WIDE(bounds.member) : CONSTANT_WIDE(sets.bounds.member))

#define TABLE_READ(name, type, bound)								\
static __always_inline type table_##name(const struct policy *policy, enum table_map map, __u64 index)	\
{												\
	OPAQUE(index);										\
	if (index >= BOUND(map, bound))								\
		return 0;									\
	return ((const type *)policy->tables[map])[index];					\
}

TABLE_READ(16, __u16, u16s)
TABLE_READ(32, __u32, u32s)
TABLE_READ(64, __u64, u64s)

/* A pointer to an element, or NULL. */
#define TABLE_ELEMENT(name, bytes, bound)							\
static __always_inline const void *table_##name(const struct policy *policy, enum table_map map, __u64 index) \
{												\
	OPAQUE(index);										\
	if (index >= BOUND(map, bound))								\
		return NULL;									\
	return policy->tables[map] + index * (bytes);						\
}

TABLE_ELEMENT(row, sizeof(struct xdpfw_row), u64s)
TABLE_ELEMENT(entry, sizeof(struct xdpfw_entry), entries)
TABLE_ELEMENT(half_block, XDPFW_BLOCK_BYTES / 2, half_blocks)
TABLE_ELEMENT(block, XDPFW_BLOCK_BYTES, blocks)

/*
 * Index of the lowest bit that is set; bits is not 0. The ones below it are counted, without a branch: each would
 * double the verifier's work. (clang 16 does not come to an end over __builtin_ctzll() here.)
 */
static __always_inline __u32 lowest_bit(__u64 bits)
{
	__u64 below = (bits & -bits) - 1;

	OPAQUE(below);
	below -= below >> 1 & 0x5555555555555555ULL;
	below = (below & 0x3333333333333333ULL) + (below >> 2 & 0x3333333333333333ULL);
	below = (below + (below >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return below * 0x0101010101010101ULL >> 56;
}

#endif
