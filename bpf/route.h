/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where packets go on to: by the kernel's FIB, or to other CPUs.
 *
 * What is more than a look-up and new MAC addresses, the kernel's stack does: such a packet goes up as it came. So a
 * rule that routes lets in what is for this host, too. Nothing is written before it is sure that the packet goes on.
 */
#ifndef XDPFW_ROUTE_H
#define XDPFW_ROUTE_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>

#include "maps.h"
#include "packet.h"
#include "scratch.h"
#include "tables.h"

enum {
	FAMILY_INET = 2,		/* AF_INET */
	FAMILY_INET6 = 10,		/* AF_INET6 */
	PLAIN_IPV4_WORDS = 5,
	LAST_HOP = 1,			/* TTL of a packet that no router may pass on */
	MOST_LENGTH = 0xffff,		/* that bpf_fib_lookup() has room for */
	FLOWINFO_MASK = 0x0fffffff,
	FIRST_GROUP_V4 = 224,		/* multicast, reserved, broadcast: from 224.0.0.0 on */
	LOOPBACK_V4 = 127,
	LINK_LOCAL_V4 = 0xa9fe,		/* 169.254.0.0/16 */
	GROUP_V6 = 0xff,		/* ff00::/8 */
	LINK_LOCAL_V6 = 0xfe80 >> 6,	/* fe80::/10 */
	MAC_GROUP_BIT = 1,		/* of the first byte */
	REMINDER_TICKS_SHIFT = 10,	/* 1 s with 1,000 ticks a second, 10 s with 100 */
};

/* Whether routers pass on what has this source or destination. ::/64 has the unspecified address, loopback, IPv4 ones. */
static __always_inline bool is_routable(__u32 family, const struct address *address)
{
	__u64 high = address->high;

	if (family == XDPFW_FAMILY_IPV6)
		return high && high >> 56 != GROUP_V6 && high >> 54 != LINK_LOCAL_V6;
	return high >> 56 && high >> 56 != LOOPBACK_V4 && high >> 56 < FIRST_GROUP_V4 && high >> 48 != LINK_LOCAL_V4;
}

/*
 * Whether the frame is for this station. The stack drops others', which an interface hands on while somebody listens
 * on it (promiscuous), and what came to a whole link is passed on by no router (RFC 1812 section 5.3.4).
 */
static __always_inline bool is_for_this_station(const struct ethhdr *ethernet, const struct packet *p)
{
	const __u64 *station;
	__u64 mac = 0;
	__u32 number = p->value[XDPFW_FIELD_INTERFACE];

	if (ethernet->h_dest[0] & MAC_GROUP_BIT)
		return false;
	if (CONSTANT(trace))
		return true;
	station = bpf_map_lookup_elem(&stations, &number);
	__builtin_memcpy(&mac, ethernet->h_dest, ETH_ALEN);
	return station && *station == mac;
}

/*
 * Whether the stack is to send this one, so that it goes on asking whether the neighbour is still there: it knows of no
 * packet that XDP sends, and would let a MAC address that has changed stand. One packet a neighbour and while is enough.
 * The slot changes with the time, so that two neighbours who share one now do not later.
 */
static __always_inline bool reminds_stack(const struct bpf_fib_lookup *fib)
{
	__u64 now = bpf_jiffies64() >> REMINDER_TICKS_SHIFT, hash = 0, *last;
	__u32 slot;

	__builtin_memcpy(&hash, fib->dmac, ETH_ALEN);
	hash = (hash ^ now << 48 ^ fib->ifindex) * 0x9e3779b97f4a7c15ULL;
	slot = hash >> 32 & (XDPFW_REMINDER_SLOTS - 1);
	last = bpf_map_lookup_elem(&reminders, &slot);
	if (!last || *last == now)
		return false;
	*last = now;
	return true;
}

/*
 * Looks up where the packet goes, in the scratch. Returns true if XDP can send it there: then the redirect is prepared.
 * The MTU is compared with all of the frame: padding that is too much for a driver is the stack's to take off.
 */
