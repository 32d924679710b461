/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * struct packet -> rule. A pure function of the packet and the tables, whose cost does not grow with the number of
 * rules; ARCHITECTURE.md describes the structure, xdpfw/compiler/classifier.py builds it.
 *
 *   small fields ─► classes ─► one combined class a group ───────────────┐
 *   source      ─► trie ─► leaf: pair class, row, wide class ─┐          │
 *   destination ─► trie ─► leaf: pair class, row, wide class ─┤          │
 *                                                             ▼          ▼
 *                         pair ► row, source row, destination row, wide vectors ─► lowest rule number
 */
#ifndef XDPFW_CLASSIFY_H
#define XDPFW_CLASSIFY_H

#include <bpf/bpf_endian.h>

#include "packet.h"
#include "tables.h"

#define NO_RULE 0xffffffffU

enum {
	ADDRESS_BITS = 128,
	WORD_BITS = XDPFW_WORD_BITS,
	TRIE_LEVELS = (ADDRESS_BITS - XDPFW_ROOT_BITS) / XDPFW_MIN_STRIDE_BITS,
	TRIE_NODE_UNIT = XDPFW_BLOCK_BYTES / sizeof(__u32),
};

/* All that the packet's own fields say, before any rule is looked at. What the policy does not use stays unset. */
struct lookup {
	__u32 combined[XDPFW_MAX_GROUPS];
	struct xdpfw_leaf leaf[XDPFW_DIRECTION_COUNT];
};

static __always_inline __u32 combine(const struct policy *policy, const struct xdpfw_field_table *field,
				     __u32 combined, __u32 value)
{
	__u32 class = value;

	/* Base 0 stands for the identity: fields with few values need no classes, the first of a group no combining. */
	if (field->classes)
		class = table_16(policy, field->classes + value);
	if (!field->combine)
		return class;
	return table_16(policy, field->combine + combined * field->class_count + class);
}

static __always_inline __u32 mac_class(const struct policy *policy, const struct packet *p, __u32 mac)
{
	__u32 combined = 0;

	for (int i = 0; i < XDPFW_MAC_PARTS; i++)
		combined = combine(policy, &policy->config->macs[mac * XDPFW_MAC_PARTS + i], combined,
				   bpf_ntohs(p->mac_be[mac][i]));
	return combined;
}

static __always_inline void combine_fields(const struct policy *policy, struct packet *p, struct lookup *l)
{
	const struct xdpfw_config *config = policy->config;
	__u32 combined = 0;

	if (config->fields[XDPFW_FIELD_SRC_MAC].used)
		p->value[XDPFW_FIELD_SRC_MAC] = mac_class(policy, p, XDPFW_MAC_SRC);
	if (config->fields[XDPFW_FIELD_DST_MAC].used)
		p->value[XDPFW_FIELD_DST_MAC] = mac_class(policy, p, XDPFW_MAC_DST);
	if (config->group_count > 1)
		__builtin_memset(l->combined, 0, sizeof(l->combined));
#pragma unroll
	for (int i = 0; i < XDPFW_FIELD_COUNT; i++) {
		const struct xdpfw_field_table *field = &config->fields[i];
		__u32 group = field->group % XDPFW_MAX_GROUPS;

		if (!field->used)
			continue;
		if (config->group_count == 1)
			combined = combine(policy, field, combined, p->value[i]);
		else
			l->combined[group] = combine(policy, field, l->combined[group], p->value[i]);
	}
	if (config->group_count == 1)
		l->combined[0] = combined;
}

