/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A decision -> counters, and what XDP does with the packet. */
#ifndef XDPFW_VERDICT_H
#define XDPFW_VERDICT_H

#include <linux/if_ether.h>

#include "classify.h"
#include "event.h"
#include "flow.h"
#include "fragment.h"
#include "limit.h"
#include "route.h"
#include "set.h"

#define ROTATION_BITS(rotations) ((1U << 2 * (rotations)) - 1)

static __always_inline void count(void *map, __u32 slot, __u32 bytes)
{
	struct xdpfw_counter *counter = bpf_map_lookup_elem(map, &slot);

	if (counter) {
		counter->packets++;
		counter->bytes += bytes;
	}
}

static __always_inline void count_rule(__u32 rule, __u32 bytes)
{
	count(&counters, XDPFW_REASON_COUNT + rule, bytes);
}

/*
 * Rules of rotations that match: bits 2r and 2r + 1 for rotation r, TCP and UDP. They are found as rules that only
 * count are, of which they are the first: most of their packets are no steps at the time, and another rule decides.
 */
static __always_inline __u32 asked_rotations(const struct policy *policy, const struct lookup *l)
{
	if (!CONSTANT(rotation_count))
		return 0;
	return wide_matches(policy, l, CONSTANT(wide_words)) & ROTATION_BITS(CONSTANT(rotation_count));
}

/* Counts the rules that only count and stand before the one that decided. */
static __always_inline void count_passed_rules(const struct policy *policy, const struct packet *p,
					       const struct lookup *l, __u32 decided)
{
	__u32 first = CONSTANT(wide_words);
	__u32 counted = XDPFW_KEY_NONE;

	for (__u32 word = 0; word < XDPFW_MAX_COUNT_WORDS; word++) {
		__u64 bits;

		if (word >= CONSTANT(count_words))
			break;
		bits = wide_matches(policy, l, first + word);
		if (word == 0)
			bits &= ~(__u64)ROTATION_BITS(CONSTANT(rotation_count));
		for (int i = 0; i < WORD_BITS && bits; i++, bits &= bits - 1) {
			__u32 key = wide_key(policy, first + word, bits);

			if (key >= decided)
				return;
			/* A rule with an exception has several bits, all next to each other. */
			if (key != counted)
				count_rule((key >> XDPFW_KEY_SHIFT) - CONSTANT(knock_rules), p->bytes);
			counted = key;
		}
	}
}

/* Whether this host's own stack gets the packet. */
static __always_inline bool is_for_stack(const struct packet *p, enum xdpfw_verdict verdict)
{
	return verdict == XDPFW_VERDICT_PASS ||
	       (CONSTANT(spreads) && verdict == XDPFW_VERDICT_REDIRECT && p->is_spread);
}

/*
 * Books a decision in exactly one row of each view, and returns the XDP action. key: of the rule, where the reason is that;
 * what it has about its verdict need not be counted where there is only one interface.
 */
static __always_inline int finish(const struct packet *p, enum xdpfw_verdict verdict, enum xdpfw_reason reason,
				  __u32 key)
{
	__u32 zero = 0, rule = (key >> XDPFW_KEY_SHIFT) - CONSTANT(knock_rules);
	bool follows = reason != XDPFW_REASON_RULE || (key & XDPFW_KEY_ACTION_MASK) != XDPFW_KEY_LOOK_UP;

	if (reason == XDPFW_REASON_RULE)
		count_rule(rule, p->bytes);
	else
		count(&counters, reason, p->bytes);
	if (!CONSTANT(derives_verdicts) || !follows)
		count(&verdicts, p->value[XDPFW_FIELD_INTERFACE] * XDPFW_VERDICT_COUNT + verdict, p->bytes);
	if (CONSTANT(allow.fragments) && p->fragment == XDPFW_FRAGMENT_FIRST)
		remember_first(p, verdict, reason, key);
	if (CONSTANT(tracks) && p->value[XDPFW_FIELD_STATE] != XDPFW_PACKET_STATE_NONE &&
	    (verdict == XDPFW_VERDICT_PASS || verdict == XDPFW_VERDICT_REDIRECT)) {
		if (!is_for_stack(p, verdict))
			note_forwarded(p);
		note_incoming(p);
	}
	if (CONSTANT(trace)) {
		struct xdpfw_trace *last = bpf_map_lookup_elem(&trace, &zero);

		if (last) {
			last->verdict = verdict;
			last->reason = reason;
			last->rule = rule;
		}
	}
	return XDP_DROP + verdict;	/* in the same order, as xdpfw.bpf.c asserts */
}

/*
 * Writes the Ethernet addresses. Returns false, with the frame as it was, where a driver leaves them out of the
 * linear part; such a frame is dropped, and counted so.
 */
static __always_inline bool set_macs(struct xdp_md *ctx, const __u8 *dst, const __u8 *src)
{
	struct ethhdr *ethernet = (void *)(long)ctx->data;

	if ((void *)(ethernet + 1) > (void *)(long)ctx->data_end)
		return false;
	if (dst)
		__builtin_memcpy(ethernet->h_dest, dst, ETH_ALEN);
	if (src)
		__builtin_memcpy(ethernet->h_source, src, ETH_ALEN);
	return true;
}

/* Sends the packet back to where it came from. */
static __always_inline enum xdpfw_verdict transmit(struct xdp_md *ctx)
{
	struct ethhdr *ethernet = (void *)(long)ctx->data;
	__u8 dst[ETH_ALEN];

	if ((void *)(ethernet + 1) > (void *)(long)ctx->data_end)
		return XDPFW_VERDICT_DROP;
	__builtin_memcpy(dst, ethernet->h_dest, ETH_ALEN);
	set_macs(ctx, ethernet->h_source, dst);
	return XDPFW_VERDICT_TX;
}

