/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the data plane and user space agree on about limits: token buckets, and those who have shown that they exist. */
#ifndef XDPFW_ABI_LIMIT_H
#define XDPFW_ABI_LIMIT_H

#include <linux/types.h>

/* cffi: begin */

enum xdpfw_limit_bound {
	XDPFW_LIMIT_BUCKETS = 1 << 16,		/* of BUCKET_SLOTS token buckets each */
	XDPFW_ACQUAINTANCE_BUCKETS = 1 << 13,	/* of BUCKET_SLOTS sources each */
	XDPFW_ASKED_SLOTS = 1 << 10,		/* of the map "asked" */
};

/* Of token buckets; see limit.h. */
enum xdpfw_limit_unit {
	XDPFW_LIMIT_FRACTION_BITS = 8,		/* times are in units of 2^-8 ns, which go round after 834 days */
	XDPFW_LIMIT_DEPTH_BITS = 61,		/* a whole burst takes up less than 2^61 units, 104 days */
	XDPFW_LIMIT_COST_BITS = 46,		/* what a byte takes up, with its fraction, is less than 2^46 */
	XDPFW_LIMIT_COST_SHIFT = 16,		/* the most bits of that fraction */
	XDPFW_LIMIT_MOST_BYTES = (1 << 17) - 1,	/* of a frame; longer ones, which no driver has, cost no more */
	XDPFW_LIMIT_MARK_BITS = 16,		/* of a tag: what tells limits apart */
};

enum xdpfw_limit_per {
	XDPFW_LIMIT_PER_RULE,
	XDPFW_LIMIT_PER_SRC,
	XDPFW_LIMIT_PER_FLOW,
};

/* Value of the map "limits", by number. Times are in units of 2^-LIMIT_FRACTION_BITS ns. */
struct xdpfw_rate {
	__u64 id;			/* of the rule's name and the limit: what buckets in "limit_buckets" go by */
	__u64 cost;			/* what a packet takes up; or what a byte does, << cost_shift */
	__u64 depth;			/* what a whole burst takes up */
	__u64 v4_mask;			/* of sources that share a bucket, as struct address has them: its upper half */
	__u64 v6_mask_high;
	__u64 v6_mask_low;
	__u8 per;			/* enum xdpfw_limit_per */
	__u8 in_bytes;
	__u8 cost_shift;
	__u8 exceed;			/* enum xdpfw_verdict */
	__u8 by_tick;			/* 1: a time that is a tick old will do to see that a packet is within the limit */
	__u8 padding[3];
	__u64 padding2;
};

/* A token bucket: when it is full again. */
struct xdpfw_limit_slot {
	__u64 tag;			/* keyed hash of limit and source, the lowest LIMIT_MARK_BITS of the id; 0: empty */
	__u64 full_at;			/* boot time in the unit of struct xdpfw_rate */
};

/* Value of the map "limit_totals", by number of a limit: a cache line, so that limits do not wait for each other. */
struct xdpfw_limit_total {
	struct xdpfw_limit_slot slot;	/* its tag is not used */
	__u64 padding[6];
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
