/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * xdp_md -> struct packet: Ethernet, VLAN tags, IPv4 with options, IPv6 with extension headers, fragments, L4.
 *
 * Every header is read through pull(), which knows three ends: of the linear part (behind it the helper reads), of
 * the frame, and of the IP datagram (behind it is padding, whatever the bytes look like).
 *
 * Each parser returns 0 (XDPFW_REASON_RULE: rules may decide) or the reason for which the packet is invalid.
 */
#ifndef XDPFW_PARSE_H
#define XDPFW_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>

#include "maps.h"
#include "packet.h"
#include "tables.h"

enum {
	IPV4_FRAGMENT_OFFSET = 0x1fff,
	IPV4_MORE_FRAGMENTS = 0x2000,
	IPV4_DONT_FRAGMENT = 0x4000,
	IPV6_FRAGMENT_OFFSET = 0xfff8,	/* in bytes */
	IPV6_MORE_FRAGMENTS = 0x0001,
	FRAGMENT_UNIT_BYTES = 8,	/* of IPv4's offset */
	TCP_MIN_WORDS = 5,
	TCP_FLAGS_OFFSET = 13,		/* RFC 9293 section 3.1 */
	IPV4_MIN_WORDS = 5,
	PORTS_UDP_BYTES = 8,		/* UDP (RFC 768), UDP-Lite (RFC 3828) */
	PORTS_SCTP_BYTES = 12,		/* SCTP (RFC 9260), DCCP (RFC 4340) */
	ICMP_BYTES = 8,			/* RFC 792, RFC 4443 */

	/* More than all headers that parse() walks, less than the verifier's bound for offsets. */
	MAX_OFFSET = 0x7fff,
};

struct ethernet {
	__be16 mac[XDPFW_MAC_COUNT][XDPFW_MAC_PARTS];	/* destination first, as on the wire */
	__be16 type;
};

struct vlan_tag {
	__be16 tci;
	__be16 type;
};

/* The first 8 bytes of every extension header; only a fragment header uses the second half. */
struct extension {
	__u8 next;
	__u8 length;
	__be16 fragment;
	__be32 id;
};

struct ports {
	__be16 source;
	__be16 destination;
	__u32 rest;
};

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__u32 rest;
};

/* Room for any header that does not lie in the linear part; one at a time. */
union header {
	struct ethernet ethernet;
	struct vlan_tag tag;
	struct iphdr ipv4;
	struct ipv6hdr ipv6;
	struct extension extension;
	struct tcphdr tcp;
	struct ports ports;
	struct icmp icmp;
};

struct cursor {
	struct xdp_md *ctx;
	void *data;
	void *data_end;
	__u32 offset;		/* of the next header in the frame */
	__u32 end;		/* of what may be read: the linear part's, the frame's, then the datagram's */
	__u32 bytes;		/* of the frame */
	bool is_exact;		/* the end is not only the linear part's */
	union header *buffer;
};

/* Asks for the frame's length, all its buffers included: a call that costs a third of what all of parsing does. */
static __always_inline void ask_length(struct cursor *c)
{
	c->bytes = bpf_xdp_get_buff_len(c->ctx);
}

/* True if so many bytes from the cursor on lie before the end. Most frames are linear, and nothing need be asked. */
static __always_inline bool has(struct cursor *c, __u32 bytes)
{
	if (c->offset + bytes <= c->end)
		return true;
	if (c->is_exact)
		return false;
	ask_length(c);
	c->end = c->bytes;
	c->is_exact = true;
	return c->offset + bytes <= c->end;
}

/*
 * What lies behind the datagram, whose length has() has confirmed, is padding. No driver splits a frame just there,
 * so that a datagram which ends with the linear part is taken to be all of the frame. If one did, the bytes of the
 * padding would not be counted; nothing else would change.
 */
static __always_inline void end_at_datagram(struct cursor *c, __u32 length)
{
	__u32 end = c->offset + length;

	/* Padding that no driver adds may go on in further buffers. */
	if (!c->is_exact && end != c->end && c->end > ETH_ZLEN)
		ask_length(c);
	c->end = end;
	c->is_exact = true;
}

