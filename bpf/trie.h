/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Addresses -> leaves, by the trie of enum xdpfw_trie, which xdpfw/compiler/trie.py builds. */
#ifndef XDPFW_TRIE_H
#define XDPFW_TRIE_H

#include "packet.h"
#include "tables.h"

enum {
	KEY_BITS = 64,
	TRIE_BLOCK_WORDS = XDPFW_BLOCK_BYTES / sizeof(__u32),
};

/* A block of boundaries, each less 1, and the entries between them. */
struct trie_search {
	__u32 before[XDPFW_TRIE_BOUNDARIES];
	__u32 entry[XDPFW_TRIE_BOUNDARIES + 1];
	__u32 padding;
};

/* Half a block. */
struct trie_search_3 {
	__u32 before[XDPFW_TRIE_FEW_BOUNDARIES];
	__u32 entry[XDPFW_TRIE_FEW_BOUNDARIES + 1];
	__u32 padding;
};

/*
 * How many boundaries are not above the key, three and seven of them. Counted without a branch: which way would be a
 * guess. Written out, as clang unrolls no loop of that many inlined functions.
 */
#define IS_BEFORE(i) ((before[i] + negative) >> (KEY_BITS - 1))

static __always_inline __u64 rank_of_3(const __u32 *before, __u64 negative)
{
	return IS_BEFORE(0) + IS_BEFORE(1) + IS_BEFORE(2);
}

static __always_inline __u64 rank_of_7(const __u32 *before, __u64 negative)
{
	return rank_of_3(before, negative) + IS_BEFORE(3) + IS_BEFORE(4) + IS_BEFORE(5) + IS_BEFORE(6);
}

static __always_inline __u32 search_7(const struct policy *policy, enum table_map map, __u32 number, __u32 key)
{
	const struct trie_search *block = table_block(policy, map, number);
	__u64 negative = -(__u64)key, rank;

	if (!block)
		return 0;
	OPAQUE(negative);	/* or else clang makes branches of the comparisons */
	rank = rank_of_7(block->before, negative);
	OPAQUE(rank);
	return block->entry[rank & XDPFW_TRIE_BOUNDARIES];
}

static __always_inline __u32 search_3(const struct policy *policy, enum table_map map, __u32 number, __u32 key)
{
	const struct trie_search_3 *block = table_half_block(policy, map, number);
	__u64 negative = -(__u64)key, rank;

	if (!block)
		return 0;
	OPAQUE(negative);
	rank = rank_of_3(block->before, negative);
	OPAQUE(rank);
	return block->entry[rank & XDPFW_TRIE_FEW_BOUNDARIES];
}

/* The leaf of an address below the entry of its first ROOT_BITS. */
static __always_inline __u32 walk_trie(const struct policy *policy, enum table_map map, __u32 entry,
				       const struct address *a)
{
	__u64 half = a->high, key;
	__u32 kind, number;

	for (int i = 0; i < XDPFW_TRIE_MAX_STEPS; i++) {
		kind = entry >> XDPFW_TRIE_KIND_SHIFT;
		if (kind == XDPFW_TRIE_LEAF)
			break;
		number = entry & XDPFW_TRIE_NUMBER_MASK;
		key = half >> (entry >> XDPFW_TRIE_SHIFT_SHIFT & XDPFW_TRIE_SHIFT_MASK);
		if (kind == XDPFW_TRIE_SEARCH_3) {
			entry = search_3(policy, map, number, key);
		} else if (kind == XDPFW_TRIE_SEARCH) {
			entry = search_7(policy, map, number, key);
		} else if (kind == XDPFW_TRIE_NODE_16) {
			entry = table_32(policy, map, (__u64)number * TRIE_BLOCK_WORDS + (key & 15));
		} else if (kind == XDPFW_TRIE_NODE_256) {
			entry = table_32(policy, map, (__u64)number * TRIE_BLOCK_WORDS + (key & 255));
		} else {
			half = a->low;
			entry = table_32(policy, map, (__u64)number * TRIE_BLOCK_WORDS);
		}
	}
	return entry;	/* its top bits are 0: LEAF */
}

static __always_inline __u32 trie_leaf(const struct policy *policy, enum table_map map, __u32 root,
				       const struct address *a)
{
	__u32 first = a->high >> (KEY_BITS - XDPFW_ROOT_BITS);

	return walk_trie(policy, map, table_32(policy, map, root + first), a);
}

#endif