static __always_inline enum xdpfw_verdict redirect(struct xdp_md *ctx, const struct xdpfw_action *action)
{
	if (!set_macs(ctx, action->flags & XDPFW_ACTION_SET_DST_MAC ? action->dst_mac : NULL,
		      action->flags & XDPFW_ACTION_SET_SRC_MAC ? action->src_mac : NULL))
		return XDPFW_VERDICT_DROP;
	/* The target may be gone by now; then the packet is dropped, and counted so. */
	if (bpf_redirect_map(&targets, action->target, XDP_DROP) != XDP_REDIRECT)
		return XDPFW_VERDICT_DROP;
	return XDPFW_VERDICT_REDIRECT;
}

/* Tells of a packet that a rule decided, of each or of one in so many. */
static __always_inline void log_rule(const struct packet *p, __u32 rule, enum xdpfw_verdict verdict, __u32 sample)
{
	struct scratch *scratch = scratch_of_cpu();
	struct event *event;

	if (!scratch || (sample > 1 && bpf_get_prandom_u32() % sample) || is_suppressed(XDPFW_EVENT_RULE))
		return;
	event = new_event(scratch, XDPFW_EVENT_RULE);
	event->rule = rule;
	event->detail = verdict;
	record(p, event);
}

/* What a rule does with a packet that is within its limit. */
static __always_inline enum xdpfw_verdict perform(struct xdp_md *ctx, const struct packet *p,
						  const struct xdpfw_action *action)
{
	switch (action->kind) {
	case XDPFW_ACTION_PASS:
		return XDPFW_VERDICT_PASS;
	case XDPFW_ACTION_TX:
		return transmit(ctx);
	case XDPFW_ACTION_REDIRECT:
		return redirect(ctx, action);
	case XDPFW_ACTION_ROUTE:
		return CONSTANT(routes) ? route(ctx, p) : XDPFW_VERDICT_DROP;
	case XDPFW_ACTION_CPU:
		return CONSTANT(spreads) ? spread(p, action->target, action->cpu_count) : XDPFW_VERDICT_DROP;
	default:
		return XDPFW_VERDICT_DROP;
	}
}

/* Takes the packet's tokens where the rule has a limit. Returns the limit where it is exceeded, else NULL. */
static __always_inline const struct xdpfw_rate *exceeded_limit(const struct packet *p, const struct xdpfw_action *action)
{
	__u32 number;

	if (!CONSTANT(limit_count) || !action->limit)
		return NULL;
	number = action->limit - 1;
	return take_tokens(p, number) ? NULL : bpf_map_lookup_elem(&limits, &number);
}

/* What a rule does that is more than a verdict; its number counts those of knocks, too. */
static __always_inline enum xdpfw_verdict act(struct xdp_md *ctx, const struct packet *p, __u32 rule)
{
	const struct xdpfw_action *action = bpf_map_lookup_elem(&actions, &rule);
	const struct xdpfw_rate *limit;
	enum xdpfw_verdict verdict;

	if (!action)
		return XDPFW_VERDICT_DROP;
	limit = exceeded_limit(p, action);
	if (CONSTANT(adds) && action->add_to && (limit || !(action->flags & XDPFW_ACTION_ADD_EXCEEDED)))
		add_source(p, action->add_to - 1, action->add_ns, rule - CONSTANT(knock_rules));
	verdict = limit ? limit->exceed : perform(ctx, p, action);
	if (CONSTANT(logs) && action->log_sample)
		log_rule(p, rule - CONSTANT(knock_rules), verdict, action->log_sample);
	return verdict;
}

static __always_inline enum xdpfw_verdict verdict_of(struct xdp_md *ctx, const struct packet *p, __u32 key)
{
	switch (key & XDPFW_KEY_ACTION_MASK) {
	case XDPFW_KEY_PASS:
		return XDPFW_VERDICT_PASS;
	case XDPFW_KEY_DROP:
		return XDPFW_VERDICT_DROP;
	default:
		return act(ctx, p, key >> XDPFW_KEY_SHIFT);
	}
}

/*
 * A later fragment of a datagram whose first one this became of. Unless it is dropped, it takes tokens of that one's rule
 * as any packet: or else one token would be good for a datagram of 64 KiB, and for all copies of its fragments.
 */
static __always_inline int finish_later(struct xdp_md *ctx, const struct packet *p, const struct followed *first)
{
	const struct xdpfw_action *action = NULL;
	const struct xdpfw_rate *limit;
	__u32 rule = first->key >> XDPFW_KEY_SHIFT;

	if (first->verdict == XDPFW_VERDICT_DROP)
		return finish(p, XDPFW_VERDICT_DROP, first->reason, first->key);
	if (first->reason == XDPFW_REASON_RULE)
		action = bpf_map_lookup_elem(&actions, &rule);
	limit = action ? exceeded_limit(p, action) : NULL;
	if (limit) {
		if (CONSTANT(adds) && action->add_to)
			add_source(p, action->add_to - 1, action->add_ns, rule - CONSTANT(knock_rules));
		if (CONSTANT(logs) && action->log_sample)
			log_rule(p, rule - CONSTANT(knock_rules), limit->exceed, action->log_sample);
		return finish(p, limit->exceed, first->reason, first->key);
	}
	if (first->verdict == XDPFW_VERDICT_PASS)
		return finish(p, XDPFW_VERDICT_PASS, XDPFW_REASON_ALLOW_FRAGMENTS, XDPFW_KEY_NONE);
	return finish(p, action ? perform(ctx, p, action) : XDPFW_VERDICT_DROP, first->reason, first->key);
}

#endif
