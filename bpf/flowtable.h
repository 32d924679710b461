/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of flows: buckets of eight, found by a keyed hash. The tags of a bucket fill one cache line, so that a packet
 * of no flow reads nothing more; the flows themselves are apart.
 *
 * What is in a slot is whole: whoever takes one claims its tag, writes the flow, and then says whose it is. A flow's
 * standing is one word, which goes from one value to another at once; who comes too late leaves it as the other one did.
 *
 * Both programs come here, and one may be at it while the other is, on another CPU or below it on this one: nothing is in
 * the scratch but the time, which is the same for both. It may be a tick old: all that lasts here lasts for seconds.
 */
#ifndef XDPFW_FLOWTABLE_H
#define XDPFW_FLOWTABLE_H

#include <linux/in.h>

#include "clock.h"
#include "keyed.h"
#include "maps.h"

enum {
	ECHO_REPLY = 0,			/* RFC 792 */
	ECHO_REQUEST = 8,
	ECHO_REQUEST_V6 = 128,		/* RFC 4443 */
	ECHO_REPLY_V6 = 129,
	ECHO_PAIR = ECHO_REQUEST ^ ECHO_REPLY,
	ECHO_PAIR_V6 = ECHO_REQUEST_V6 ^ ECHO_REPLY_V6,

	FLOW_KEY_WORDS = sizeof(struct xdpfw_flow_key) / sizeof(__u64),
	FLOW_CLAIM_TRIES = 2,
	FLOW_NOT_FOUND = -1,
	FLOW_TAG_CLAIMED = 1,		/* a flow is being written; never anyone's tag, nor is 0 */
	FLOW_TAG_ALWAYS = 2,		/* a bit that every tag has */
	FLOW_BUCKET_SHIFT = 32,		/* of a tag, its bucket has the bits from here on */
	FLOW_ACK_BYTES = offsetof(struct xdpfw_flow, created_ns) - offsetof(struct xdpfw_flow, expected_ack),

	FLOW_REFRESH_NS = NS_PER_S,	/* a flow's end is moved by so much or not at all: a write costs other CPUs a miss */
	INCOMING_ANSWER_MS = 30000,	/* what this side sends within this time is an answer */
	INCOMING_SKEW_MS = 60000,	/* so far a tick that another CPU noted may be ahead, at the very most */
};

typedef __u64 __attribute__((may_alias)) aliasing_word;

/* What changes of a flow, but for the time. Its members are those of struct xdpfw_flow. */
union flow_standing {
	struct {
		__u32 expected_ack;
		__u8 state;		/* enum xdpfw_flow_state */
		__u8 rank;		/* enum xdpfw_flow_rank */
		__u16 padding;
	};
	__u64 word;
};

_Static_assert(FLOW_ACK_BYTES == sizeof(union flow_standing), "a standing is one word of a flow");

static __always_inline bool is_echo(__u32 family, __u32 type)
{
	if (family == XDPFW_FAMILY_IPV4)
		return type == ECHO_REQUEST || type == ECHO_REPLY;
	return type == ECHO_REQUEST_V6 || type == ECHO_REPLY_V6;
}

/* The type that answers an echo request, or that an echo reply answers. */
static __always_inline __u32 echo_counterpart(__u32 family, __u32 type)
{
	return type ^ (family == XDPFW_FAMILY_IPV4 ? ECHO_PAIR : ECHO_PAIR_V6);
}

