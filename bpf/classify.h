/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * struct packet -> rule. A pure function of the packet and the tables, whose cost does not grow with the number of
 * rules; ARCHITECTURE.md describes the structure, xdpfw/compiler/classifier.py builds it.
 *
 *   small fields ─► classes ─► one combined class a group ───────────────┐
 *   source      ─► trie ─► leaf: pair class, row, wide class ─┐          │
 *   destination ─► trie ─► leaf: pair class, row, wide class ─┤          │
 *   sets with files     ─► trie ─► set class ─────────────────┤          │
 *                                                             ▼          ▼
 *                              pair ► row, source row, destination row, wide vectors ─► lowest key of a rule
 */
#ifndef XDPFW_CLASSIFY_H
#define XDPFW_CLASSIFY_H

#include <bpf/bpf_endian.h>

#include "packet.h"
#include "tables.h"
#include "trie.h"

enum {
	WORD_BITS = XDPFW_WORD_BITS,
};

/* Fields that many policies look at; what is left of the others would have to be stepped over, one by one. */
enum {
	USUAL_FIELDS = XDPFW_FIELD_DETAIL + 1,
};

static __always_inline __u32 mac_class(const struct policy *policy, const struct packet *p, __u32 mac)
{
	__u32 step = CONSTANT(mac_steps[mac]), class;

#pragma unroll
	for (int i = 0; i < XDPFW_MAC_PARTS; i++) {
		class = table_16(policy, RULES, CONSTANT(macs[mac * XDPFW_MAC_PARTS + i].classes) +
				 bpf_ntohs(p->mac_be[mac][i]));
		step = table_32(policy, RULES, step + class);
	}
	return step;
}

static __always_inline __u32 next_step(const struct policy *policy, const struct packet *p, enum xdpfw_field field,
				       __u32 step)
{
	__u32 class = p->value[field];

	if (CONSTANT(fields[field].classes))
		class = table_16(policy, RULES, CONSTANT(fields[field].classes) + class);
	return table_32(policy, RULES, step + class);
}

/* Where there is one group, as in most policies: its steps stay in a register. */
static __always_inline void combine_to_one(const struct policy *policy, const struct packet *p, struct lookup *l)
{
	__u32 step = CONSTANT(groups[0].first_step);

#pragma unroll
	for (int i = 0; i < USUAL_FIELDS; i++)
		if (CONSTANT(fields[i].used))
			step = next_step(policy, p, i, step);
	if (CONSTANT(unusual_fields)) {
#pragma unroll
		for (int i = USUAL_FIELDS; i < XDPFW_FIELD_COUNT; i++)
			if (CONSTANT(fields[i].used))
				step = next_step(policy, p, i, step);
	}
	l->combined[0] = step;
}

static __always_inline void combine_to_groups(const struct policy *policy, const struct packet *p, struct lookup *l)
{
	__u32 group;

#pragma unroll
	for (int i = 0; i < XDPFW_MAX_GROUPS; i++)
		l->combined[i] = CONSTANT(groups[i].first_step);
#pragma unroll
	for (int i = 0; i < XDPFW_FIELD_COUNT; i++) {
		group = CONSTANT(fields[i].group) % XDPFW_MAX_GROUPS;
		if (CONSTANT(fields[i].used))
			l->combined[group] = next_step(policy, p, i, l->combined[group]);
	}
}

static __always_inline void combine_fields(const struct policy *policy, struct packet *p, struct lookup *l)
{
	if (CONSTANT(unusual_fields)) {
		if (CONSTANT(fields[XDPFW_FIELD_SRC_MAC].used))
			p->value[XDPFW_FIELD_SRC_MAC] = mac_class(policy, p, XDPFW_MAC_SRC);
		if (CONSTANT(fields[XDPFW_FIELD_DST_MAC].used))
			p->value[XDPFW_FIELD_DST_MAC] = mac_class(policy, p, XDPFW_MAC_DST);
	}
	if (CONSTANT(group_count) == 1)
		combine_to_one(policy, p, l);
	else
		combine_to_groups(policy, p, l);
}

