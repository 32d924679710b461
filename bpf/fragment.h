/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What became of first fragments, which later ones follow: by source, destination, id and, in IPv4, protocol (RFC 791
 * section 3.2; RFC 8200 section 4.5). For 30 s from the first one on, and no longer, whatever comes meanwhile: so nobody
 * rides on another's datagram longer than that.
 *
 * A later fragment that begins before the first one ends does not follow: what it overlaps, rules have looked at.
 *
 * The table is made of buckets of four, found by a keyed hash. A newcomer takes the place of one whose time is over, then
 * of the oldest that was dropped, then, unless it was dropped itself, of the oldest: so a flood that the policy drops
 * drives out no datagram that it passes.
 */
#ifndef XDPFW_FRAGMENT_H
#define XDPFW_FRAGMENT_H

#include "clock.h"
#include "keyed.h"
#include "maps.h"
#include "packet.h"
#include "scratch.h"

enum {
	FRAGMENT_SLOTS = 4,
	FRAGMENT_CLAIMED = 1,	/* a tag that is no datagram's */
};

#define FRAGMENT_LIFE_NS (30ULL * 1000000000)
#define FRAGMENT_PASSED (1ULL << 63)

static __always_inline __u64 fragment_hash(const struct packet *p)
{
	const struct address *src = &p->address[XDPFW_DIRECTION_SRC], *dst = &p->address[XDPFW_DIRECTION_DST];
	__u64 family = p->family;

	/* IPv6 tells datagrams apart without it: behind a later fragment's header may be another than the first one's. */
	if (family == XDPFW_FAMILY_IPV4)
		family |= (__u64)p->value[XDPFW_FIELD_PROTO] << 8;
	return keyed_end(KEYED(0, src->high) + KEYED(1, src->low) + KEYED(2, dst->high) + KEYED(3, dst->low) +
			 KEYED(4, (__u64)p->fragment_id << 32 | family));
}

static __always_inline struct xdpfw_fragments *fragments_of(__u64 hash)
{
	__u32 bucket = hash & CONSTANT(fragment_mask);

	return bpf_map_lookup_elem(&fragments, &bucket);
}

static __always_inline __u64 fragment_tag(__u64 hash)
{
	return hash > FRAGMENT_CLAIMED ? hash : FRAGMENT_CLAIMED + 1;
}

static __always_inline __u64 read_once(const __u64 *word)
{
	return *(const volatile __u64 *)word;
}

/*
 * Whose later fragments follow. Those of packets that were banned or could not be parsed meet the same end by themselves;
 * those of SYNs that were answered with cookies meet the rules.
 */
static __always_inline bool is_followed(enum xdpfw_reason reason)
{
	return reason < XDPFW_REASON_INVALID_ETHERNET && reason != XDPFW_REASON_BAN &&
	       reason != XDPFW_REASON_PROTECT_SYN_COOKIE && reason != XDPFW_REASON_PROTECT_BAD_COOKIE;
}

/*
 * Another generation's rules have other numbers: of what it found, only that a datagram passes is gone on with, or else its
 * first half would have come for nothing.
 */
static __always_inline bool is_live(const struct xdpfw_fragment_slot *slot, __u64 now)
{
	return now < slot->until_ns && (slot->generation == CONSTANT(generation) || slot->verdict == XDPFW_VERDICT_PASS);
}

/* A global function. Returns 0. */
__attribute__((noinline)) int remember_first(const struct packet *p, __u32 verdict, __u32 reason, __u32 key)
{
	struct xdpfw_fragment_slot *slot;
	struct xdpfw_fragments *bucket;
	__u64 hash, tag, now, least = ~0ULL, rank, before = 0;
	__u32 best = 0;
	bool counts;

	if (!p || !is_followed(reason))
		return 0;
	hash = fragment_hash(p);
	tag = fragment_tag(hash);
	bucket = fragments_of(hash);
	if (!bucket)
		return 0;
	now = recent_boot_ns();
	for (__u32 i = 0; i < FRAGMENT_SLOTS; i++) {
		slot = &bucket->slots[i];
		counts = is_live(slot, now);
		rank = counts ? slot->until_ns : 0;
		if (counts && slot->verdict != XDPFW_VERDICT_DROP)
			rank |= FRAGMENT_PASSED;
		if (slot->tag == tag) {
			/* Another first fragment of it: what was passed stays so, and no longer; what was dropped may pass. */
			if (counts && (rank & FRAGMENT_PASSED || verdict == XDPFW_VERDICT_DROP)) {
				if (verdict != XDPFW_VERDICT_DROP && slot->edge < p->fragment_edge)
					slot->edge = p->fragment_edge;
				return 0;
			}
			rank = 0;
			least = ~0ULL;	/* or else an empty slot before it would do */
		}
		if (rank < least) {
			least = rank;
			best = i;
			before = slot->tag;
		}
		if (slot->tag == tag)
			break;
	}
	if (least & FRAGMENT_PASSED && verdict == XDPFW_VERDICT_DROP)
		return 0;
	slot = &bucket->slots[best & (FRAGMENT_SLOTS - 1)];
	/* One CPU at a time; who finds it claimed, or changed since, leaves it. */
	if (before == FRAGMENT_CLAIMED || __sync_val_compare_and_swap(&slot->tag, before, FRAGMENT_CLAIMED) != before)
		return 0;
	slot->until_ns = now + FRAGMENT_LIFE_NS;
	slot->generation = CONSTANT(generation);
	slot->key = key;
	slot->edge = p->fragment_edge;
	slot->reason = reason;
	slot->verdict = verdict;
	__sync_lock_test_and_set(&slot->tag, tag);
	return 0;
}

/* What became of a later fragment's first one, into scratch->followed. A global function. Returns 1, or 0: not known. */
__attribute__((noinline)) int follow_first(const struct packet *p)
{
	struct scratch *scratch = scratch_of_cpu();
	struct xdpfw_flow_counter *counter;
	const struct xdpfw_fragment_slot *slot;
	const struct xdpfw_fragments *bucket;
	__u64 hash, tag, now;
	__u32 zero = 0;

	if (!p || !scratch)
		return 0;
	hash = fragment_hash(p);
	tag = fragment_tag(hash);
	bucket = fragments_of(hash);
	counter = bpf_map_lookup_elem(&flow_counters, &zero);
	if (!bucket || !counter)
		return 0;
	now = recent_boot_ns();
	for (__u32 i = 0; i < FRAGMENT_SLOTS; i++) {
		slot = &bucket->slots[i];
		if (read_once(&slot->tag) != tag || !is_live(slot, now) || p->fragment_edge < slot->edge)
			continue;
		scratch->followed = (struct followed){
			.verdict = slot->verdict,
			.reason = slot->reason,
			.key = slot->generation == CONSTANT(generation) ? slot->key : XDPFW_KEY_NONE,
		};
		asm volatile("" : : : "memory");
		/* Whoever took the slot meanwhile has changed the tag first. */
		if (read_once(&slot->tag) != tag)
			break;
		counter->fragments_followed++;
		return 1;
	}
	counter->fragments_unknown++;
	return 0;
}

#endif
