/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rotating sequences: their steps are derived here, once a window, so that no process need keep them fresh. The
 * windows before and behind the present one count, too.
 */
#ifndef XDPFW_ROTATION_H
#define XDPFW_ROTATION_H

#include <linux/in.h>
#include <bpf/bpf_endian.h>

#include "clock.h"
#include "maps.h"
#include "packet.h"
#include "scratch.h"

enum {
	ROTATION_WINDOWS = 3,	/* that count at any time */
	ROTATION_CACHED = 4,	/* a power of two above */
	FILTER_MAX_NS = 1000000000,	/* so late may a filter be after a step of the clock, or suspend */
};

static __always_inline __u64 present_window(const struct xdpfw_rotation *rotation)
{
	return wall_ns() / rotation->every_ns;
}

/* Fills a window's steps in, unless they are there. */
static __always_inline void derive_window(const struct xdpfw_rotation *rotation, __u32 number, __u64 window)
{
	__u32 slot = number * ROTATION_CACHED + window % ROTATION_CACHED;
	struct xdpfw_window *cached = bpf_map_lookup_elem(&windows, &slot);
	struct scratch *scratch = scratch_of_cpu();
	struct blake2s *b;

	if (!cached || !scratch || cached->number == window + 1)
		return;
	b = &scratch->blake2s;
	__builtin_memcpy(b->state, rotation->state, sizeof(b->state));
	__builtin_memset(b->message, 0, sizeof(b->message));
	b->message[0] = bpf_htonl(window >> 32);
	b->message[1] = bpf_htonl(window);
	blake2s_last_block(b, BLAKE2S_BLOCK_BYTES + sizeof(window));
	/* Who reads meanwhile finds the number of another window. CPUs that derive the same write the same. */
	for (int i = 0; i < XDPFW_MAX_STEPS; i++) {
		__u32 word = b->state[i / 2] >> (i % 2 ? 16 : 0) & 0xffff;

		cached->ports[i] = rotation->port_low + bpf_ntohs(word) % rotation->port_span;
	}
	__sync_lock_test_and_set(&cached->number, window + 1);	/* behind the ports */
}

/* Which steps of a window that was derived a SYN or datagram is: bit p for step p. A global function. */
__attribute__((noinline)) int rotation_positions(const struct packet *p, __u32 number, __u64 window, __u32 length)
{
	__u32 slot = number * ROTATION_CACHED + window % ROTATION_CACHED;
	const struct xdpfw_window *cached = bpf_map_lookup_elem(&windows, &slot);
	__u32 first, positions = 0;

	if (!p || !cached || cached->number != window + 1)
		return 0;
	first = p->value[XDPFW_FIELD_PROTO] == IPPROTO_TCP ? 0 : 1;
	for (__u32 i = 0; i < XDPFW_MAX_STEPS; i++)
		if (i < length && (i & 1) == first && cached->ports[i] == p->value[XDPFW_FIELD_DPORT])
			positions |= 1U << i;
	return positions;
}

/* is_udp: 1 or 0. */
static __always_inline __u32 filter_bit(__u32 port, __u32 is_udp)
{
	_Static_assert(FILTER_WORDS * 64 == 1 << 10, "a bit is found by 10 bits");
	return (port << 1 | is_udp) * 0x9e3779b1U >> 22;
}

/*
 * False only if a SYN or datagram is no step of any window of a rotation. The time to the present window's end is
 * measured in jiffies, which cost a load where a clock costs a call; after a step of the wall clock, or suspend, the
 * filter may be late by a second.
 */
static __always_inline bool may_be_step(const struct packet *p, __u32 number)
{
	const struct xdpfw_filter *filter = bpf_map_lookup_elem(&filters, &number);
	__u32 bit = filter_bit(p->value[XDPFW_FIELD_DPORT], p->value[XDPFW_FIELD_PROTO] == IPPROTO_UDP);

	/* Test runs have clocks of their own. */
	if (!filter || CONSTANT(trace) || bpf_jiffies64() >= filter->valid_until_tick)
		return true;
	return filter->bits[bit / 64 % FILTER_WORDS] >> bit % 64 & 1;
}

/* Renews the filter of a rotation, whose windows have been derived. A global function. Returns 0. */
__attribute__((noinline)) int renew_filter(__u32 number, __u64 window)
{
	const struct xdpfw_rotation *rotation = bpf_map_lookup_elem(&rotations, &number);
	const struct xdpfw_sequence *sequence = bpf_map_lookup_elem(&sequences, &number);
	struct xdpfw_filter *filter = bpf_map_lookup_elem(&filters, &number);
	struct scratch *scratch = scratch_of_cpu();
	__u64 tick = bpf_jiffies64(), now, end;

	if (!rotation || !sequence || !filter || !scratch || tick < filter->valid_until_tick)
		return 0;
	now = wall_ns();
	end = (window + 1) * rotation->every_ns;
	/* Over, since the window was asked for. */
	if (now >= end)
		return 0;
	__builtin_memset(scratch->filter_bits, 0, sizeof(scratch->filter_bits));
	for (__u32 i = 0; i < ROTATION_WINDOWS * XDPFW_MAX_STEPS; i++) {
		__u32 slot = number * ROTATION_CACHED + (window - 1 + i / XDPFW_MAX_STEPS) % ROTATION_CACHED;
		const struct xdpfw_window *cached = bpf_map_lookup_elem(&windows, &slot);
		__u32 bit;

		if (!cached)
			return 0;
		if (i % XDPFW_MAX_STEPS >= sequence->length)
			continue;
		bit = filter_bit(cached->ports[i % XDPFW_MAX_STEPS], i & 1);
		scratch->filter_bits[bit / 64 % FILTER_WORDS] |= 1ULL << bit % 64;
	}
	/* Word by word, none of them ever empty in between: another CPU may be reading. */
	for (int i = 0; i < FILTER_WORDS; i++)
		filter->bits[i] = scratch->filter_bits[i];
	now = end - now;
	if (now > FILTER_MAX_NS)
		now = FILTER_MAX_NS;
	filter->valid_until_tick = tick + now / LONGEST_TICK_NS;
	return 0;
}

#endif