static __always_inline bool find_route(struct xdp_md *ctx, const struct packet *p, struct bpf_fib_lookup *fib)
{
	__u32 length = p->bytes - ETH_HLEN;

	fib->l4_protocol = p->value[XDPFW_FIELD_PROTO];
	fib->sport = 0;
	fib->dport = 0;
	if (p->value[XDPFW_FIELD_SPORT] != XDPFW_NO_PORT) {
		fib->sport = bpf_htons(p->value[XDPFW_FIELD_SPORT]);
		fib->dport = bpf_htons(p->value[XDPFW_FIELD_DPORT]);
	}
	fib->tot_len = length < MOST_LENGTH ? length : MOST_LENGTH;
	fib->ifindex = ctx->ingress_ifindex;
	if (bpf_fib_lookup(ctx, fib, sizeof(*fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return false;
	return !reminds_stack(fib) && bpf_redirect_map(&routes, fib->ifindex, XDP_PASS) == XDP_REDIRECT;
}

static __always_inline void rewrite_macs(struct ethhdr *ethernet, const struct bpf_fib_lookup *fib)
{
	if (CONSTANT(trace))
		return;
	__builtin_memcpy(ethernet->h_dest, fib->dmac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, fib->smac, ETH_ALEN);
}

static __always_inline int route_ipv4(struct xdp_md *ctx, const struct packet *p, struct bpf_fib_lookup *fib)
{
	struct ethhdr *ethernet = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(ethernet + 1);
	__u32 check;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end || ethernet->h_proto != bpf_htons(ETH_P_IP) ||
	    ip->ihl != PLAIN_IPV4_WORDS || ip->ttl <= LAST_HOP || !is_for_this_station(ethernet, p))
		return XDPFW_VERDICT_PASS;
	if (!CONSTANT(trace)) {
		fib->family = FAMILY_INET;
		fib->tos = ip->tos;
		fib->ipv4_src = ip->saddr;
		fib->ipv4_dst = ip->daddr;
		if (!find_route(ctx, p, fib))
			return XDPFW_VERDICT_PASS;
	}
	/* RFC 1624, as the kernel's ip_decrease_ttl(): the field that has the TTL gets smaller by 0x0100, the sum larger. */
	check = ip->check + bpf_htons(0x0100);
	ip->check = check + (check >= 0xffff);
	ip->ttl--;
	rewrite_macs(ethernet, fib);
	return XDPFW_VERDICT_REDIRECT;
}

static __always_inline int route_ipv6(struct xdp_md *ctx, const struct packet *p, struct bpf_fib_lookup *fib)
{
	struct ethhdr *ethernet = (void *)(long)ctx->data;
	struct ipv6hdr *ip = (void *)(ethernet + 1);

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end || ethernet->h_proto != bpf_htons(ETH_P_IPV6) ||
	    p->value[XDPFW_FIELD_KIND] >> XDPFW_KIND_OPTIONS_SHIFT || ip->hop_limit <= LAST_HOP ||
	    !is_for_this_station(ethernet, p))
		return XDPFW_VERDICT_PASS;
	if (!CONSTANT(trace)) {
		fib->family = FAMILY_INET6;
		fib->flowinfo = *(__be32 *)ip & bpf_htonl(FLOWINFO_MASK);
		__builtin_memcpy(fib->ipv6_src, &ip->saddr, sizeof(fib->ipv6_src));
		__builtin_memcpy(fib->ipv6_dst, &ip->daddr, sizeof(fib->ipv6_dst));
		if (!find_route(ctx, p, fib))
			return XDPFW_VERDICT_PASS;
	}
	ip->hop_limit--;
	rewrite_macs(ethernet, fib);
	return XDPFW_VERDICT_REDIRECT;
}

/*
 * Forwards by the kernel's FIB. Test runs know none: as if there were a way for every packet, with MAC addresses as they
 * are. A global function. Returns an enum xdpfw_verdict: PASS for what is the stack's.
 */
__attribute__((noinline)) int route(struct xdp_md *ctx, const struct packet *p)
{
	struct scratch *scratch = scratch_of_cpu();

	if (!p || !scratch || p->family == XDPFW_FAMILY_OTHER ||
	    !is_routable(p->family, &p->address[XDPFW_DIRECTION_SRC]) ||
	    !is_routable(p->family, &p->address[XDPFW_DIRECTION_DST]))
		return XDPFW_VERDICT_PASS;
	if (p->family == XDPFW_FAMILY_IPV4)
		return route_ipv4(ctx, p, &scratch->fib);
	return route_ipv6(ctx, p, &scratch->fib);
}

/*
 * The same for all packets of a flow, and for whom it is not told the secret, no matter what. Of fragments only addresses
 * count, so that a datagram's all meet.
 */
static __always_inline __u32 flow_hash(const struct packet *p)
{
	const struct address *src = &p->address[XDPFW_DIRECTION_SRC], *dst = &p->address[XDPFW_DIRECTION_DST];
	__u64 hash = p->family, ports;

	ports = (__u64)p->value[XDPFW_FIELD_SPORT] << 40 | (__u64)p->value[XDPFW_FIELD_DPORT] << 16 |
		p->value[XDPFW_FIELD_PROTO];
	if (p->fragment != XDPFW_FRAGMENT_NONE)
		ports = 0;
	hash = (hash ^ src->high ^ CONSTANT_64(hash_secret[0])) * 0x9e3779b97f4a7c15ULL;
	hash ^= hash >> 32;
	hash = (hash ^ src->low) * 0xc4ceb9fe1a85ec53ULL;
	hash ^= hash >> 29;
	hash = (hash ^ dst->high ^ CONSTANT_64(hash_secret[1])) * 0xff51afd7ed558ccdULL;
	hash ^= hash >> 32;
	hash = (hash ^ dst->low) * 0xc4ceb9fe1a85ec53ULL;
	hash ^= hash >> 29;
	hash = (hash ^ ports) * 0xd6e8feb86659fd93ULL;
	return hash >> 32;
}

/*
 * Up the stack, on one of so many CPUs from element first of cpu_choices on; on this one where the map has not got that
 * CPU. A global function. Returns a verdict, and notes in the scratch that the packet is for the stack.
 */
__attribute__((noinline)) int spread(const struct packet *p, __u32 first, __u32 count)
{
	__u32 number = first + (__u32)((__u64)(p ? flow_hash(p) : 0) * count >> 32);
	const __u32 *cpu = bpf_map_lookup_elem(&cpu_choices, &number);
	struct scratch *scratch = scratch_of_cpu();

	if (!cpu || !scratch)
		return XDPFW_VERDICT_PASS;
	if (!CONSTANT(trace) && bpf_redirect_map(&cpus, *cpu, XDP_PASS) != XDP_REDIRECT)
		return XDPFW_VERDICT_PASS;
	scratch->packet.is_spread = 1;
	return XDPFW_VERDICT_REDIRECT;
}

#endif