static __always_inline bool has_flow_ports(__u32 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

static __always_inline __u32 icmp_of(__u32 family)
{
	return family == XDPFW_FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
}

/* For a key of the flow as XDP sees it. */
static __always_inline __u64 flow_tag(const struct xdpfw_flow_key *key)
{
	const aliasing_word *words = (const aliasing_word *)key;

	_Static_assert(FLOW_KEY_WORDS == sizeof(config.word_secrets) / sizeof(config.word_secrets[0]), "a secret a word");
	return keyed_end(KEYED(0, words[0]) + KEYED(1, words[1]) + KEYED(2, words[2]) + KEYED(3, words[3]) +
			 KEYED(4, words[4])) | FLOW_TAG_ALWAYS;
}

static __always_inline struct xdpfw_flow_tags *flow_tags_of(__u64 tag, __u32 *bucket)
{
	*bucket = tag >> FLOW_BUCKET_SHIFT & CONSTANT(flow_mask);
	return bpf_map_lookup_elem(&flow_tags, bucket);
}

static __always_inline struct xdpfw_flow *flow_at(__u32 bucket, __u32 slot)
{
	__u32 index = bucket * XDPFW_BUCKET_SLOTS + slot;

	return bpf_map_lookup_elem(&flows, &index);
}

static __always_inline bool is_same_key(const struct xdpfw_flow_key *a, const struct xdpfw_flow_key *b)
{
	const aliasing_word *x = (const aliasing_word *)a, *y = (const aliasing_word *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

/* A flow's element, live or not, or NOT_FOUND. */
static __always_inline int find_flow(const struct xdpfw_flow_key *key, __u64 tag)
{
	const struct xdpfw_flow_tags *tags;
	const struct xdpfw_flow *flow;
	__u32 bucket;

	tags = flow_tags_of(tag, &bucket);
	if (!tags)
		return FLOW_NOT_FOUND;
	for (__u32 i = 0; i < XDPFW_BUCKET_SLOTS; i++) {
		if (tags->slots[i] != tag)
			continue;
		flow = flow_at(bucket, i);
		if (flow && is_same_key(&flow->key, key))
			return bucket * XDPFW_BUCKET_SLOTS + i;
	}
	return FLOW_NOT_FOUND;
}

static __always_inline union flow_standing standing_of(const struct xdpfw_flow *flow)
{
	return (union flow_standing){ .word = *(const volatile aliasing_word *)&flow->expected_ack };
}

/* How long a flow of this state lasts without a packet. */
static __always_inline __u64 flow_lasts_ns(__u32 state, __u32 protocol)
{
	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		return 30ULL * NS_PER_S;
	switch (state) {
	case XDPFW_FLOW_SYN_SENT:
	case XDPFW_FLOW_CLOSING:
		return 120ULL * NS_PER_S;
	case XDPFW_FLOW_ANSWERED:
	case XDPFW_FLOW_HALF_OPEN:
		return 60ULL * NS_PER_S;
	case XDPFW_FLOW_ESTABLISHED:
		return 5ULL * 24 * 3600 * NS_PER_S;
	case XDPFW_FLOW_CLOSED:
		return 10ULL * NS_PER_S;
	case XDPFW_FLOW_UNREPLIED:
		return 30ULL * NS_PER_S;
	default:
		return 180ULL * NS_PER_S;
	}
}

/* Moves a flow on, if its standing is still what it was. */
static __always_inline void move_flow(struct xdpfw_flow *flow, union flow_standing before, union flow_standing after,
				      __u64 until_ns)
{
	aliasing_word *word = (aliasing_word *)&flow->expected_ack;

	if (before.word != after.word) {
		if (__sync_val_compare_and_swap(word, before.word, after.word) != before.word)
			return;
	} else if (until_ns < flow->until_ns + FLOW_REFRESH_NS) {
		return;
	}
	flow->until_ns = until_ns;
}

enum flow_count {
	COUNT_FLOW_CREATED,
	COUNT_FLOW_EVICTED,
	COUNT_FLOW_REFUSED,
	COUNT_FLOW_RELATED,
	COUNT_FLOW_SOCKET,
};

static __always_inline void count_flow(enum flow_count what)
{
	__u32 zero = 0;
	struct xdpfw_flow_counter *counter = bpf_map_lookup_elem(&flow_counters, &zero);

	if (!counter)
		return;
	switch (what) {
	case COUNT_FLOW_CREATED:
		counter->created++;
		break;
	case COUNT_FLOW_EVICTED:
		counter->evicted++;
		break;
	case COUNT_FLOW_REFUSED:
		counter->refused++;
		break;
	case COUNT_FLOW_RELATED:
		counter->related++;
		break;
	case COUNT_FLOW_SOCKET:
		counter->sockets++;
		break;
	}
}

/*
 * How hard it is to take a slot: who is lowest goes. Empty ones, then those that are over; of the others those of the lower
 * rank, and among them the one that ends next.
 */
static __always_inline __u64 flow_worth(__u32 bucket, __u32 slot, __u64 tag, __u64 now_ns)
{
	const struct xdpfw_flow *flow;

	if (!tag)
		return 0;
	if (tag == FLOW_TAG_CLAIMED)
		return ~0ULL;
	flow = flow_at(bucket, slot);
	if (!flow)
		return ~0ULL;
	if (flow->until_ns <= now_ns)
		return 1;
	return (__u64)flow->rank << 63 | flow->until_ns;
}

/*
 * Claims the slot of a bucket that a flow of this rank gets, and counts whom it drives out. Returns the element, or
 * NOT_FOUND: all the others are above it. A global function.
 */
__attribute__((noinline)) int claim_flow(__u64 tag, __u32 rank, __u64 now_ns)
{
	struct xdpfw_flow_tags *tags;
	__u64 least, worth, held, there, chosen;
	__u32 bucket;

	tags = flow_tags_of(tag, &bucket);
	if (!tags)
		return FLOW_NOT_FOUND;
	for (int tries = 0; tries < FLOW_CLAIM_TRIES; tries++) {
		least = ~0ULL;
		chosen = 0;
		held = 0;
		for (__u32 i = 0; i < XDPFW_BUCKET_SLOTS; i++) {
			there = tags->slots[i];
			worth = flow_worth(bucket, i, there, now_ns);
			if (worth < least) {
				least = worth;
				chosen = i;
				held = there;
			}
			/* Or else the verifier would follow each slot that may be the one: two thirds of all its work. */
			FORGET(least, tag);
			FORGET(chosen, tag);
		}
		if (least == ~0ULL || least >> 63 > rank)
			return FLOW_NOT_FOUND;
		chosen &= XDPFW_BUCKET_SLOTS - 1;
		if (__sync_val_compare_and_swap(&tags->slots[chosen], held, FLOW_TAG_CLAIMED) != held)
			continue;
		if (least > 1)
			count_flow(COUNT_FLOW_EVICTED);
		return bucket * XDPFW_BUCKET_SLOTS + chosen;
	}
	return FLOW_NOT_FOUND;
}

/* Puts a new flow down, if there is room for one of its rank. A global function. Returns 0. */
__attribute__((noinline)) int put_flow(const struct xdpfw_flow_key *key, __u64 tag, __u64 standing, __u64 until_ns,
				       __u64 now_ns)
{
	union flow_standing after = { .word = standing };
	struct xdpfw_flow_tags *tags;
	struct xdpfw_flow *flow;
	__u32 bucket, index, rank = after.rank;
	int claimed;

	if (!key)
		return 0;
	claimed = claim_flow(tag, rank, now_ns);
	index = claimed;
	tags = flow_tags_of(tag, &bucket);
	flow = bpf_map_lookup_elem(&flows, &index);
	if (claimed < 0 || !tags || !flow) {
		count_flow(COUNT_FLOW_REFUSED);
		return 0;
	}
	flow->key = *key;
	*(volatile aliasing_word *)&flow->expected_ack = after.word;
	flow->created_ns = now_ns;
	flow->until_ns = until_ns;
	/* By an exchange, behind which all that was written before is there for others, too. */
	__sync_val_compare_and_swap(&tags->slots[index & (XDPFW_BUCKET_SLOTS - 1)], FLOW_TAG_CLAIMED, tag);
	count_flow(COUNT_FLOW_CREATED);
	return 0;
}

static __always_inline struct xdpfw_incoming *incoming_of(__u64 tag)
{
	__u32 bucket = tag & CONSTANT(incoming_mask);

	return bpf_map_lookup_elem(&incoming, &bucket);
}

/* What a slot has of a tag: bits that its bucket is not found by, and never 0. */
static __always_inline __u32 incoming_tag(__u64 tag)
{
	return tag >> 32 | 1;
}

/* How long ago that was; not at all, where another CPU's clock, which goes by ticks, is ahead of this one's. */
static __always_inline __u32 age_in_ms(__u32 now_ms, __u32 then_ms)
{
	__u32 age_ms = now_ms - then_ms;

	return age_ms > ~0U - INCOMING_SKEW_MS ? 0 : age_ms;
}

/* Notes that a datagram came in. A global function. Returns 0. */
__attribute__((noinline)) int put_incoming(__u64 tag)
{
	struct xdpfw_incoming *bucket = incoming_of(tag);
	__u32 now_ms = recent_boot_ns() / NS_PER_MS, chosen = 0, most_ms = 0, age_ms;
	__u64 slot;

	if (!bucket)
		return 0;
	for (__u32 i = 0; i < XDPFW_BUCKET_SLOTS; i++) {
		slot = bucket->slots[i];
		if (slot >> 32 == incoming_tag(tag)) {
			chosen = i;
			break;
		}
		age_ms = slot ? age_in_ms(now_ms, slot) : ~0U;
		if (age_ms > most_ms) {
			most_ms = age_ms;
			chosen = i;
		}
	}
	bucket->slots[chosen & (XDPFW_BUCKET_SLOTS - 1)] = (__u64)incoming_tag(tag) << 32 | now_ms;
	return 0;
}

/* Whether a datagram of the same addresses and ports came in just now. */
static __always_inline bool has_incoming(__u64 tag, __u64 now_ns)
{
	const struct xdpfw_incoming *bucket = incoming_of(tag);
	__u32 now_ms = now_ns / NS_PER_MS;

	if (!bucket)
		return false;
	for (int i = 0; i < XDPFW_BUCKET_SLOTS; i++)
		if (bucket->slots[i] >> 32 == incoming_tag(tag) &&
		    age_in_ms(now_ms, bucket->slots[i]) < INCOMING_ANSWER_MS)
			return true;
	return false;
}

#endif
