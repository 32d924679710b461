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
	LONGEST_TICK_NS = 10000000,	/* HZ is 100 at least */
};

static __always_inline __u64 present_window(const struct xdpfw_rotation *rotation)
{
	return wall_ns() / rotation->every_ns;
}

/* Fills a window's steps in. A global function. Returns 0. */
__attribute__((noinline)) int derive_window(__u32 number, __u64 window)
{
	const struct xdpfw_rotation *rotation = bpf_map_lookup_elem(&rotations, &number);
	__u32 slot = number * ROTATION_CACHED + window % ROTATION_CACHED;
	struct xdpfw_window *cached = bpf_map_lookup_elem(&windows, &slot);
	struct scratch *scratch = scratch_of_cpu();
	struct blake2s *b;

	if (!rotation || !cached || !scratch)
		return 0;
	b = &scratch->blake2s;
	__builtin_memcpy(b->state, rotation->state, sizeof(b->state));
	__builtin_memset(b->message, 0, sizeof(b->message));
	b->message[0] = bpf_htonl(window >> 32);
	b->message[1] = bpf_htonl(window);
	blake2s_last_block(b, BLAKE2S_BLOCK_BYTES + sizeof(window));
	cached->number = 0;
	for (int i = 0; i < XDPFW_MAX_STEPS; i++) {
		__u32 word = b->state[i / 2] >> (i % 2 ? 16 : 0) & 0xffff;

		cached->ports[i] = rotation->port_low + bpf_ntohs(word) % rotation->port_span;
	}
	__sync_fetch_and_add(&cached->number, window + 1);	/* behind the ports */
	return 0;
}

/* Which steps of a window a SYN or datagram is: bit p for step p. A global function. */
__attribute__((noinline)) int rotation_positions(const struct packet *p, __u32 number, __u64 window, __u32 length)
{
	__u32 slot = number * ROTATION_CACHED + window % ROTATION_CACHED;
	const struct xdpfw_window *cached = bpf_map_lookup_elem(&windows, &slot);
	__u32 first, positions = 0;

	if (!p || !cached)
		return 0;
	if (cached->number != window + 1)
		derive_window(number, window);
	first = p->value[XDPFW_FIELD_PROTO] == IPPROTO_TCP ? 0 : 1;
	for (__u32 i = 0; i < XDPFW_MAX_STEPS; i++)
		if (i < length && (i & 1) == first && cached->ports[i] == p->value[XDPFW_FIELD_DPORT])
			positions |= 1U << i;
	return positions;
}

static __always_inline __u32 filter_bit(__u32 port)
{
	_Static_assert(FILTER_WORDS * 64 == 1 << 10, "a bit is found by 10 bits");
	return port * 0x9e3779b1U >> 22;
}

/*
 * False only if a SYN or datagram is no step of any window of a rotation. The time to the present window's end is
 * measured in jiffies, which cost a load where a clock costs a call; after a step of the wall clock, the filter may
 * be late by what was left of the window.
 */
static __always_inline bool may_be_step(const struct packet *p, __u32 number)
{
	const struct xdpfw_filter *filter = bpf_map_lookup_elem(&filters, &number);
	__u32 bit = filter_bit(p->value[XDPFW_FIELD_DPORT]);

	/* Test runs have clocks of their own. */
	if (!filter || constants()->trace || bpf_jiffies64() >= filter->valid_until_tick)
		return true;
	return filter->bits[bit / 64 % FILTER_WORDS] >> bit % 64 & 1;
}

/* Renews the filter of a rotation, whose windows have been derived. A global function. Returns 0. */
__attribute__((noinline)) int renew_filter(__u32 number, __u64 window)
{
	const struct xdpfw_rotation *rotation = bpf_map_lookup_elem(&rotations, &number);
	struct xdpfw_filter *filter = bpf_map_lookup_elem(&filters, &number);
	struct scratch *scratch = scratch_of_cpu();
	__u64 tick = bpf_jiffies64(), left_ns;

	if (!rotation || !filter || !scratch || tick < filter->valid_until_tick)
		return 0;
	__builtin_memset(scratch->filter_bits, 0, sizeof(scratch->filter_bits));
	for (__u32 i = 0; i < ROTATION_WINDOWS * XDPFW_MAX_STEPS; i++) {
		__u32 slot = number * ROTATION_CACHED + (window - 1 + i / XDPFW_MAX_STEPS) % ROTATION_CACHED;
		const struct xdpfw_window *cached = bpf_map_lookup_elem(&windows, &slot);
		__u32 bit;

		if (!cached)
			return 0;
		bit = filter_bit(cached->ports[i % XDPFW_MAX_STEPS]);
		scratch->filter_bits[bit / 64 % FILTER_WORDS] |= 1ULL << bit % 64;
	}
	/* Word by word, none of them ever empty in between: another CPU may be reading. */
	for (int i = 0; i < FILTER_WORDS; i++)
		filter->bits[i] = scratch->filter_bits[i];
	left_ns = rotation->every_ns - wall_ns() % rotation->every_ns;
	filter->valid_until_tick = tick + left_ns / LONGEST_TICK_NS;
	return 0;
}

#endif