/* The class of sets with files, of which both directions share a trie. */
static __always_inline void find_set_class(const struct policy *policy, const struct packet *p, struct lookup *l,
					   enum xdpfw_direction direction)
{
	__u32 root;

	if (!CONSTANT(directions[direction].sets_used))
		return;
	if (p->family == XDPFW_FAMILY_OTHER) {
		l->set_class[direction] = CONSTANT(sets.no_address_class);
		return;
	}
	root = p->family == XDPFW_FAMILY_IPV4 ? CONSTANT(sets.root_v4) : CONSTANT(sets.root_v6);
	l->set_class[direction] = trie_leaf(policy, SETS, root, &p->address[direction]);
}

static __always_inline void find_leaf(const struct policy *policy, const struct packet *p, struct lookup *l,
				      enum xdpfw_direction direction)
{
	const struct xdpfw_leaf *found;
	__u32 root, leaf;

	if (!CONSTANT(directions[direction].used))
		return;
	if (p->family == XDPFW_FAMILY_OTHER) {
		leaf = CONSTANT(directions[direction].no_address_leaf);
	} else {
		root = p->family == XDPFW_FAMILY_IPV4 ? CONSTANT(directions[direction].root_v4) :
							CONSTANT(directions[direction].root_v6);
		leaf = trie_leaf(policy, RULES, root, &p->address[direction]);
	}
	if (!CONSTANT(directions[direction].leaves)) {
		l->wide_class[direction] = leaf;
		return;
	}
	found = table_entry(policy, RULES, CONSTANT(directions[direction].leaves) + leaf);
	if (!found)
		return;
	l->pair_class[direction] = found->pair_class;
	l->wide_class[direction] = found->wide_class;
	l->row_key[direction] = found->row.key;
	l->row_condition[direction] = found->row.condition;
}

static __always_inline bool predicate_holds(const struct policy *policy, const struct lookup *l, __u32 predicate)
{
	__u32 words = CONSTANT(predicate_words), word = predicate / WORD_BITS;
	__u64 bits = table_64(policy, RULES, CONSTANT(groups[0].predicates) + l->combined[0] * words + word);

	/* Asked here as well: what is left of each round would have to be stepped over. */
	if (CONSTANT(group_count) > 1) {
#pragma unroll
		for (__u32 i = 1; i < XDPFW_MAX_GROUPS; i++)
			if (i < CONSTANT(group_count))
				bits &= table_64(policy, RULES, CONSTANT(groups[i].predicates) +
						 l->combined[i] * words + word);
	}
	return bits >> (predicate % WORD_BITS) & 1;
}

static __always_inline bool condition_holds(const struct policy *policy, const struct lookup *l,
					    enum xdpfw_direction direction, __u32 condition)
{
	__u32 number = (condition & XDPFW_ROW_OTHER_MASK) - 1, word = number / WORD_BITS;
	__u64 bits;

	if (CONSTANT(sets.bytes) && condition & XDPFW_ROW_OTHER_SET)
		bits = table_64(policy, SETS, CONSTANT(sets.conditions) +
				l->set_class[direction] * CONSTANT(sets.condition_words) + word);
	else
		bits = table_64(policy, RULES, CONSTANT(directions[direction].conditions) +
				l->wide_class[direction] * CONSTANT(directions[direction].condition_words) + word);
	return bits >> (number % WORD_BITS) & 1;
}

/* Conditions in an entry are on the addresses of direction other. */
static __always_inline bool entry_holds(const struct policy *policy, const struct lookup *l, __u32 conditions,
					enum xdpfw_direction other)
{
	__u32 condition = conditions >> XDPFW_ROW_OTHER_SHIFT;

	return predicate_holds(policy, l, conditions & XDPFW_ROW_PREDICATE_MASK) &&
	       (!condition || condition_holds(policy, l, other, condition));
}

