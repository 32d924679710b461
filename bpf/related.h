/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What belongs to this side's flows without being a packet of one that is known: ICMP errors, and local sockets'. */
#ifndef XDPFW_RELATED_H
#define XDPFW_RELATED_H

#include "allow.h"
#include "flowtable.h"
#include "packet.h"
#include "parse.h"
#include "scratch.h"

enum {
	QUOTED_L4_BYTES = 8,		/* RFC 792: so much of the datagram is quoted at least */
};

/*
 * Whether this host has a TCP socket for packets of this flow, other than one that listens: what was open before flows were
 * followed, or has lost its place. Test runs must be the same each time, and know none. A global function.
 */
__attribute__((noinline)) int has_socket(struct xdp_md *ctx, const struct xdpfw_flow_key *key)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	__u32 bytes, state;

	if (!key || CONSTANT(trace) || is_group(key->family, key->local_high))
		return 0;
	if (key->family == XDPFW_FAMILY_IPV4) {
		tuple.ipv4.saddr = bpf_htonl(key->remote_high >> 32);
		tuple.ipv4.daddr = bpf_htonl(key->local_high >> 32);
		tuple.ipv4.sport = bpf_htons(key->remote_port);
		tuple.ipv4.dport = bpf_htons(key->local_port);
		bytes = sizeof(tuple.ipv4);
	} else {
		tuple.ipv6.saddr[0] = bpf_htonl(key->remote_high >> 32);
		tuple.ipv6.saddr[1] = bpf_htonl(key->remote_high);
		tuple.ipv6.saddr[2] = bpf_htonl(key->remote_low >> 32);
		tuple.ipv6.saddr[3] = bpf_htonl(key->remote_low);
		tuple.ipv6.daddr[0] = bpf_htonl(key->local_high >> 32);
		tuple.ipv6.daddr[1] = bpf_htonl(key->local_high);
		tuple.ipv6.daddr[2] = bpf_htonl(key->local_low >> 32);
		tuple.ipv6.daddr[3] = bpf_htonl(key->local_low);
		tuple.ipv6.sport = bpf_htons(key->remote_port);
		tuple.ipv6.dport = bpf_htons(key->local_port);
		bytes = sizeof(tuple.ipv6);
	}
	socket = bpf_skc_lookup_tcp(ctx, &tuple, bytes, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return 0;
	state = socket->state;
	bpf_sk_release(socket);
	if (state == BPF_TCP_LISTEN)
		return 0;
	count_flow(COUNT_FLOW_SOCKET);
	return 1;
}

/*
 * The key of the flow whose packet an ICMP error quotes, into the scratch. Returns 0 if this side has sent no such packet,
 * by all that can be seen: who is told of it must be its sender. A global function.
 */
__attribute__((noinline)) int find_quoted(struct xdp_md *ctx, const struct packet *p)
{
	struct scratch *scratch = scratch_of_cpu();
	struct extension_walk walk = {};
	struct xdpfw_flow_key *key;
	union header header;

	if (!p || !scratch)
		return 0;
	key = &scratch->flow_key;
	walk.offset = p->l4_offset + ICMP_BYTES;
	walk.end = p->l4_offset + p->l4_bytes;
	if (p->family == XDPFW_FAMILY_IPV4) {
		if (walk.offset + sizeof(header.ipv4) > walk.end ||
		    bpf_xdp_load_bytes(ctx, walk.offset, &header, sizeof(header.ipv4)))
			return 0;
		if (header.ipv4.version != 4 || header.ipv4.ihl < IPV4_MIN_WORDS ||
		    bpf_ntohs(header.ipv4.frag_off) & IPV4_FRAGMENT_OFFSET)
			return 0;
		key->remote_high = (__u64)bpf_ntohl(header.ipv4.daddr) << 32;
		key->remote_low = 0;
		key->local_high = (__u64)bpf_ntohl(header.ipv4.saddr) << 32;
		key->local_low = 0;
		walk.next = header.ipv4.protocol;
		walk.offset += header.ipv4.ihl * 4;
	} else {
		if (walk.offset + sizeof(header.ipv6) > walk.end ||
		    bpf_xdp_load_bytes(ctx, walk.offset, &header, sizeof(header.ipv6)) || header.ipv6.version != 6)
			return 0;
		key->remote_high = high_half(&header.ipv6.daddr);
		key->remote_low = low_half(&header.ipv6.daddr);
		key->local_high = high_half(&header.ipv6.saddr);
		key->local_low = low_half(&header.ipv6.saddr);
		walk.next = header.ipv6.nexthdr;
		walk.offset += sizeof(header.ipv6);
		for (int i = 0; i < XDPFW_MAX_EXTENSION_HEADERS; i++) {
			if (!is_extension(walk.next))
				break;
			if (step_extension(ctx, &walk) || walk.fragment == XDPFW_FRAGMENT_LATER)
				return 0;
		}
	}
	if (key->local_high != p->address[XDPFW_DIRECTION_DST].high ||
	    key->local_low != p->address[XDPFW_DIRECTION_DST].low)
		return 0;
	if (walk.offset + QUOTED_L4_BYTES > walk.end ||
	    bpf_xdp_load_bytes(ctx, walk.offset, &header, QUOTED_L4_BYTES))
		return 0;
	if (has_flow_ports(walk.next)) {
		key->remote_port = bpf_ntohs(header.ports.destination);
		key->local_port = bpf_ntohs(header.ports.source);
	} else if (walk.next == icmp_of(p->family) && is_echo(p->family, header.icmp.type)) {
		key->remote_port = echo_counterpart(p->family, header.icmp.type);
		key->local_port = bpf_ntohl(header.icmp.rest) >> 16;
	} else {
		return 0;
	}
	key->protocol = walk.next;
	key->family = p->family;
	key->padding = 0;
	return 1;
}

/* Whether an ICMP error is about a live flow, which stays as it is. */
static __always_inline bool is_related(struct xdp_md *ctx, const struct packet *p, struct scratch *scratch)
{
	const struct xdpfw_flow *flow;
	__u32 index;
	int found;

	if (!is_icmp_error(p) || !find_quoted(ctx, p))
		return false;
	found = find_flow(&scratch->flow_key, flow_tag(&scratch->flow_key));
	if (found >= 0) {
		index = found;
		flow = bpf_map_lookup_elem(&flows, &index);
		if (flow && flow->until_ns > recent_boot_ns())
			return true;
	}
	return scratch->flow_key.protocol == IPPROTO_TCP && has_socket(ctx, &scratch->flow_key);
}

#endif
