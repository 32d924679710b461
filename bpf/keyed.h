/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keyed hashes of what a packet says of itself: NH (RFC 4418 section 5.2), the sum of one product a word, each word with a
 * secret of its own. Two inputs that were chosen without knowing the secrets differ by a given number in one of 2^32
 * instances, whatever they are: so nobody can aim a flood at a single bucket, nor be taken for another by his choice of
 * addresses. keyed_end() makes every bit depend on all.
 */
#ifndef XDPFW_KEYED_H
#define XDPFW_KEYED_H

#include "constants.h"

static __always_inline __u64 keyed_product(__u64 word, __u64 secret)
{
	return (__u64)((__u32)word + (__u32)secret) * ((__u32)(word >> 32) + (__u32)(secret >> 32));
}

/* The share of a word; its number is a constant. */
#define KEYED(number, word) keyed_product(word, CONSTANT_64(word_secrets[number]))

/* The hash of a sum of shares. */
static __always_inline __u64 keyed_end(__u64 sum)
{
	sum = (sum ^ sum >> 32 ^ CONSTANT_64(hash_secret[0])) * 0x9e3779b97f4a7c15ULL;
	sum = (sum ^ sum >> 29) * 0xd6e8feb86659fd93ULL;
	return sum ^ sum >> 32;
}

#endif
