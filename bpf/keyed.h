/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keyed hashes of what a packet says of itself. Nobody who does not know the instance's secret can tell which packets fall
 * together, so that nobody can aim a flood at a single bucket.
 *
 * Each half of an address is multiplied by itself, with a secret in it, and folded by a distance of its own before the
 * halves meet: what is done to one can't be undone in another. What comes behind that makes every bit depend on all.
 */
#ifndef XDPFW_KEYED_H
#define XDPFW_KEYED_H

#include "constants.h"
#include "packet.h"

static __always_inline __u64 keyed_half(__u64 half, __u64 secret, __u64 factor, __u32 fold)
{
	half = (half ^ secret) * factor;
	return half ^ half >> fold;
}

static __always_inline __u64 keyed_source(__u64 high, __u64 low)
{
	return keyed_half(high, CONSTANT_64(hash_secret[0]), 0x9e3779b97f4a7c15ULL, 32) ^
	       keyed_half(low, CONSTANT_64(hash_secret[1]), 0xc4ceb9fe1a85ec53ULL, 29);
}

static __always_inline __u64 keyed_destination(__u64 high, __u64 low)
{
	return keyed_half(high, CONSTANT_64(hash_secret[1]), 0xff51afd7ed558ccdULL, 27) ^
	       keyed_half(low, CONSTANT_64(hash_secret[0]), 0xd1b54a32d192ed03ULL, 31);
}

/* Takes one more word into a hash. */
static __always_inline __u64 keyed_with(__u64 hash, __u64 word)
{
	hash = (hash + word) * 0xd6e8feb86659fd93ULL;
	return hash ^ hash >> 32;
}

/* The hash, when all is in it. */
static __always_inline __u64 keyed_end(__u64 hash)
{
	return keyed_with(keyed_with(hash, CONSTANT_64(hash_secret[1])), CONSTANT_64(hash_secret[0]));
}

#endif
