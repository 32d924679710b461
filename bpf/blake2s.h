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
	BLAKE2S_MESSAGE_WORDS = 10,	/* of the longest message that is used here: that of SPA */
};

/* In and out of blake2s_last_block(). Words are little-endian on the wire (RFC 7693 section 2.4). */
struct blake2s {
	__u32 state[BLAKE2S_STATE_WORDS];
	__u32 message[BLAKE2S_MESSAGE_WORDS];	/* padded with zeros; all behind it is zero, too */
};

static const __u32 blake2s_iv[BLAKE2S_STATE_WORDS] = {
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

/*
 * Word i of the message: what is known to be zero is neither read nor added. Volatile, or else clang reads all of
 * them at once, and puts them on the stack.
 */
#define BLAKE2S_WORD(i) ((i) < BLAKE2S_MESSAGE_WORDS ? message[(i) % BLAKE2S_MESSAGE_WORDS] : 0)

/* sum += with; mixed ^= sum */
#define BLAKE2S_ADD_XOR(sum, with, mixed)								\
	"%[" #sum "] += %[" #with "]\n"								\
	"%[" #mixed "] ^= %[" #sum "]\n"
#define BLAKE2S_ROTATE(word, right, left)								\
	"%[t] = %[" #word "]\n"									\
	"%[t] >>= %[" #right "]\n"									\
	"%[" #word "] <<= %[" #left "]\n"								\
	"%[" #word "] |= %[t]\n"

/*
 * Half of the function G (RFC 7693 section 3.1) on two columns, or diagonals, at once: while one waits for its last
 * result, the other goes on. In assembly, as clang would do one behind the other, with a fifth more instructions.
 */
#define BLAKE2S_HALF(a, b, c, d, e, f, g, h, rotate_d, rotate_b)					\
	asm volatile(BLAKE2S_ADD_XOR(A, B, D) BLAKE2S_ADD_XOR(E, F, H)						\
	    BLAKE2S_ROTATE(D, right_d, left_d) BLAKE2S_ADD_XOR(C, D, B)					\
	    BLAKE2S_ROTATE(H, right_d, left_d) BLAKE2S_ADD_XOR(G, H, F)					\
	    BLAKE2S_ROTATE(B, right_b, left_b) BLAKE2S_ROTATE(F, right_b, left_b)			\
	    : [A] "+w"(v##a), [B] "+w"(v##b), [C] "+w"(v##c), [D] "+w"(v##d),				\
	      [E] "+w"(v##e), [F] "+w"(v##f), [G] "+w"(v##g), [H] "+w"(v##h), [t] "=&w"(temporary)	\
	    : [right_d] "i"(rotate_d), [left_d] "i"(32 - rotate_d),					\
	      [right_b] "i"(rotate_b), [left_b] "i"(32 - rotate_b))

/* The function G on two columns, or diagonals, with words of the message. */
#define BLAKE2S_MIX(a, b, c, d, x, y, e, f, g, h, z, w) do {						\
	v##a += BLAKE2S_WORD(x);									\
	v##e += BLAKE2S_WORD(z);									\
	BLAKE2S_HALF(a, b, c, d, e, f, g, h, 16, 12);							\
	v##a += BLAKE2S_WORD(y);									\
	v##e += BLAKE2S_WORD(w);									\
	BLAKE2S_HALF(a, b, c, d, e, f, g, h, 8, 7);							\
} while (0)

/*
 * One round, with the message's words in the order of a row of SIGMA (RFC 7693 section 2.7). The last diagonal comes
 * first, as what it is made of was ready first.
 */
#define BLAKE2S_ROUND(i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11, i12, i13, i14, i15) do {	\
	BLAKE2S_MIX(0, 4, 8, 12, i0, i1, 1, 5, 9, 13, i2, i3);						\
	BLAKE2S_MIX(2, 6, 10, 14, i4, i5, 3, 7, 11, 15, i6, i7);					\
	BLAKE2S_MIX(3, 4, 9, 14, i14, i15, 0, 5, 10, 15, i8, i9);					\
	BLAKE2S_MIX(1, 6, 11, 12, i10, i11, 2, 7, 8, 13, i12, i13);					\
} while (0)

/*
 * Compresses the message as the last block of "bytes" so far, the block of the key included; the digest is in state
 * afterwards. A global function: the verifier looks at it once. Returns 0.
 *
 * The work vector is variables of their own, which clang keeps in registers and, spilled, on the stack, 144 bytes. As
 * an array in a map it took 40 ns longer, as loads from there wait for the stores before them.
 */
__attribute__((noinline)) int blake2s_last_block(struct blake2s *b, __u32 bytes)
{
	__u32 v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15;
	const volatile __u32 *message;
	__u32 temporary;

	if (!b)
		return 0;
	message = b->message;
	v0 = b->state[0];
	v1 = b->state[1];
	v2 = b->state[2];
	v3 = b->state[3];
	v4 = b->state[4];
	v5 = b->state[5];
	v6 = b->state[6];
	v7 = b->state[7];
	v8 = blake2s_iv[0];
	v9 = blake2s_iv[1];
	v10 = blake2s_iv[2];
	v11 = blake2s_iv[3];
	v12 = blake2s_iv[4] ^ bytes;
	v13 = blake2s_iv[5];
	v14 = ~blake2s_iv[6];		/* the last block */
	v15 = blake2s_iv[7];
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
	b->state[0] ^= v0 ^ v8;
	b->state[1] ^= v1 ^ v9;
	b->state[2] ^= v2 ^ v10;
	b->state[3] ^= v3 ^ v11;
	b->state[4] ^= v4 ^ v12;
	b->state[5] ^= v5 ^ v13;
	b->state[6] ^= v6 ^ v14;
	b->state[7] ^= v7 ^ v15;
	return 0;
}

#endif
