/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parser finds and everything behind it reads. Host byte order. */
#ifndef XDPFW_PACKET_H
#define XDPFW_PACKET_H

#include "abi.h"

/* An address from its highest bit down; IPv4 in the upper half of high. */
struct address {
	__u64 high;
	__u64 low;
};

struct packet {
	__u32 bytes;				/* of the whole frame, fragments of the buffer included */
	__u32 family;				/* enum xdpfw_family */
	__u32 fragment;				/* enum xdpfw_fragment */
	__u32 payload_offset;			/* of TCP or UDP, in the frame; where knocks are used */
	__u32 payload_bytes;			/* up to the datagram's end */
	__u32 value[XDPFW_FIELD_COUNT];		/* by enum xdpfw_field; the MACs' are found by classify() */
	__u16 mac_be[XDPFW_MAC_COUNT][XDPFW_MAC_PARTS];	/* where a rule looks at them */
	struct address address[XDPFW_DIRECTION_COUNT];
};

#endif
