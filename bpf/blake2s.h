/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * BLAKE2s (RFC 7693): the last compression of a keyed message that fits into one block. The one before it, of the
 * key, is done by user space, once a key.
 */
#ifndef XDPFW_BLAKE2S_H
#define XDPFW_BLAKE2S_H

#include <linux/types.h>

#include "tables.h"

enum {
	BLAKE2S_STATE_WORDS = 8,
	BLAKE2S_BLOCK_BYTES = 64,
	BLAKE2S_BLOCK_WORDS = BLAKE2S_BLOCK_BYTES / sizeof(__u32),
};

/* In and out of blake2s_last_block(). Words are little-endian on the wire (RFC 7693 section 2.4). */
struct blake2s {
	__u32 state[BLAKE2S_STATE_WORDS];
	__u32 message[BLAKE2S_BLOCK_WORDS];	/* padded with zeros */
	__u32 work[BLAKE2S_BLOCK_WORDS];
};

static const __u32 blake2s_iv[BLAKE2S_STATE_WORDS] = {
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static __always_inline __u32 rotate_right(__u32 x, __u32 bits)
{
	return x >> bits | x << (32 - bits);
}

/*
 * The function G (RFC 7693 section 3.1). The work vector is volatile, in memory: sixteen words do not fit the
 * registers, and clang would spill each of them into eight bytes of a stack that has no room.
 */
static __always_inline void blake2s_mix(volatile __u32 *v, int a, int b, int c, int d, __u32 x, __u32 y)
{
	__u32 va = v[a], vb = v[b], vc = v[c], vd = v[d];

	va += vb + x;
	vd = rotate_right(vd ^ va, 16);
	vc += vd;
	vb = rotate_right(vb ^ vc, 12);
	va += vb + y;
	vd = rotate_right(vd ^ va, 8);
	vc += vd;
	vb = rotate_right(vb ^ vc, 7);
	v[a] = va;
	v[b] = vb;
	v[c] = vc;
	v[d] = vd;
}

/* One round, with the message's words in the order of a row of SIGMA (RFC 7693 section 2.7). */
#define BLAKE2S_ROUND(i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11, i12, i13, i14, i15) do {	\
	blake2s_mix(v, 0, 4, 8, 12, m[i0], m[i1]);							\
	blake2s_mix(v, 1, 5, 9, 13, m[i2], m[i3]);							\
	blake2s_mix(v, 2, 6, 10, 14, m[i4], m[i5]);							\
	blake2s_mix(v, 3, 7, 11, 15, m[i6], m[i7]);							\
	blake2s_mix(v, 0, 5, 10, 15, m[i8], m[i9]);							\
	blake2s_mix(v, 1, 6, 11, 12, m[i10], m[i11]);							\
	blake2s_mix(v, 2, 7, 8, 13, m[i12], m[i13]);							\
	blake2s_mix(v, 3, 4, 9, 14, m[i14], m[i15]);							\
} while (0)

/*
 * Compresses the message as the last block of "bytes" so far, the block of the key included; the digest is in state
 * afterwards. A global function: the verifier looks at it once. Returns 0.
 */
__attribute__((noinline)) int blake2s_last_block(struct blake2s *b, __u32 bytes)
{
	volatile __u32 *v, *m;

	if (!b)
		return 0;
	v = b->work;
	m = b->message;
#pragma unroll
	for (int i = 0; i < BLAKE2S_STATE_WORDS; i++) {
		v[i] = b->state[i];
		v[BLAKE2S_STATE_WORDS + i] = blake2s_iv[i];
	}
	v[12] ^= bytes;
	v[14] = ~v[14];		/* the last block */
	BLAKE2S_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	BLAKE2S_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
	BLAKE2S_ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4);
	BLAKE2S_ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8);
	BLAKE2S_ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13);
	BLAKE2S_ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9);
	BLAKE2S_ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11);
	BLAKE2S_ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10);
	BLAKE2S_ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5);
	BLAKE2S_ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0);
#pragma unroll
	for (int i = 0; i < BLAKE2S_STATE_WORDS; i++)
		b->state[i] ^= v[i] ^ v[BLAKE2S_STATE_WORDS + i];
	return 0;
}

#endif