/*
 * The size bytes at the cursor, or NULL if the end comes earlier. They are read where they lie; those that reach
 * beyond the linear part come in the buffer. Reads may be unaligned: the JITs of all machines with XDP drivers do that.
 */
static __always_inline const void *pull(struct cursor *c, __u32 size)
{
	__u32 offset = c->offset;
	const void *here;

	if (offset > MAX_OFFSET || !has(c, size))
		return NULL;
	here = c->data + offset;
	if (here + size <= c->data_end)
		return here;
	return bpf_xdp_load_bytes(c->ctx, offset, c->buffer, size) ? NULL : c->buffer;
}

static __always_inline bool is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

static __always_inline enum xdpfw_reason parse_ethernet(struct cursor *c, struct packet *p)
{
	const struct ethernet *ethernet;
	const struct vlan_tag *tag;
	__be16 type;

	ethernet = pull(c, sizeof(*ethernet));
	if (!ethernet)
		return XDPFW_REASON_INVALID_ETHERNET;
	c->offset += sizeof(*ethernet);
	if (CONSTANT(fields[XDPFW_FIELD_DST_MAC].used))
		__builtin_memcpy(p->mac_be[XDPFW_MAC_DST], ethernet->mac[0], ETH_ALEN);
	if (CONSTANT(fields[XDPFW_FIELD_SRC_MAC].used))
		__builtin_memcpy(p->mac_be[XDPFW_MAC_SRC], ethernet->mac[1], ETH_ALEN);
	type = ethernet->type;

	for (int i = 0; i <= XDPFW_MAX_VLAN_TAGS; i++) {
		if (!is_vlan(type))
			break;
		if (i == XDPFW_MAX_VLAN_TAGS)
			return XDPFW_REASON_INVALID_VLAN_TAGS;
		tag = pull(c, sizeof(*tag));
		if (!tag)
			return XDPFW_REASON_INVALID_ETHERNET;
		c->offset += sizeof(*tag);
		if (i == 0)
			p->value[XDPFW_FIELD_VLAN] = bpf_ntohs(tag->tci) & 0xfff;
		else if (i == 1)
			p->value[XDPFW_FIELD_INNER_VLAN] = bpf_ntohs(tag->tci) & 0xfff;
		type = tag->type;
	}
	p->value[XDPFW_FIELD_ETHERTYPE] = bpf_ntohs(type);
	return 0;
}

static __always_inline enum xdpfw_reason parse_ipv4(struct cursor *c, struct packet *p)
{
	const struct iphdr *ip;
	__u32 header_bytes, length, fragment;

	ip = pull(c, sizeof(*ip));
	if (!ip)
		return XDPFW_REASON_INVALID_IPV4_HEADER;
	if (ip->version != 4)
		return XDPFW_REASON_INVALID_IPV4_VERSION;
	header_bytes = ip->ihl * 4;
	length = bpf_ntohs(ip->tot_len);
	if (ip->ihl < IPV4_MIN_WORDS || header_bytes > length)
		return XDPFW_REASON_INVALID_IPV4_IHL;
	if (!has(c, length))
		return XDPFW_REASON_INVALID_IPV4_LENGTH;
	end_at_datagram(c, length);
	c->offset += header_bytes;

	fragment = bpf_ntohs(ip->frag_off);
	if (fragment & IPV4_FRAGMENT_OFFSET) {
		p->fragment = XDPFW_FRAGMENT_LATER;
		p->fragment_edge = (fragment & IPV4_FRAGMENT_OFFSET) * FRAGMENT_UNIT_BYTES;
		p->fragment_id = bpf_ntohs(ip->id);
	} else if (fragment & IPV4_MORE_FRAGMENTS) {
		p->fragment = XDPFW_FRAGMENT_FIRST;
		p->fragment_edge = length - header_bytes;
		p->fragment_id = bpf_ntohs(ip->id);
	}
	p->family = XDPFW_FAMILY_IPV4;
	if (CONSTANT(fields[XDPFW_FIELD_KIND].used))
		p->value[XDPFW_FIELD_KIND] = (ip->ihl > IPV4_MIN_WORDS) << XDPFW_KIND_OPTIONS_SHIFT;
	p->value[XDPFW_FIELD_PROTO] = ip->protocol;
	if (CONSTANT(unusual_fields)) {
		p->value[XDPFW_FIELD_LENGTH] = length;
		p->value[XDPFW_FIELD_TTL] = ip->ttl;
		p->value[XDPFW_FIELD_DSCP] = ip->tos >> 2;
	}
	p->address[XDPFW_DIRECTION_SRC].high = (__u64)bpf_ntohl(ip->saddr) << 32;
	p->address[XDPFW_DIRECTION_DST].high = (__u64)bpf_ntohl(ip->daddr) << 32;
	return 0;
}

