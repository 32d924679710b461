/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the data plane and user space agree on about flows and fragments: state that outlives a generation. */
#ifndef XDPFW_ABI_FLOW_H
#define XDPFW_ABI_FLOW_H

#include <linux/types.h>

/* cffi: begin */

enum xdpfw_flow_limit {
	XDPFW_FLOW_BUCKETS = 1 << 15,		/* of BUCKET_SLOTS flows each */
	XDPFW_INCOMING_BUCKETS = 1 << 17,
	XDPFW_FRAGMENT_BUCKETS = 1 << 13,
};

/* How far a flow has come; see flow.h. */
enum xdpfw_flow_state {
	XDPFW_FLOW_NONE,
	XDPFW_FLOW_SYN_SENT,		/* TCP: this side has sent a SYN, and nothing came back */
	XDPFW_FLOW_ANSWERED,		/* TCP: this side's SYN was answered, and that answer is not acknowledged */
	XDPFW_FLOW_HALF_OPEN,		/* TCP: this side has answered a SYN, and its answer is not acknowledged */
	XDPFW_FLOW_ESTABLISHED,
	XDPFW_FLOW_CLOSING,		/* TCP: a FIN was there */
	XDPFW_FLOW_CLOSED,		/* TCP: a RST was there */
	XDPFW_FLOW_UNREPLIED,		/* others: sent by this side, and nothing came since */
	XDPFW_FLOW_REPLIED,		/* others: both sides have sent */
};

/*
 * Whom a flow gives way to where there is no room: to flows of its own rank and above. So what outsiders can make with
 * forged sources drives out nothing else.
 */
enum xdpfw_flow_rank {
	XDPFW_FLOW_ANSWER,		/* begun by the other side, or sent on for somebody, who has not shown that he gets
					   what is sent to him; or TCP whose beginning was not seen */
	XDPFW_FLOW_OWN,			/* begun by this host, or TCP whose beginner has acknowledged the answer */
};

/*
 * "Remote" is who sends the packets that XDP sees. Of an ICMP echo, local_port is its id, remote_port the type of the
 * messages that come in.
 */
struct xdpfw_flow_key {
	__u64 remote_high;		/* addresses as in struct address */
	__u64 remote_low;
	__u64 local_high;
	__u64 local_low;
	__u16 remote_port;
	__u16 local_port;
	__u8 protocol;
	__u8 family;			/* enum xdpfw_family */
	__u16 padding;
};

/* Element of the map "flows", bucket * BUCKET_SLOTS + slot; what is there counts if its tag in "flow_tags" is not 0. */
struct xdpfw_flow {
	struct xdpfw_flow_key key;
	__u64 until_ns;			/* of CLOCK_BOOTTIME: it counts before this time, not at it */
	__u32 expected_ack;		/* HALF_OPEN, ANSWERED: the acknowledgement that confirms it */
	__u8 state;			/* enum xdpfw_flow_state */
	__u8 rank;			/* enum xdpfw_flow_rank */
	__u16 padding;
	__u64 created_ns;
};

/* Value of the map "flow_tags": a cache line of 64 bits of the flows' keyed hashes; 0: the slot is empty. */
struct xdpfw_flow_tags {
	__u64 slots[8];			/* BUCKET_SLOTS */
};

/*
 * Value of the map "incoming": datagrams that came and were passed though they belong to no flow. What this side sends
 * back is an answer. tag << 32 | ms of boot time, which goes round after 49 days; 0: empty.
 */
struct xdpfw_incoming {
	__u64 slots[8];			/* BUCKET_SLOTS */
};

/* What became of a datagram's first fragment. */
struct xdpfw_fragment_slot {
	__u64 tag;			/* keyed hash of the datagram; 0: empty; 1: being written */
	__u64 until_ns;			/* of CLOCK_BOOTTIME: it counts before this time, not at it */
	__u32 generation;		/* whose rule it is */
	__u32 key;			/* enum xdpfw_key: of the rule that decided */
	__u16 edge;			/* where the first fragment ends, in bytes of the datagram's payload */
	__u8 reason;			/* enum xdpfw_reason */
	__u8 verdict;			/* enum xdpfw_verdict */
	__u32 padding;
};

/* Value of the map "fragments", a bucket. */
struct xdpfw_fragments {
	struct xdpfw_fragment_slot slots[4];
};

/* Per-CPU value of the map "flow_counters". */
struct xdpfw_flow_counter {
	__u64 created;
	__u64 evicted;			/* live flows that gave way to others */
	__u64 refused;			/* flows for which there was no room */
	__u64 related;			/* ICMP errors that quote a flow */
	__u64 sockets;			/* packets of no flow for which there was a local TCP socket */
	__u64 fragments_followed;
	__u64 fragments_unknown;	/* later fragments whose first one is not known */
	__u64 padding;
};

/* cffi: end */

#endif
