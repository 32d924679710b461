/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Typed reads of the compiled policy, which is one large value. An index counts elements of the type from its
 * start. The bound is a constant to the verifier, so that a read is a comparison and a load; beyond the bound a
 * read gives 0. The compiler never makes such an index.
 */
#ifndef XDPFW_TABLES_H
#define XDPFW_TABLES_H

#include "maps.h"

/* Keeps clang from rewriting what the verifier follows only as it is written. */
#define OPAQUE(x) asm volatile("" : "+r"(x))

/* A policy as the program sees it: its constants, and its tables. */
struct policy {
	const struct xdpfw_config *config;
	const void *tables;
};

/*
 * The constants, through a pointer that clang can't see through: it would put in the zeros that stand in the object
 * file. (Through "volatile" it would load each of them anew, each time.)
 */
static __always_inline const struct xdpfw_config *constants(void)
{
	const struct xdpfw_config *c = (const struct xdpfw_config *)&config;

	OPAQUE(c);
	return c;
}

#define TABLE_READ(name, type)								\
static __always_inline type table_##name(const struct policy *policy, __u64 index)	\
{											\
	OPAQUE(index);									\
	if (index >= policy->config->table_bytes / sizeof(type))			\
		return 0;								\
	return ((const type *)policy->tables)[index];					\
}

TABLE_READ(16, __u16)
TABLE_READ(32, __u32)
TABLE_READ(64, __u64)

static __always_inline const struct xdpfw_entry *table_entry(const struct policy *policy, __u64 index)
{
	OPAQUE(index);
	if (index >= policy->config->table_bytes / sizeof(struct xdpfw_entry))
		return NULL;
	return (const struct xdpfw_entry *)policy->tables + index;
}

/*
 * Index of the lowest bit that is set; bits is not 0. The ones below it are counted, without a branch: each would
 * double the verifier's work. (clang 16 does not come to an end over __builtin_ctzll() here.)
 */
static __always_inline __u32 lowest_bit(__u64 bits)
{
	__u64 below = (bits & -bits) - 1;

	OPAQUE(below);
	below -= below >> 1 & 0x5555555555555555ULL;
	below = (below & 0x3333333333333333ULL) + (below >> 2 & 0x3333333333333333ULL);
	below = (below + (below >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return below * 0x0101010101010101ULL >> 56;
}

#endif
