/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the data plane and user space agree on about dynamic sets, the bans among them. */
#ifndef XDPFW_ABI_SET_H
#define XDPFW_ABI_SET_H

#include <linux/types.h>

/* cffi: begin */

enum xdpfw_set_limit {
	XDPFW_SET_SLOTS = 32,			/* twice MAX_DYNAMIC_SETS: two policies' may be there at a time */
	XDPFW_BANS_SLOT = 0,			/* of the bans, in every instance */
	XDPFW_BANS_SIZE = 1 << 18,		/* entries, unless the policy says otherwise */
	XDPFW_SET_PRESENCE_BITS = 1 << 16,	/* of a family */
	XDPFW_SET_PRESENCE_WORDS = 1024,
	XDPFW_SET_LENGTH_WORDS = 3,		/* bits 0 to 128 */
};

/* Who has put a member in. */
enum xdpfw_set_origin {
	XDPFW_SET_ORIGIN_COMMAND = 0,
	XDPFW_SET_ORIGIN_RULE = 1,		/* gives way to members by commands where there is no room */
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
	__u32 origin;			/* enum xdpfw_set_origin */
	__u32 padding;
};

/*
 * A word of bits that the kernel and user space both set. Each has its own half, as user space has no atomic way to set
 * a bit; they stand for the same, and lie in one cache line.
 */
struct xdpfw_set_word {
	__u64 commands;			/* written by user space alone, which holds the instance's lock */
	__u64 rules;			/* set by the kernel; user space puts 0 here once its half has the bits that are needed */
};

/*
 * Value of the map "set_heads", by slot: what spares most packets the look-ups. Bits are set before the member that they
 * stand for is there, and taken away only by user space.
 */
struct xdpfw_set_head {
	struct xdpfw_set_word lengths[6];	/* LENGTH_WORDS a family, IPv4 first; bit n: there may be a prefix of n bits */
	__u64 refused;				/* members that rules would have added, had there been room */
	__u64 sweep_from_ns;			/* before this time, no rule looks for members whose time is over */
	/*
	 * PRESENCE_WORDS a family, IPv4 first: by the first 16 bits of an address, of IPv6 by their XOR with the second
	 * 16 bits. A wider prefix has the bits of all that it covers.
	 */
	struct xdpfw_set_word presence[2048];
};

/* Key of the map "never_ban", a longest prefix match: the family, then the address in network byte order. */
struct xdpfw_never_ban_key {
	__u32 prefix_bits;		/* 32 more than those of the address */
	__u32 family;			/* enum xdpfw_family */
	__u8 address_be[16];
};

/* cffi: end */

#endif
