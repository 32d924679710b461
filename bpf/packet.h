/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parser finds and everything behind it reads. Host byte order. */
#ifndef XDPFW_PACKET_H
#define XDPFW_PACKET_H

#include "constants.h"

enum {
	IPV4_MULTICAST_HIGH = 0xe,	/* the first 4 bits of 224.0.0.0/4 */
	IPV6_MULTICAST_HIGH = 0xff,	/* the first 8 bits of ff00::/8 */

	FLAG_FIN = 0x01,		/* of TCP: RFC 9293 section 3.1 */
	FLAG_SYN = 0x02,
	FLAG_RST = 0x04,
	FLAG_ACK = 0x10,
};

/* An address from its highest bit down; IPv4 in the upper half of high. */
struct address {
	__u64 high;
	__u64 low;
};

/* A mask of the highest bits, 0 to 64 of them. */
static __always_inline __u64 leading_bits(__u32 count)
{
	return count ? ~0ULL << (64 - count) : 0;
}

struct packet {
	__u32 bytes;				/* of the whole frame, fragments of the buffer included */
	__u32 family;				/* enum xdpfw_family */
	__u32 fragment;				/* enum xdpfw_fragment */
	__u32 ip_offset;			/* of the IP header, in the frame */
	__u32 l4_offset;			/* of the upper-layer header, in the frame; 0: of a later fragment */
	__u32 fragment_id;			/* of a fragment */
	__u32 fragment_edge;			/* in its datagram's payload: where a first one ends, where a later one begins */
	/* Where flows are used: */
	__u32 l4_bytes;				/* from the upper-layer header to the datagram's end */
	__u32 tcp_seq;
	__u32 tcp_ack;
	__u32 echo_id;				/* of ICMP; of messages that have none, what is in its place */
	__u64 flow_tag;				/* see flowtable.h; 0: there are no flows of its kind, or it begins one */
	__u32 payload_offset;			/* of TCP or UDP, in the frame; where knocks are used */
	__u32 payload_bytes;			/* up to the datagram's end */
	__u32 is_spread;			/* 1: it is redirected, but to this host's own stack, on another CPU */
	__u32 value[XDPFW_FIELD_COUNT];		/* by enum xdpfw_field; the MACs' are found by classify() */
	__u16 mac_be[XDPFW_MAC_COUNT][XDPFW_MAC_PARTS];	/* where a rule looks at them */
	struct address address[XDPFW_DIRECTION_COUNT];
};

/*
 * All that the packet's own fields say to the classifier, before any rule is looked at. What the policy does not use
 * stays as it was.
 */
struct lookup {
	__u32 combined[XDPFW_MAX_GROUPS];
	__u32 pair_class[XDPFW_DIRECTION_COUNT];
	__u32 wide_class[XDPFW_DIRECTION_COUNT];
	__u32 row_key[XDPFW_DIRECTION_COUNT];
	__u32 row_condition[XDPFW_DIRECTION_COUNT];
	__u32 set_class[XDPFW_DIRECTION_COUNT];
};

/* high: of a destination. True for multicast, and IPv4's broadcast on the link. */
static __always_inline bool is_group(__u32 family, __u64 high)
{
	if (family == XDPFW_FAMILY_IPV4)
		return high >> 60 == IPV4_MULTICAST_HIGH || high >> 32 == 0xffffffff;
	return high >> 56 == IPV6_MULTICAST_HIGH;
}

/*
 * A packet of which nothing is known: each value says that there is no such field. Written out, as clang would build it
 * on the stack and copy it.
 */
static __always_inline void clear(struct packet *p)
{
	p->bytes = 0;
	p->family = XDPFW_FAMILY_OTHER;
	p->fragment = XDPFW_FRAGMENT_NONE;
	p->payload_offset = 0;
	p->payload_bytes = 0;
	p->is_spread = 0;
	p->value[XDPFW_FIELD_PROTO] = XDPFW_NO_PROTO;
	p->value[XDPFW_FIELD_DPORT] = XDPFW_NO_PORT;
	p->value[XDPFW_FIELD_SPORT] = XDPFW_NO_PORT;
	p->value[XDPFW_FIELD_KIND] = 0;
	p->value[XDPFW_FIELD_DETAIL] = XDPFW_NO_DETAIL;
	p->value[XDPFW_FIELD_ETHERTYPE] = 0;
	p->value[XDPFW_FIELD_TTL] = XDPFW_NO_TTL;
	if (CONSTANT(tracks)) {
		p->flow_tag = 0;
		p->value[XDPFW_FIELD_STATE] = XDPFW_PACKET_STATE_NONE;
	}
	if (CONSTANT(unusual_fields)) {
		p->value[XDPFW_FIELD_VLAN] = XDPFW_NO_TAG;
		p->value[XDPFW_FIELD_INNER_VLAN] = XDPFW_NO_TAG;
		p->value[XDPFW_FIELD_LENGTH] = XDPFW_NO_LENGTH;
		p->value[XDPFW_FIELD_DSCP] = XDPFW_NO_DSCP;
		p->value[XDPFW_FIELD_KNOCKED] = 0;
		p->value[XDPFW_FIELD_SRC_SETS] = 0;
		p->value[XDPFW_FIELD_DST_SETS] = 0;
	}
	p->address[XDPFW_DIRECTION_SRC] = (struct address){};
	p->address[XDPFW_DIRECTION_DST] = (struct address){};
}

#endif