static __always_inline bool is_extension(__u32 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_AH || next == IPPROTO_DSTOPTS || next == IPPROTO_MH;
}

static __always_inline __u32 extension_bytes(__u32 type, __u32 length)
{
	if (type == IPPROTO_FRAGMENT)
		return sizeof(struct extension);	/* its length byte is reserved */
	if (type == IPPROTO_AH)
		return (length + 2) * 4;		/* RFC 4302 section 2.2 */
	return (length + 1) * 8;
}

/* A walk along extension headers. */
struct extension_walk {
	__u32 offset;		/* of the next header in the frame */
	__u32 end;		/* of the datagram */
	__u32 next;		/* protocol of the next header */
	__u32 fragment;		/* enum xdpfw_fragment, so far */
	__u32 fragment_id;	/* and its other fields, as struct packet has them */
	__u32 fragment_edge;
	__u32 options;		/* 1: a header other than fragment was there */
};

/*
 * Steps over one extension header. Returns 0, or -1 if it is cut short. A global function: the verifier looks at it
 * once and forgets what it knew of the walk, or else eight headers of six kinds would be 6^8 paths to it.
 */
__attribute__((noinline)) int step_extension(struct xdp_md *ctx, struct extension_walk *walk)
{
	const struct extension *extension;
	union header buffer;
	struct cursor c;
	__u32 bytes, fragment;

	if (!walk)
		return -1;
	c = (struct cursor){
		.ctx = ctx,
		.data = (void *)(long)ctx->data,
		.data_end = (void *)(long)ctx->data_end,
		.offset = walk->offset,
		.end = walk->end,
		.is_exact = true,
		.buffer = &buffer,
	};
	extension = pull(&c, sizeof(*extension));
	if (!extension)
		return -1;
	bytes = extension_bytes(walk->next, extension->length);
	if (!has(&c, bytes))
		return -1;
	walk->offset = c.offset + bytes;
	if (walk->next == IPPROTO_FRAGMENT) {
		fragment = bpf_ntohs(extension->fragment);
		/* Without offset and more to come, it is an atomic fragment: a whole datagram (RFC 6946). */
		if (fragment & IPV6_FRAGMENT_OFFSET) {
			walk->fragment = XDPFW_FRAGMENT_LATER;
			walk->fragment_edge = fragment & IPV6_FRAGMENT_OFFSET;
			walk->fragment_id = bpf_ntohl(extension->id);
		} else if (fragment & IPV6_MORE_FRAGMENTS) {
			walk->fragment = XDPFW_FRAGMENT_FIRST;
			walk->fragment_edge = walk->end - walk->offset;
			walk->fragment_id = bpf_ntohl(extension->id);
		}
	} else {
		walk->options = 1;
	}
	walk->next = extension->next;
	return 0;
}

