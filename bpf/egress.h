/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the firewall's side sends: the other program, at the interfaces' way out. It decides nothing, and returns what
 * lets the packet go on to whatever comes behind it, as TCX and as a filter of clsact alike.
 *
 * What the host itself sends may be taken for well formed: lengths, which segmentation offload makes wrong anyway, are not
 * looked at. The scratch belongs to the other program, which may run on this CPU before this one is done: what this one
 * needs is on the stack.
 */
#ifndef XDPFW_EGRESS_H
#define XDPFW_EGRESS_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"

enum {
	SENT_TCP_BYTES = TCP_FLAGS_OFFSET + 1,	/* of a TCP header, what is looked at */
};

/* A way along the headers of a packet that is sent. */
struct sent {
	__u32 offset;		/* of the next header in the frame */
	__u32 type;		/* the ethertype, then the protocol of the next header */
};

/* Steps over one IPv6 extension header. Returns 0, or -1: nothing of the packet is to be followed. A global function. */
__attribute__((noinline)) int step_sent(struct __sk_buff *skb, struct sent *sent)
{
	struct extension extension;

	if (!sent || bpf_skb_load_bytes(skb, sent->offset, &extension, sizeof(extension)))
		return -1;
	if (sent->type == IPPROTO_FRAGMENT && bpf_ntohs(extension.fragment) & IPV6_FRAGMENT_OFFSET)
		return -1;
	sent->offset += extension_bytes(sent->type, extension.length);
	sent->type = extension.next;
	return 0;
}

/* Finds the addresses, which go into the key. Returns 0, or -1. A global function. */
__attribute__((noinline)) int find_sent_addresses(struct __sk_buff *skb, struct sent *sent, struct xdpfw_flow_key *key)
{
	union header header;

	if (!sent || !key)
		return -1;
	if (sent->type == ETH_P_IP) {
		if (bpf_skb_load_bytes(skb, sent->offset, &header, sizeof(header.ipv4)) ||
		    header.ipv4.ihl < IPV4_MIN_WORDS || bpf_ntohs(header.ipv4.frag_off) & IPV4_FRAGMENT_OFFSET)
			return -1;
		key->family = XDPFW_FAMILY_IPV4;
		key->remote_high = (__u64)bpf_ntohl(header.ipv4.daddr) << 32;
		key->remote_low = 0;
		key->local_high = (__u64)bpf_ntohl(header.ipv4.saddr) << 32;
		key->local_low = 0;
		sent->offset += header.ipv4.ihl * 4;
		sent->type = header.ipv4.protocol;
		return 0;
	}
	if (sent->type != ETH_P_IPV6 || bpf_skb_load_bytes(skb, sent->offset, &header, sizeof(header.ipv6)))
		return -1;
	key->family = XDPFW_FAMILY_IPV6;
	key->remote_high = high_half(&header.ipv6.daddr);
	key->remote_low = low_half(&header.ipv6.daddr);
	key->local_high = high_half(&header.ipv6.saddr);
	key->local_low = low_half(&header.ipv6.saddr);
	sent->offset += sizeof(header.ipv6);
	sent->type = header.ipv6.nexthdr;
	for (int i = 0; i < XDPFW_MAX_EXTENSION_HEADERS; i++) {
		if (!is_extension(sent->type))
			break;
		if (step_sent(skb, sent))
			return -1;
	}
	return 0;
}

/* Finds the rest of the key. Returns 0, or -1: there are no flows of its kind. */
static __always_inline int find_sent_ports(struct __sk_buff *skb, const struct sent *sent, struct xdpfw_flow_key *key,
					   __u64 *tcp)
{
	union header header;
	__u32 flags;

	key->protocol = sent->type;
	key->padding = 0;
	*tcp = 0;
	if (sent->type == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, sent->offset, &header, SENT_TCP_BYTES))
			return -1;
		flags = ((__u8 *)&header)[TCP_FLAGS_OFFSET];
		*tcp = (__u64)telling_number(flags, bpf_ntohl(header.tcp.seq), bpf_ntohl(header.tcp.ack_seq)) << 32 | flags;
	} else if (bpf_skb_load_bytes(skb, sent->offset, &header, QUOTED_L4_BYTES)) {
		return -1;
	}
	if (has_flow_ports(sent->type)) {
		key->remote_port = bpf_ntohs(header.ports.destination);
		key->local_port = bpf_ntohs(header.ports.source);
		return 0;
	}
	if (sent->type != icmp_of(key->family) || !is_echo(key->family, header.icmp.type))
		return -1;
	key->remote_port = echo_counterpart(key->family, header.icmp.type);
	key->local_port = bpf_ntohl(header.icmp.rest) >> 16;
	return 0;
}

SEC("tc")
int xdpfw_egress(struct __sk_buff *skb)
{
	struct sent sent = { .offset = offsetof(struct ethernet, type) };
	struct xdpfw_flow_key key = {};	/* 6.1 has it that functions are given nothing that was never written */
	struct vlan_tag tag;
	__be16 type;
	__u64 tcp;

	if (bpf_skb_load_bytes(skb, sent.offset, &type, sizeof(type)))
		return TC_ACT_UNSPEC;
	sent.offset = sizeof(struct ethernet);
	for (int i = 0; i < XDPFW_MAX_VLAN_TAGS; i++) {
		if (!is_vlan(type))
			break;
		if (bpf_skb_load_bytes(skb, sent.offset, &tag, sizeof(tag)))
			return TC_ACT_UNSPEC;
		type = tag.type;
		sent.offset += sizeof(tag);
	}
	sent.type = bpf_ntohs(type);
	if (!find_sent_addresses(skb, &sent, &key) && !find_sent_ports(skb, &sent, &key, &tcp))
		/* Where it came in: nowhere, if this host itself sends it. What it forwards, anybody may have forged. */
		send(&key, tcp, skb->ingress_ifindex ? XDPFW_FLOW_ANSWER : XDPFW_FLOW_OWN);
	return TC_ACT_UNSPEC;
}

#endif