static __always_inline __u32 search_list(const struct policy *policy, const struct lookup *l, __u32 reference,
					 enum xdpfw_direction other, __u32 best)
{
	const struct xdpfw_row *entry;
	__u32 key;

	for (int i = 0; i < XDPFW_MAX_ROW_ENTRIES; i++) {
		entry = table_row(policy, RULES, CONSTANT(rows) + reference + i);
		if (!entry)
			return best;
		key = entry->key & XDPFW_KEY_MASK;
		if (key >= best)
			return best;
		if (entry_holds(policy, l, entry->condition, other))
			return key;
		if (entry->key & XDPFW_ROW_LAST)
			return best;
	}
	return best;
}

/*
 * The key of the first rule of a row that matches, or best if that is lower; key and condition as in struct xdpfw_row.
 */
static __always_inline __u32 search_row(const struct policy *policy, const struct lookup *l, __u32 key, __u32 condition,
					enum xdpfw_direction other, __u32 best)
{
	const struct xdpfw_row *left;
	__u32 group = 0;

	if ((key & XDPFW_KEY_MASK) >= best)
		return best;
	if (key & XDPFW_ROW_DISPATCH) {
		if (CONSTANT(group_count) > 1)
			group = condition >> XDPFW_ROW_GROUP_SHIFT & (XDPFW_MAX_GROUPS - 1);
		left = table_row(policy, RULES, CONSTANT(dispatch) + (condition & XDPFW_ROW_REFERENCE_MASK) +
				 l->combined[group]);
		if (!left)
			return best;
		key = left->key;
		condition = left->condition;
		if ((key & XDPFW_KEY_MASK) >= best)
			return best;
	}
	if (key & XDPFW_ROW_LIST)
		return search_list(policy, l, condition & XDPFW_ROW_REFERENCE_MASK, other, best);
	return entry_holds(policy, l, condition, other) ? key & XDPFW_KEY_MASK : best;
}

/* Mixed twice: one multiplication would leave the low bits to the destination alone. */
static __always_inline __u64 pair_hash(__u32 src_class, __u32 dst_class)
{
	__u64 hash = ((__u64)src_class << 32 | dst_class) * 0x9e3779b97f4a7c15ULL;

	hash ^= hash >> 32;
	hash *= 0xd6e8feb86659fd93ULL;
	return hash ^ hash >> 32;
}

/* The slot of a bucket that has these classes, or NULL. */
static __always_inline const struct xdpfw_pair *search_bucket(const struct policy *policy, __u32 bucket,
							      __u32 src_class, __u32 dst_class)
{
	const struct xdpfw_pair *pair;

	pair = table_block(policy, RULES, CONSTANT(pair_blocks) + bucket);
	if (!pair)
		return NULL;
#pragma unroll
	for (int i = 0; i < XDPFW_BLOCK_ENTRIES; i++)
		if (pair[i].src_class == src_class && pair[i].dst_class == dst_class)
			return &pair[i];
	return NULL;
}

static __always_inline __u32 search_pairs(const struct policy *policy, const struct lookup *l, __u32 best)
{
	__u32 src_class = l->pair_class[XDPFW_DIRECTION_SRC], dst_class = l->pair_class[XDPFW_DIRECTION_DST];
	__u32 mask = CONSTANT(pair_bucket_mask);
	const struct xdpfw_pair *pair;
	__u64 hash;

	if (!src_class || !dst_class)
		return best;
	hash = pair_hash(src_class, dst_class);
	pair = search_bucket(policy, (__u32)hash & mask, src_class, dst_class);
	if (!pair)
		pair = search_bucket(policy, (__u32)(hash >> 32) & mask, src_class, dst_class);
	if (!pair)
		return best;
	return search_row(policy, l, pair->row.key, pair->row.condition, XDPFW_DIRECTION_DST, best);
}