/* Walks to the upper-layer header (RFC 8200 section 4), or to the payload of a later fragment. */
static __always_inline enum xdpfw_reason parse_extensions(struct cursor *c, struct packet *p, __u8 next)
{
	struct extension_walk walk = { .offset = c->offset, .end = c->end, .next = next };

	for (int i = 0; i <= XDPFW_MAX_EXTENSION_HEADERS; i++) {
		if (walk.fragment == XDPFW_FRAGMENT_LATER || !is_extension(walk.next))
			break;
		if (i == XDPFW_MAX_EXTENSION_HEADERS)
			return XDPFW_REASON_INVALID_EXTENSION_HEADERS;
		if (step_extension(c->ctx, &walk))
			return walk.fragment == XDPFW_FRAGMENT_FIRST ? XDPFW_REASON_INVALID_FIRST_FRAGMENT :
								       XDPFW_REASON_INVALID_EXTENSION;
	}
	c->offset = walk.offset;
	p->fragment = walk.fragment;
	p->fragment_id = walk.fragment_id;
	p->fragment_edge = walk.fragment_edge;
	p->value[XDPFW_FIELD_PROTO] = walk.next;
	p->value[XDPFW_FIELD_KIND] = walk.options << XDPFW_KIND_OPTIONS_SHIFT;
	return 0;
}

static __always_inline __u64 high_half(const struct in6_addr *a)
{
	return (__u64)bpf_ntohl(a->s6_addr32[0]) << 32 | bpf_ntohl(a->s6_addr32[1]);
}

static __always_inline __u64 low_half(const struct in6_addr *a)
{
	return (__u64)bpf_ntohl(a->s6_addr32[2]) << 32 | bpf_ntohl(a->s6_addr32[3]);
}

static __always_inline enum xdpfw_reason parse_ipv6(struct cursor *c, struct packet *p)
{
	const struct ipv6hdr *ip;
	__u32 length;

	ip = pull(c, sizeof(*ip));
	if (!ip)
		return XDPFW_REASON_INVALID_IPV6_HEADER;
	if (ip->version != 6)
		return XDPFW_REASON_INVALID_IPV6_VERSION;
	length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	if (!has(c, length))
		return XDPFW_REASON_INVALID_IPV6_LENGTH;
	end_at_datagram(c, length);
	c->offset += sizeof(*ip);

	p->family = XDPFW_FAMILY_IPV6;
	p->value[XDPFW_FIELD_TTL] = ip->hop_limit;	/* which neighbour discovery is known by */
	if (CONSTANT(unusual_fields)) {
		p->value[XDPFW_FIELD_LENGTH] = length;
		p->value[XDPFW_FIELD_DSCP] = ip->priority << 2 | ip->flow_lbl[0] >> 6;
	}
	p->address[XDPFW_DIRECTION_SRC].high = high_half(&ip->saddr);
	p->address[XDPFW_DIRECTION_SRC].low = low_half(&ip->saddr);
	p->address[XDPFW_DIRECTION_DST].high = high_half(&ip->daddr);
	p->address[XDPFW_DIRECTION_DST].low = low_half(&ip->daddr);
	return parse_extensions(c, p, ip->nexthdr);
}

static __always_inline enum xdpfw_reason too_short(const struct packet *p)
{
	return p->fragment == XDPFW_FRAGMENT_FIRST ? XDPFW_REASON_INVALID_FIRST_FRAGMENT :
						     XDPFW_REASON_INVALID_L4_HEADER;
}

/* Where the payload is, for what looks into it: steps and SPA. */
static __always_inline void note_payload(const struct cursor *c, struct packet *p, __u32 header_bytes)
{
	if (!CONSTANT(knock_rules))
		return;
	p->payload_offset = c->offset + header_bytes;
	p->payload_bytes = c->end - p->payload_offset;
}

static __always_inline enum xdpfw_reason parse_tcp(struct cursor *c, struct packet *p)
{
	const struct tcphdr *tcp;

	tcp = pull(c, sizeof(*tcp));
	if (!tcp)
		return too_short(p);
	if (tcp->doff < TCP_MIN_WORDS)
		return XDPFW_REASON_INVALID_TCP_OFFSET;
	if (!has(c, tcp->doff * 4))
		return too_short(p);
	p->value[XDPFW_FIELD_SPORT] = bpf_ntohs(tcp->source);
	p->value[XDPFW_FIELD_DPORT] = bpf_ntohs(tcp->dest);
	p->value[XDPFW_FIELD_DETAIL] = XDPFW_DETAIL_TCP + ((const __u8 *)tcp)[TCP_FLAGS_OFFSET];
	if (CONSTANT(tracks)) {
		p->tcp_seq = bpf_ntohl(tcp->seq);
		p->tcp_ack = bpf_ntohl(tcp->ack_seq);
	}
	note_payload(c, p, tcp->doff * 4);
	return 0;
}

