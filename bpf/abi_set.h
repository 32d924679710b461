/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the data plane and user space agree on about dynamic sets, the bans among them. */
#ifndef XDPFW_ABI_SET_H
#define XDPFW_ABI_SET_H

#include <linux/types.h>

/* cffi: begin */

enum xdpfw_set_limit {
	XDPFW_BANS_SIZE = 1 << 18,		/* entries, unless the policy says otherwise */
	XDPFW_SET_PRESENCE_WORDS = 1024,	/* 65,536 bits */
	XDPFW_SET_LENGTH_WORDS = 3,		/* bits 0 to 128 */
};

/* Key of a map of a set's members. */
struct xdpfw_member_key {
	__u64 high;			/* the prefix from its highest bit down, the rest 0; IPv4 in the upper half of high */
	__u64 low;
	__u8 family;			/* enum xdpfw_family */
	__u8 prefix_bits;
	__u8 padding[6];
};

struct xdpfw_member {
	__u64 until_ns;			/* of CLOCK_BOOTTIME: a member before this time, not at it; 0: for good */
	__u64 added_ns;
};

/*
 * Value of the map "set_heads", by slot: what spares most packets the look-ups. Bits are set before the member that they
 * stand for is there, and taken away only by user space.
 */
struct xdpfw_set_head {
	__u64 lengths_v4[3];		/* LENGTH_WORDS: bit n: there may be a prefix of n bits */
	__u64 lengths_v6[3];
	__u64 refused;			/* members that rules would have added, had there been room */
	__u64 swept_ns;			/* when members whose time is over were last looked for, as the set was full */
	__u64 presence_v4[1024];	/* by the first 16 bits of an address */
	__u64 presence_v6[1024];	/* by the XOR of its first and second 16 bits */
};

/* Key of the map "never_ban", a longest prefix match: the family, then the address in network byte order. */
struct xdpfw_never_ban_key {
	__u32 prefix_bits;		/* 32 more than those of the address */
	__u32 family;			/* enum xdpfw_family */
	__u8 address_be[16];
};

/* cffi: end */

#endif
