/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Limits: token buckets, each one number: when it is full again (GCRA). What a bucket owes is the time until then. A packet
 * is within the limit if that time and what the packet takes up are not more than a whole burst does:
 *
 *   max(full_at, now) + cost - now <= depth
 *
 * Times are whole units of 2^-LIMIT_FRACTION_BITS ns, and what a frame of bytes takes up is rounded down to them: of 60
 * bytes at 100 Gbit/s, that is 1,228.8 units. The clock goes round after 834 days: what a bucket seems to owe beyond its
 * depth is nothing, as it is an old one.
 *
 * A number is moved on by compare and swap, so that no two CPUs give the same tokens away. Who loses LIMIT_TRIES times in
 * a row, each time to another packet that was within the limit, takes the tokens all the same, unasked: what it takes is
 * owed, so that no more packets pass in the long run, and at one moment as many too many as there are other CPUs.
 *
 * The clock costs more than all the rest. A limit whose burst takes a hundred ticks or more (by_tick) is asked first with the
 * time as it was a tick ago at most; what is not within it then is asked again with the present time. So such a burst may
 * be longer by a tick, less than 1 % of it; the rate is the same.
 *
 * Buckets of sources and flows lie in the map "limit_buckets", eight together, found by a keyed hash. A newcomer takes the
 * place of one that is full, which is no loss. Where all eight owe something, it takes the place of the one of its own
 * limit that owes least, and *goes on with what that one owes*: so eight places never give more than eight times the
 * rate, whatever addresses a flood makes up. Where there is none of its own limit, it takes the place of the one of another
 * that owes least, and owes a whole burst: nobody gets tokens back by having its bucket driven out by another limit's.
 */
#ifndef XDPFW_LIMIT_H
#define XDPFW_LIMIT_H

#include "clock.h"
#include "keyed.h"
#include "maps.h"
#include "packet.h"
#include "scratch.h"

enum {
	LIMIT_TRIES = 4,
	LIMIT_CLAIMS = 2,
	LIMIT_PORT_BITS = 17,		/* NO_PORT has the uppermost */
	LIMIT_PROTO_BITS = 9,		/* likewise, NO_PROTO */
	LIMIT_NO_SLOT = XDPFW_BUCKET_SLOTS,	/* beside the numbers of a bucket's slots */
};

#define LIMIT_DEEPEST (1ULL << XDPFW_LIMIT_DEPTH_BITS)
/* So far another CPU's clock may be ahead, or this one may have stood still since it looked: an hour. */
#define LIMIT_SKEW ((3600ULL * 1000000000) << XDPFW_LIMIT_FRACTION_BITS)
#define LIMIT_TICK ((__u64)LONGEST_TICK_NS << XDPFW_LIMIT_FRACTION_BITS)
#define LIMIT_MARK_MASK ((1ULL << XDPFW_LIMIT_MARK_BITS) - 1)
#define LIMIT_FOREIGN (1ULL << 63)

/* What a bucket owes, in units; depth: the most that it can. */
static __always_inline __u64 owed(__u64 full_at, __u64 now, __u64 depth)
{
	__u64 rest = full_at - now;

	return rest <= depth + LIMIT_SKEW ? rest : 0;
}

/* now: as limit_now() has it. Returns 1 if the tokens were there, and are taken. */
static __always_inline int take(struct xdpfw_limit_slot *slot, const struct xdpfw_rate *rate, __u64 now, __u64 cost)
{
	__u64 full_at = *(volatile __u64 *)&slot->full_at, debt, found;
	bool is_recent = rate->by_tick;

	for (int i = 0; i < LIMIT_TRIES; i++) {
		debt = owed(full_at, now, rate->depth);
		if (is_recent && debt + cost > rate->depth && debt + cost <= rate->depth + LIMIT_TICK) {
			is_recent = false;
			now = boot_ns() << XDPFW_LIMIT_FRACTION_BITS;
			debt = owed(full_at, now, rate->depth);
		}
		if (debt + cost > rate->depth)
			return 0;
		found = __sync_val_compare_and_swap(&slot->full_at, full_at, now + debt + cost);
		if (found == full_at)
			return 1;
		full_at = found;
	}
	__sync_fetch_and_add(&slot->full_at, cost);
	return 1;
}

static __always_inline __u64 limit_now(const struct xdpfw_rate *rate)
{
	return (rate->by_tick ? recent_boot_ns() : boot_ns()) << XDPFW_LIMIT_FRACTION_BITS;
}

/* Who shares a bucket: what the low bits are used for is not in the tag, which has the limit's mark there. */
static __always_inline __u64 limit_hash(const struct packet *p, const struct xdpfw_rate *rate)
{
	const struct address *src = &p->address[XDPFW_DIRECTION_SRC], *dst = &p->address[XDPFW_DIRECTION_DST];
	bool is_v4 = p->family == XDPFW_FAMILY_IPV4;
	__u64 sum, rest;

	if (rate->per == XDPFW_LIMIT_PER_SRC) {
		sum = KEYED(0, src->high & (is_v4 ? rate->v4_mask : rate->v6_mask_high)) +
		      KEYED(1, src->low & rate->v6_mask_low) + KEYED(2, p->family);
	} else {
		rest = (__u64)p->family << (2 * LIMIT_PORT_BITS + LIMIT_PROTO_BITS) |
		       (__u64)p->value[XDPFW_FIELD_PROTO] << 2 * LIMIT_PORT_BITS |
		       (__u64)p->value[XDPFW_FIELD_DPORT] << LIMIT_PORT_BITS | p->value[XDPFW_FIELD_SPORT];
		sum = KEYED(0, src->high) + KEYED(1, src->low) + KEYED(2, dst->high) + KEYED(3, dst->low) + KEYED(4, rest);
	}
	return keyed_end(sum + rate->id);
}