/* One word of the vector of those rules in the wide group that match. */
static __always_inline __u64 wide_matches(const struct policy *policy, const struct lookup *l, __u32 word)
{
	__u32 words = CONSTANT(vector_words);
	__u64 bits = table_64(policy, RULES, CONSTANT(groups[0].wide) + l->combined[0] * words + word);

	if (CONSTANT(group_count) > 1) {
#pragma unroll
		for (__u32 i = 1; i < XDPFW_MAX_GROUPS; i++)
			if (i < CONSTANT(group_count))
				bits &= table_64(policy, RULES, CONSTANT(groups[i].wide) +
						 l->combined[i] * words + word);
	}
#pragma unroll
	for (int i = 0; i < XDPFW_DIRECTION_COUNT; i++) {
		if (CONSTANT(directions[i].used))
			bits &= table_64(policy, RULES, CONSTANT(directions[i].wide) +
					 l->wide_class[i] * words + word);
		if (CONSTANT(directions[i].sets_used))
			bits &= table_64(policy, SETS, CONSTANT(directions[i].sets_wide) +
					 l->set_class[i] * words + word);
	}
	return bits;
}

static __always_inline __u32 wide_key(const struct policy *policy, __u32 word, __u64 bits)
{
	return table_32(policy, RULES, CONSTANT(wide_rules) + word * WORD_BITS + lowest_bit(bits));
}

static __always_inline __u32 search_wide(const struct policy *policy, const struct lookup *l, __u32 best)
{
	__u64 words, bits;
	__u32 word, key;

	if (CONSTANT(wide_first) >= best)
		return best;
	if (!CONSTANT(summary_word)) {
		bits = wide_matches(policy, l, 0);
		if (!bits)
			return best;
		key = wide_key(policy, 0, bits);
		return key < best ? key : best;
	}
	words = wide_matches(policy, l, CONSTANT(summary_word));
	for (int i = 0; i < XDPFW_MAX_WIDE_WORDS && words; i++, words &= words - 1) {
		word = lowest_bit(words);
		bits = wide_matches(policy, l, word);
		if (bits) {
			key = wide_key(policy, word, bits);
			return key < best ? key : best;
		}
	}
	return best;
}

/* What the addresses say. */
static __always_inline void find_addresses(const struct policy *policy, const struct packet *p, struct lookup *l)
{
#pragma unroll
	for (int i = 0; i < XDPFW_DIRECTION_COUNT; i++) {
		find_leaf(policy, p, l, i);
		find_set_class(policy, p, l, i);
	}
}

/* Behind combine_fields() and find_addresses(): the key of the first rule that matches and decides, or KEY_NONE. */
static __always_inline __u32 find_rule(const struct policy *policy, const struct lookup *l)
{
	__u64 best = XDPFW_KEY_NONE, unknown = l->combined[0];

	if (CONSTANT(pairs_used)) {
		best = search_pairs(policy, l, best);
		FORGET(best, unknown);
	}
	if (CONSTANT(source_rows_used)) {
		best = search_row(policy, l, l->row_key[XDPFW_DIRECTION_SRC], l->row_condition[XDPFW_DIRECTION_SRC],
				  XDPFW_DIRECTION_DST, best);
		FORGET(best, unknown);
	}
	if (CONSTANT(destination_rows_used)) {
		best = search_row(policy, l, l->row_key[XDPFW_DIRECTION_DST], l->row_condition[XDPFW_DIRECTION_DST],
				  XDPFW_DIRECTION_SRC, best);
		FORGET(best, unknown);
	}
	if (CONSTANT(anywhere_used)) {
		best = search_row(policy, l, CONSTANT(anywhere.key), CONSTANT(anywhere.condition), XDPFW_DIRECTION_DST,
				  best);
		FORGET(best, unknown);
	}
	if (CONSTANT(wide_words)) {
		best = search_wide(policy, l, best);
		FORGET(best, unknown);
	}
	return best;
}

#endif
