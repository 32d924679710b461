/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the data plane and user space agree on about limits: token buckets, and those who have shown that they exist. */
#ifndef XDPFW_ABI_LIMIT_H
#define XDPFW_ABI_LIMIT_H

#include <linux/types.h>

/* cffi: begin */

enum xdpfw_limit_bound {
	XDPFW_LIMIT_BUCKETS = 1 << 16,		/* of BUCKET_SLOTS token buckets each */
	XDPFW_ACQUAINTANCE_BUCKETS = 1 << 13,	/* of BUCKET_SLOTS sources each */
};

enum xdpfw_limit_per {
	XDPFW_LIMIT_PER_RULE,
	XDPFW_LIMIT_PER_SRC,
	XDPFW_LIMIT_PER_FLOW,
};

/* Value of the map "limits", by number. Times are in units of 2^-LIMIT_FRACTION_BITS ns. */
struct xdpfw_rate {
	__u64 id;			/* of the rule's name and the limit: what buckets in "limit_buckets" go by */
	__u64 cost;			/* what one packet or byte takes up; see limit.h for its unit */
	__u64 depth;			/* what a whole burst takes up */
	__u8 per;			/* enum xdpfw_limit_per */
	__u8 in_bytes;
	__u8 v4_bits;
	__u8 v6_bits;
	__u32 exceed;			/* enum xdpfw_verdict */
};

/* A token bucket: when it is full again. */
struct xdpfw_limit_slot {
	__u64 tag;			/* keyed hash of limit and source; 0: empty */
	__u64 full_at;			/* boot time in the unit of struct xdpfw_rate */
};

/* Value of the map "limit_buckets". */
struct xdpfw_limit_slots {
	struct xdpfw_limit_slot slots[8];	/* BUCKET_SLOTS */
};

/* Per-CPU value of the map "limit_counters", by number of a limit. */
struct xdpfw_limit_counter {
	__u64 exceeded;			/* packets */
	__u64 exceeded_bytes;
	__u64 shared;			/* packets of a source whose bucket had to begin with what another one owed */
	__u64 padding;
};

/* Value of the map "acquaintances": sources that have sent a SYN cookie back. tag << 32 | s of boot time; 0: empty. */
struct xdpfw_acquaintances {
	__u64 slots[8];			/* BUCKET_SLOTS */
};

/* cffi: end */

#endif