static __always_inline __u32 trie_leaf(const struct policy *policy, const struct xdpfw_direction_table *table,
				       const struct packet *p, struct address a)
{
	__u32 root = table->root_v6, bits = table->stride_bits_v6, entry;

	if (p->family == XDPFW_FAMILY_OTHER)
		return table->no_address_leaf;
	if (p->family == XDPFW_FAMILY_IPV4) {
		root = table->root_v4;
		bits = table->stride_bits_v4;
	}
	entry = table_32(policy, root + (__u32)(a.high >> (WORD_BITS - XDPFW_ROOT_BITS)));
	a.high = a.high << XDPFW_ROOT_BITS | a.low >> (WORD_BITS - XDPFW_ROOT_BITS);
	a.low <<= XDPFW_ROOT_BITS;
	for (int i = 0; i < TRIE_LEVELS && !(entry & XDPFW_TRIE_LEAF); i++) {
		entry = table_32(policy, entry * TRIE_NODE_UNIT + (__u32)(a.high >> (WORD_BITS - bits)));
		a.high = a.high << bits | a.low >> (WORD_BITS - bits);
		a.low <<= bits;
	}
	return entry & XDPFW_TRIE_NUMBER_MASK;
}

static __always_inline void find_leaf(const struct policy *policy, const struct packet *p, struct lookup *l,
				      enum xdpfw_direction direction)
{
	const struct xdpfw_direction_table *table = &policy->config->directions[direction];
	const struct xdpfw_entry *entry;
	__u32 leaf;

	if (!table->used)
		return;
	leaf = trie_leaf(policy, table, p, p->address[direction]);
	if (!table->leaves) {
		l->leaf[direction] = (struct xdpfw_leaf){ .wide_class = leaf };
		return;
	}
	entry = table_entry(policy, table->leaves + leaf);
	if (entry)
		__builtin_memcpy(&l->leaf[direction], entry, sizeof(*entry));
	else
		l->leaf[direction] = (struct xdpfw_leaf){};
}

static __always_inline bool predicate_holds(const struct policy *policy, const struct lookup *l, __u32 predicate)
{
	const struct xdpfw_config *config = policy->config;
	__u32 words = config->predicate_words, word = predicate / WORD_BITS;
	__u64 bits = table_64(policy, config->groups[0].predicates + l->combined[0] * words + word);

#pragma unroll
	for (__u32 i = 1; i < XDPFW_MAX_GROUPS; i++)
		if (i < config->group_count)
			bits &= table_64(policy, config->groups[i].predicates + l->combined[i] * words + word);
	return bits >> (predicate % WORD_BITS) & 1;
}

static __always_inline bool condition_holds(const struct policy *policy, const struct lookup *l,
					    enum xdpfw_direction direction, __u32 condition)
{
	const struct xdpfw_direction_table *table = &policy->config->directions[direction];
	__u32 first = l->leaf[direction].wide_class * table->condition_words;

	return table_64(policy, table->conditions + first + condition / WORD_BITS) >> (condition % WORD_BITS) & 1;
}

/*
 * The first rule of a row that matches, or best if that is lower. Wide conditions in the row are on the addresses
 * of direction other.
 */
static __always_inline __u32 search_row(const struct policy *policy, const struct lookup *l, __u32 row,
					enum xdpfw_direction other, __u32 best)
{
	const struct xdpfw_config *config = policy->config;
	const struct xdpfw_row *entry;

	if (row & XDPFW_ROW_DISPATCH) {
		__u32 group = config->group_count > 1 ? row >> XDPFW_ROW_GROUP_SHIFT & XDPFW_ROW_GROUP_MASK : 0;

		row = table_32(policy, config->dispatch + (row & XDPFW_ROW_NUMBER_MASK) + l->combined[group]);
	}
	if (!row)
		return best;
	for (int i = 0; i < XDPFW_MAX_ROW_ENTRIES; i++) {
		entry = (const struct xdpfw_row *)table_entry(policy, config->rows + row - 1 + i);
		if (!entry || entry->rule >= best)
			return best;
		if (predicate_holds(policy, l, entry->predicate) &&
		    (!entry->other || condition_holds(policy, l, other, entry->other - 1)))
			return entry->rule;
		if (entry->last)
			return best;
	}
	return best;
}

/* Mixed twice: one multiplication would leave the low bits to the destination alone. */
static __always_inline __u64 pair_hash(__u32 src_class, __u32 dst_class)
{
	__u64 hash = ((__u64)src_class << 32 | dst_class) * 0x9e3779b97f4a7c15ULL;

	hash ^= hash >> 32;
	hash *= 0xd6e8feb86659fd93ULL;
	return hash ^ hash >> 32;
}