static __always_inline struct xdpfw_limit_slots *limit_bucket(__u32 number)
{
	return bpf_map_lookup_elem(&limit_buckets, &number);
}

/*
 * Gives a slot of a full bucket to a newcomer of limit "number". Returns the slot's number, or LIMIT_NO_SLOT where others
 * took what it wanted. A global function.
 */
__attribute__((noinline)) int claim_slot(__u32 bucket_number, __u32 number, __u64 tag, __u64 now)
{
	struct xdpfw_limit_slots *bucket = limit_bucket(bucket_number);
	const struct xdpfw_rate *rate = bpf_map_lookup_elem(&limits, &number);
	struct xdpfw_limit_counter *counter = bpf_map_lookup_elem(&limit_counters, &number);
	struct xdpfw_limit_slot *slot;
	__u64 least, score, before, full_at;
	__u32 best;

	if (!bucket || !rate || !counter)
		return LIMIT_NO_SLOT;
	for (int i = 0; i < LIMIT_CLAIMS; i++) {
		least = ~0ULL;
		best = 0;
		before = 0;
		for (__u32 each = 0; each < XDPFW_BUCKET_SLOTS; each++) {
			slot = &bucket->slots[each];
			score = owed(slot->full_at, now, LIMIT_DEEPEST);
			if (score && (slot->tag ^ tag) & LIMIT_MARK_MASK)
				score |= LIMIT_FOREIGN;
			if (score < least) {
				least = score;
				best = each;
				before = slot->tag;
			}
		}
		slot = &bucket->slots[best & (XDPFW_BUCKET_SLOTS - 1)];
		full_at = *(volatile __u64 *)&slot->full_at;
		if (least >= LIMIT_FOREIGN &&
		    __sync_val_compare_and_swap(&slot->full_at, full_at, now + rate->depth) != full_at)
			continue;
		if (__sync_val_compare_and_swap(&slot->tag, before, tag) != before)
			continue;
		if (least)
			counter->shared++;
		return best & (XDPFW_BUCKET_SLOTS - 1);
	}
	return LIMIT_NO_SLOT;
}

/* What the packet takes up, in units. */
static __always_inline __u64 token_cost(const struct packet *p, const struct xdpfw_rate *rate)
{
	__u64 bytes = p->bytes < XDPFW_LIMIT_MOST_BYTES ? p->bytes : XDPFW_LIMIT_MOST_BYTES;

	return rate->in_bytes ? bytes * rate->cost >> rate->cost_shift : rate->cost;
}

/* As take(), from the bucket of the packet's source or flow. Where it has none and gets none now, there are no tokens. */
static __always_inline int take_shared(const struct packet *p, const struct xdpfw_rate *rate, __u32 number, __u64 now)
{
	__u64 hash = limit_hash(p, rate);
	__u64 tag = (hash & ~LIMIT_MARK_MASK) | (rate->id & LIMIT_MARK_MASK);
	__u32 bucket_number = hash & CONSTANT(limit_mask);
	struct xdpfw_limit_slots *bucket = limit_bucket(bucket_number);
	__u32 found = LIMIT_NO_SLOT;

	if (!bucket)
		return 0;
	if (!tag)
		tag = 1;	/* 0 is nobody's */
	for (__u32 i = 0; i < XDPFW_BUCKET_SLOTS; i++) {
		if (bucket->slots[i].tag == tag) {
			found = i;
			break;
		}
	}
	if (found == LIMIT_NO_SLOT)
		found = claim_slot(bucket_number, number, tag, now);
	if (found >= XDPFW_BUCKET_SLOTS)
		return 0;
	return take(&bucket->slots[found], rate, now, token_cost(p, rate));
}

/* As take(), from the bucket that all packets of the rule share. */
static __always_inline int take_total(const struct packet *p, const struct xdpfw_rate *rate, __u32 number, __u64 now)
{
	struct xdpfw_limit_total *total = bpf_map_lookup_elem(&limit_totals, &number);

	return total ? take(&total->slot, rate, now, token_cost(p, rate)) : 0;
}

/* Takes the packet's tokens, if all are there. A global function. Returns 1, or 0: the limit is exceeded, and counted so. */
__attribute__((noinline)) int take_tokens(const struct packet *p, __u32 number)
{
	const struct xdpfw_rate *rate = bpf_map_lookup_elem(&limits, &number);
	struct xdpfw_limit_counter *counter;
	__u64 now;

	if (!p || !rate)
		return 0;
	now = limit_now(rate);
	if (rate->per == XDPFW_LIMIT_PER_RULE ? take_total(p, rate, number, now) : take_shared(p, rate, number, now))
		return 1;
	counter = bpf_map_lookup_elem(&limit_counters, &number);
	if (counter) {
		counter->exceeded++;
		counter->exceeded_bytes += p->bytes;
	}
	return 0;
}

#endif
