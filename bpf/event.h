/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events: what an operator audits by. A ring that overwrites its oldest, so that it needs no reader, and any number
 * of them take nothing from each other. A kind has so many a second, and what is more is only counted: a flood of one
 * fills the ring in minutes, not at once. Who must miss nothing follows.
 */
#ifndef XDPFW_EVENT_H
#define XDPFW_EVENT_H

#include "clock.h"
#include "maps.h"
#include "packet.h"
#include "scratch.h"

/*
 * Whether there have been too many of this kind just now; if so, this one is counted and need not be made. In a flood
 * that spares all but a load: the end of the window is measured in ticks, taken to be as long as they can be.
 */
static __always_inline bool is_suppressed(__u32 kind)
{
	struct xdpfw_event_limit *limit = bpf_map_lookup_elem(&event_limits, &kind);

	/* Test runs have clocks of their own. */
	if (!limit || CONSTANT(trace) || bpf_jiffies64() >= limit->full_until_tick)
		return false;
	__sync_fetch_and_add(&limit->suppressed, 1);
	return true;
}

/* Counts, and returns whether this one may be recorded; *suppressed then says how many were not, before it. */
static __always_inline bool is_within_limit(const struct event *what, __u64 now, __u32 *suppressed)
{
	/* What a key has signed has limits of its own, which who has none cannot use up. */
	__u32 slot = what->kind + (what->is_signed ? XDPFW_EVENT_COUNT : 0);
	struct xdpfw_event_limit *limit = bpf_map_lookup_elem(&event_limits, &slot);
	__u64 window = now >> XDPFW_EVENT_WINDOW_SHIFT, left_ns;

	if (!limit)
		return false;
	if (limit->window != window) {
		limit->window = window;
		limit->count = 0;
	}
	if (limit->count >= XDPFW_EVENTS_PER_SECOND) {
		left_ns = ((window + 1) << XDPFW_EVENT_WINDOW_SHIFT) - now;
		limit->full_until_tick = bpf_jiffies64() + left_ns / LONGEST_TICK_NS;
		__sync_fetch_and_add(&limit->suppressed, 1);
		return false;
	}
	__sync_fetch_and_add(&limit->count, 1);
	*suppressed = limit->suppressed ? __sync_lock_test_and_set(&limit->suppressed, 0) : 0;
	return true;
}

/* An empty event of this kind in the scratch, for record(). */
static __always_inline struct event *new_event(struct scratch *scratch, __u32 kind)
{
	scratch->event = (struct event){ .kind = kind };
	return &scratch->event;
}

/* A global function: events are rare, and the verifier looks at it once. Returns 0. */
__attribute__((noinline)) int record(const struct packet *p, const struct event *what)
{
	struct xdpfw_event *event;
	__u64 *head, now, number;
	__u32 zero = 0, slot, suppressed = 0;

	if (!p || !what)
		return 0;
	now = boot_ns();
	head = bpf_map_lookup_elem(&event_heads, &zero);
	if (!head || !is_within_limit(what, now, &suppressed))
		return 0;
	number = __sync_fetch_and_add(head, 1);
	slot = number % XDPFW_EVENT_SLOTS;
	event = bpf_map_lookup_elem(&events, &slot);
	if (!event)
		return 0;
	event->number = 0;
	__sync_fetch_and_add(&event->suppressed, 0);	/* a barrier: a reader sees the 0 before anything else */
	event->time_ns = now;
	event->src_high = p->address[XDPFW_DIRECTION_SRC].high;
	event->src_low = p->address[XDPFW_DIRECTION_SRC].low;
	event->dst_high = p->address[XDPFW_DIRECTION_DST].high;
	event->dst_low = p->address[XDPFW_DIRECTION_DST].low;
	event->duration_ns = what->duration_ns;
	event->kind = what->kind;
	event->generation = CONSTANT(generation);
	event->suppressed = suppressed;
	event->knock = what->knock;
	event->rule = what->rule;
	event->detail = what->detail;
	event->key_number = what->key_number;
	event->bytes = p->bytes;
	event->service = what->service;
	event->sport = p->value[XDPFW_FIELD_SPORT];
	event->dport = p->value[XDPFW_FIELD_DPORT];
	event->interface = p->value[XDPFW_FIELD_INTERFACE];
	event->family = p->family;
	event->protocol = p->value[XDPFW_FIELD_PROTO];
	event->step = what->step;
	event->steps = what->steps;
	event->prefix_bits = what->prefix_bits;
	__sync_lock_test_and_set(&event->number, number + 1);
	return 0;
}

#endif
