/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Typed reads of the compiled policy. An index counts elements of the type from the start of the map. Beyond the
 * map a read gives 0; the compiler never makes such an index, so this is the verifier's bound, not a case.
 */
#ifndef XDPFW_TABLES_H
#define XDPFW_TABLES_H

#include "maps.h"

/* Keeps clang from turning a masked index into a moving pointer, which the verifier can't bound. */
#define OPAQUE(x) asm volatile("" : "+r"(x))

static __always_inline const union block *table_block(__u32 number)
{
	return bpf_map_lookup_elem(&tables, &number);
}

static __always_inline __u32 table_u16(__u32 index)
{
	const union block *block = table_block(index / XDPFW_BLOCK_U16);

	OPAQUE(index);
	return block ? block->u16[index % XDPFW_BLOCK_U16] : 0;
}

static __always_inline __u32 table_u32(__u32 index)
{
	const union block *block = table_block(index / XDPFW_BLOCK_U32);

	OPAQUE(index);
	return block ? block->u32[index % XDPFW_BLOCK_U32] : 0;
}

static __always_inline __u64 table_u64(__u32 index)
{
	const union block *block = table_block(index / XDPFW_BLOCK_U64);

	OPAQUE(index);
	return block ? block->u64[index % XDPFW_BLOCK_U64] : 0;
}

static __always_inline const struct xdpfw_entry *table_entry(__u32 index)
{
	const union block *block = table_block(index / XDPFW_BLOCK_ENTRIES);

	OPAQUE(index);
	return block ? &block->entry[index % XDPFW_BLOCK_ENTRIES] : NULL;
}

#endif