static __always_inline enum xdpfw_reason parse_ports(struct cursor *c, struct packet *p, __u32 header_bytes)
{
	const struct ports *ports;

	if (!has(c, header_bytes))
		return too_short(p);
	ports = pull(c, sizeof(*ports));
	if (!ports)
		return too_short(p);
	p->value[XDPFW_FIELD_SPORT] = bpf_ntohs(ports->source);
	p->value[XDPFW_FIELD_DPORT] = bpf_ntohs(ports->destination);
	note_payload(c, p, header_bytes);
	return 0;
}

static __always_inline enum xdpfw_reason parse_icmp(struct cursor *c, struct packet *p, __u32 first_detail)
{
	const struct icmp *icmp;

	icmp = pull(c, sizeof(*icmp));
	if (!icmp)
		return too_short(p);
	p->value[XDPFW_FIELD_DETAIL] = first_detail + (icmp->type << 8 | icmp->code);
	if (CONSTANT(tracks))
		p->echo_id = bpf_ntohl(icmp->rest) >> 16;
	return 0;
}

static __always_inline enum xdpfw_reason parse_l4(struct cursor *c, struct packet *p)
{
	switch (p->value[XDPFW_FIELD_PROTO]) {
	case IPPROTO_TCP:
		return parse_tcp(c, p);
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
		return parse_ports(c, p, PORTS_UDP_BYTES);
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		return parse_ports(c, p, PORTS_SCTP_BYTES);
	case IPPROTO_ICMP:
		return p->family == XDPFW_FAMILY_IPV4 ? parse_icmp(c, p, XDPFW_DETAIL_ICMP) : 0;
	case IPPROTO_ICMPV6:
		return p->family == XDPFW_FAMILY_IPV6 ? parse_icmp(c, p, XDPFW_DETAIL_ICMPV6) : 0;
	default:
		return 0;
	}
}

static __always_inline enum xdpfw_reason parse_frame(struct cursor *c, struct packet *p)
{
	enum xdpfw_reason reason;

	reason = parse_ethernet(c, p);
	if (reason)
		return reason;
	if (CONSTANT(tracks) || CONSTANT(routes))
		p->ip_offset = c->offset;
	switch (p->value[XDPFW_FIELD_ETHERTYPE]) {
	case ETH_P_IP:
		reason = parse_ipv4(c, p);
		break;
	case ETH_P_IPV6:
		reason = parse_ipv6(c, p);
		break;
	default:
		ask_length(c);
		return 0;
	}
	if (CONSTANT(tracks) || CONSTANT(routes))
		p->l4_offset = p->fragment == XDPFW_FRAGMENT_LATER ? 0 : c->offset;
	if (CONSTANT(tracks))
		p->l4_bytes = c->end - c->offset;
	if (!reason && p->fragment != XDPFW_FRAGMENT_LATER)
		reason = parse_l4(c, p);
	if (CONSTANT(fields[XDPFW_FIELD_KIND].used))
		p->value[XDPFW_FIELD_KIND] |= p->family | p->fragment << XDPFW_KIND_FRAGMENT_SHIFT;
	return reason;
}

/* Fills p, whose values must all say "no such field" and whose addresses must be 0. */
static __always_inline enum xdpfw_reason parse(struct xdp_md *ctx, struct packet *p)
{
	union header buffer;
	struct cursor c = {
		.ctx = ctx,
		.data = (void *)(long)ctx->data,
		.data_end = (void *)(long)ctx->data_end,
		.buffer = &buffer,
	};
	enum xdpfw_reason reason;
	__u64 linear = c.data_end - c.data;

	OPAQUE(linear);		/* or else clang subtracts pointers in 32 bits, which the verifier refuses */
	c.end = linear;
	c.bytes = linear;
	reason = parse_frame(&c, p);
	if (reason)
		ask_length(&c);
	p->bytes = c.bytes;
	return reason;
}

#endif
