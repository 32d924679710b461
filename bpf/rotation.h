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

#endif