static __always_inline __u32 search_bucket(const struct policy *policy, __u32 bucket, __u32 src_class,
					   __u32 dst_class)
{
	__u32 first = policy->config->pairs + bucket * XDPFW_BLOCK_ENTRIES;
	const struct xdpfw_pair *pair;

#pragma unroll
	for (int i = 0; i < XDPFW_BLOCK_ENTRIES; i++) {
		pair = (const struct xdpfw_pair *)table_entry(policy, first + i);
		if (pair && pair->src_class == src_class && pair->dst_class == dst_class)
			return pair->row;
	}
	return 0;
}

static __always_inline __u32 find_pair(const struct policy *policy, const struct lookup *l)
{
	__u32 src_class = l->leaf[XDPFW_DIRECTION_SRC].pair_class;
	__u32 dst_class = l->leaf[XDPFW_DIRECTION_DST].pair_class;
	__u64 hash;
	__u32 row;

	if (!src_class || !dst_class)
		return 0;
	hash = pair_hash(src_class, dst_class);
	row = search_bucket(policy, (__u32)hash & policy->config->pair_bucket_mask, src_class, dst_class);
	if (row)
		return row;
	return search_bucket(policy, (__u32)(hash >> 32) & policy->config->pair_bucket_mask, src_class, dst_class);
}

/* One word of the vector of those rules in the wide group that match. */
static __always_inline __u64 wide_matches(const struct policy *policy, const struct lookup *l, __u32 word)
{
	const struct xdpfw_config *config = policy->config;
	__u32 words = config->vector_words;
	__u64 bits = table_64(policy, config->groups[0].wide + l->combined[0] * words + word);

#pragma unroll
	for (__u32 i = 1; i < XDPFW_MAX_GROUPS; i++)
		if (i < config->group_count)
			bits &= table_64(policy, config->groups[i].wide + l->combined[i] * words + word);
#pragma unroll
	for (int i = 0; i < XDPFW_DIRECTION_COUNT; i++)
		if (config->directions[i].used)
			bits &= table_64(policy, config->directions[i].wide + l->leaf[i].wide_class * words + word);
	return bits;
}

static __always_inline __u32 search_wide(const struct policy *policy, const struct lookup *l, __u32 best)
{
	for (__u32 word = 0; word < XDPFW_MAX_WIDE_WORDS; word++) {
		__u64 bits;
		__u32 rule;

		if (word >= policy->config->wide_words)
			break;
		bits = wide_matches(policy, l, word);
		if (bits) {
			rule = table_32(policy, policy->config->wide_rules + word * WORD_BITS + lowest_bit(bits));
			return rule < best ? rule : best;
		}
	}
	return best;
}

/* Looks the packet up; returns the first rule that matches and decides, or NO_RULE. */
static __always_inline __u32 classify(const struct policy *policy, struct packet *p, struct lookup *l)
{
	const struct xdpfw_config *config = policy->config;
	__u32 best = NO_RULE;

	combine_fields(policy, p, l);
	if (config->stop_after == XDPFW_STAGE_FIELDS)
		return best;
	find_leaf(policy, p, l, XDPFW_DIRECTION_SRC);
	find_leaf(policy, p, l, XDPFW_DIRECTION_DST);
	if (config->stop_after == XDPFW_STAGE_ADDRESSES)
		return best;
	if (config->anywhere_row)
		best = search_row(policy, l, config->anywhere_row, XDPFW_DIRECTION_DST, best);
	if (config->pairs_used)
		best = search_row(policy, l, find_pair(policy, l), XDPFW_DIRECTION_DST, best);
	if (config->source_rows_used)
		best = search_row(policy, l, l->leaf[XDPFW_DIRECTION_SRC].row, XDPFW_DIRECTION_DST, best);
	if (config->destination_rows_used)
		best = search_row(policy, l, l->leaf[XDPFW_DIRECTION_DST].row, XDPFW_DIRECTION_SRC, best);
	return search_wide(policy, l, best);
}

#endif
