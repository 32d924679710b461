/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SYN cookies: TCP ports of this host that answer no SYN of a source that has not shown that it exists. The answer is made
 * here, and nothing is kept of it; the client's acknowledgement brings back all that the stack needs.
 *
 * The cookies are the stack's own. It takes one back only for a listening socket that has made some itself in the last two
 * minutes. So now and then one is asked for in the name of the socket that listens, which notes it; the others are made without
 * looking for it, which costs a third as much. A socket makes none unless net.ipv4.tcp_syncookies is 2 (or its queue is full).
 */
#ifndef XDPFW_SYNCOOKIE_H
#define XDPFW_SYNCOOKIE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>

#include "clock.h"
#include "grant.h"
#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "progress.h"
#include "scratch.h"
#include "verdict.h"

enum {
	ACQUAINTANCE_S = 3600,

	FLAGS_OF_STATE = FLAG_FIN | FLAG_SYN | FLAG_RST | FLAG_ACK,

	SYN_ACK_TTL = 64,
	SYN_ACK_WINDOW = 29200,		/* no more than the stack has for a new connection; its next segment says how much */
	OPTION_MSS = 2,			/* RFC 9293 section 3.1: kind, and length */
	OPTION_MSS_BYTES = 4,
	SYN_ACK_TCP_BYTES = sizeof(struct tcphdr) + OPTION_MSS_BYTES,
	COOKIE_MSS_SHIFT = 32,		/* of what the helpers return */

	ASKED_SHIFT = 5,		/* of jiffies: a socket is asked every 32 to 320 ms, by HZ */

	/* What ask_listener() returns beside a cookie. */
	NOT_ASKED = -1,			/* nobody listens here, or does not want cookies: the packet goes its way */
	NOT_WANTED = -2,		/* somebody listens, and this is no SYN */
};

_Static_assert(sizeof(struct syn_ack_v4) == sizeof(struct iphdr) + SYN_ACK_TCP_BYTES, "headers without gaps");
_Static_assert(sizeof(struct syn_ack_v6) == sizeof(struct ipv6hdr) + SYN_ACK_TCP_BYTES, "headers without gaps");

static __always_inline __u64 acquaintance_hash(const struct packet *p)
{
	return progress_hash(p, 0, 0);
}

static __always_inline struct xdpfw_acquaintances *acquaintances_of(__u64 hash)
{
	__u32 bucket = hash & CONSTANT(acquaintance_mask);

	return bpf_map_lookup_elem(&acquaintances, &bucket);
}

/* Whether the source has brought a cookie back lately. A global function. */
__attribute__((noinline)) int is_acquainted(const struct packet *p)
{
	const struct xdpfw_acquaintances *bucket;
	__u32 now_s = boot_ns() / NS_PER_S;
	__u64 hash;

	if (!p)
		return 0;
	hash = acquaintance_hash(p);
	bucket = acquaintances_of(hash);
	if (!bucket)
		return 0;
	for (int i = 0; i < XDPFW_BUCKET_SLOTS; i++)
		if (bucket->slots[i] >> 32 == tag_of(hash))
			return now_s - (__u32)bucket->slots[i] < ACQUAINTANCE_S;
	return 0;
}

/* Notes that the source exists: in the place that it has, in an empty one or in the oldest. A global function. Returns 0. */
__attribute__((noinline)) int acquaint(const struct packet *p)
{
	__u32 now_s = boot_ns() / NS_PER_S, chosen = 0, most = 0, age;
	struct xdpfw_acquaintances *bucket;
	__u64 hash;

	if (!p)
		return 0;
	hash = acquaintance_hash(p);
	bucket = acquaintances_of(hash);
	if (!bucket)
		return 0;
	for (__u32 i = 0; i < XDPFW_BUCKET_SLOTS; i++) {
		if (bucket->slots[i] >> 32 == tag_of(hash)) {
			chosen = i;
			break;
		}
		age = bucket->slots[i] ? now_s - (__u32)bucket->slots[i] : ~0U;
		if (age > most) {
			most = age;
			chosen = i;
		}
	}
	bucket->slots[chosen & (XDPFW_BUCKET_SLOTS - 1)] = (__u64)tag_of(hash) << 32 | now_s;
	return 0;
}

static __always_inline bool is_protected(const struct packet *p)
{
	__u32 port = p->value[XDPFW_FIELD_DPORT], word = port / XDPFW_WORD_BITS;
	const __u64 *bits;

	if (p->value[XDPFW_FIELD_PROTO] != IPPROTO_TCP || p->value[XDPFW_FIELD_STATE] == XDPFW_PACKET_STATE_ESTABLISHED)
		return false;
	bits = bpf_map_lookup_elem(&protected_ports, &word);	/* no element has NO_PORT */
	return bits && *bits >> port % XDPFW_WORD_BITS & 1;
}

static __always_inline __u32 flags_of(const struct packet *p)
{
	return (p->value[XDPFW_FIELD_DETAIL] - XDPFW_DETAIL_TCP) & FLAGS_OF_STATE;
}

/* Of what a socket listens to, and whether it is a SYN. Nobody who does not know the secret can tell what falls together. */
static __always_inline __u64 listener_hash(const struct packet *p)
{
	const struct address *a = &p->address[XDPFW_DIRECTION_DST];
	__u64 hash = (a->high ^ CONSTANT_64(hash_secret[0])) * 0x9e3779b97f4a7c15ULL;

	hash = ((hash ^ hash >> 32) + (a->low ^ CONSTANT_64(hash_secret[1]))) * 0xc4ceb9fe1a85ec53ULL;
	hash = ((hash ^ hash >> 29) + ((__u64)p->value[XDPFW_FIELD_INTERFACE] << 32 |
				       p->value[XDPFW_FIELD_DPORT] << 3 | p->family << 1 |
				       (flags_of(p) == FLAG_SYN))) * 0xd6e8feb86659fd93ULL;
	return hash ^ hash >> 32;
}

static __always_inline __u64 *asked_slot(__u64 hash)
{
	__u32 slot = hash & (XDPFW_ASKED_SLOTS - 1);

	return bpf_map_lookup_elem(&asked, &slot);
}

static __always_inline __u64 asked_now(__u64 hash)
{
	return (__u64)tag_of(hash) << 32 | (__u32)(bpf_jiffies64() >> ASKED_SHIFT);
}

/* Whether a socket listens there and, of a SYN, knows that cookies are made in its name. In test runs, one always does. */
static __always_inline bool has_been_asked(const struct packet *p)
{
	__u64 hash = listener_hash(p), *slot = asked_slot(hash);

	return CONSTANT(trace) || (slot && *slot == asked_now(hash));
}

static __always_inline void note_asked(const struct packet *p)
{
	__u64 hash = listener_hash(p), *slot = asked_slot(hash);

	if (slot)
		*slot = asked_now(hash);
}

/* The headers of a whole datagram of TCP, for the helpers. Returns the TCP header's length, or 0. */
static __always_inline __u32 read_headers(struct xdp_md *ctx, const struct packet *p, struct handshake *h)
{
	__u32 bytes;

	if (p->fragment != XDPFW_FRAGMENT_NONE)
		return 0;
	if (bpf_xdp_load_bytes(ctx, p->ip_offset, &h->ip, p->family == XDPFW_FAMILY_IPV4 ? sizeof(h->ip.v4) :
											       sizeof(h->ip.v6)))
		return 0;
	if (bpf_xdp_load_bytes(ctx, p->l4_offset, &h->tcp, sizeof(h->tcp.header)))
		return 0;
	bytes = h->tcp.header.doff * 4;
	if (bytes <= sizeof(h->tcp.header))
		return sizeof(h->tcp.header);
	if (bytes > sizeof(h->tcp) || bpf_xdp_load_bytes(ctx, p->l4_offset, &h->tcp, bytes))
		return 0;
	return bytes;
}

/*
 * Of a packet to a protected port that belongs to no flow: one that brings a cookie back makes its source known. It is decided
 * on as the SYN that the cookie was the answer to: a cookie can be guessed, if not quickly, and so opens nothing that the
 * SYN would not have been let in to. A global function. Returns 0.
 */
__attribute__((noinline)) int take_cookie(struct xdp_md *ctx, struct packet *p)
{
	struct scratch *scratch = scratch_of_cpu();
	struct handshake *h;
	long wrong;

	if (!CONSTANT(protects_syn) || !p || !scratch)
		return 0;
	if (!is_protected(p) || (flags_of(p) & (FLAG_SYN | FLAG_RST | FLAG_ACK)) != FLAG_ACK)
		return 0;
	h = &scratch->handshake;
	if (!read_headers(ctx, p, h))
		return 0;
	if (p->family == XDPFW_FAMILY_IPV4)
		wrong = bpf_tcp_raw_check_syncookie_ipv4(&h->ip.v4, &h->tcp.header);
	else
		wrong = bpf_tcp_raw_check_syncookie_ipv6(&h->ip.v6, &h->tcp.header);
	if (wrong)
		return 0;
	acquaint(p);
	p->value[XDPFW_FIELD_DETAIL] = XDPFW_DETAIL_TCP + FLAG_SYN;
	return 0;
}

/* The socket's cookie, MSS << COOKIE_MSS_SHIFT | sequence number, for a SYN; or why there is none. A global function. */
__attribute__((noinline)) __s64 ask_listener(struct xdp_md *ctx, const struct packet *p, __u32 tcp_bytes)
{
	struct scratch *scratch = scratch_of_cpu();
	struct bpf_sock_tuple tuple = {};
	__u64 length = tcp_bytes;
	struct handshake *h;
	struct bpf_sock *sk;
	__u32 tuple_bytes;
	__s64 cookie;

	if (!CONSTANT(protects_syn) || !p || !scratch)
		return NOT_ASKED;
	h = &scratch->handshake;
	if (p->family == XDPFW_FAMILY_IPV4) {
		tuple.ipv4.saddr = h->ip.v4.saddr;
		tuple.ipv4.daddr = h->ip.v4.daddr;
		tuple.ipv4.sport = h->tcp.header.source;
		tuple.ipv4.dport = h->tcp.header.dest;
		tuple_bytes = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &h->ip.v6.saddr, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, &h->ip.v6.daddr, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = h->tcp.header.source;
		tuple.ipv6.dport = h->tcp.header.dest;
		tuple_bytes = sizeof(tuple.ipv6);
	}
	sk = bpf_skc_lookup_tcp(ctx, &tuple, tuple_bytes, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return NOT_ASKED;
	OPAQUE(length);		/* or else clang looks at a copy of it, and the verifier doesn't see it bounded */
	cookie = NOT_ASKED;
	if (sk->state == BPF_TCP_LISTEN) {
		if (flags_of(p) != FLAG_SYN)
			cookie = NOT_WANTED;
		else if (length >= sizeof(h->tcp.header)) {
			OPAQUE(length);		/* or else clang makes one comparison of both, which 6.1 can't follow */
			if (length <= sizeof(h->tcp))
				cookie = bpf_tcp_gen_syncookie(sk, &h->ip, sizeof(h->ip), &h->tcp.header, length);
		}
		if (cookie < 0 && cookie != NOT_WANTED)
			cookie = NOT_ASKED;
	}
	bpf_sk_release(sk);
	if (cookie != NOT_ASKED)
		note_asked(p);
	return cookie;
}

/* The same without the socket: for a SYN, the cookie that it would make. A global function. */
__attribute__((noinline)) __s64 make_cookie(const struct packet *p, __u32 tcp_bytes)
{
	struct scratch *scratch = scratch_of_cpu();
	struct handshake *h;

	if (!CONSTANT(protects_syn) || !p || !scratch)
		return NOT_ASKED;
	if (flags_of(p) != FLAG_SYN)
		return NOT_WANTED;
	h = &scratch->handshake;
	if (tcp_bytes < sizeof(h->tcp.header) || tcp_bytes > sizeof(h->tcp))
		return NOT_WANTED;
	if (p->family == XDPFW_FAMILY_IPV4)
		return bpf_tcp_raw_gen_syncookie_ipv4(&h->ip.v4, &h->tcp.header, tcp_bytes);
	return bpf_tcp_raw_gen_syncookie_ipv6(&h->ip.v6, &h->tcp.header, tcp_bytes);
}

/* An address that one host may have in traffic from outside: not a group's, not the loopback's, not "this host". */
static __always_inline bool is_of_a_host(const struct packet *p, enum xdpfw_direction direction)
{
	const struct address *a = &p->address[direction];

	if (p->family == XDPFW_FAMILY_IPV4)
		return a->high >> 56 != 0 && a->high >> 56 != 127 && a->high >> 56 < 224;
	return a->high >> 56 != IPV6_MULTICAST_HIGH && (a->high || a->low > 1);
}

static __always_inline bool is_between_hosts(const struct xdp_md *ctx, const struct packet *p)
{
	const struct ethhdr *ethernet = (void *)(long)ctx->data;

	return (const void *)(ethernet + 1) <= (void *)(long)ctx->data_end && !(ethernet->h_dest[0] & 1) &&
	       !(ethernet->h_source[0] & 1) && is_of_a_host(p, XDPFW_DIRECTION_SRC) && is_of_a_host(p, XDPFW_DIRECTION_DST);
}

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* What this side takes in a segment: as much as the interface does, or where it does not tell what the cookie stands for. */
static __always_inline __u32 own_mss(struct xdp_md *ctx, __u32 header_bytes, __u32 cookie_mss)
{
	__u32 mtu = 0;

	if (bpf_check_mtu(ctx, 0, &mtu, 0, 0) < 0 || mtu <= header_bytes)
		return cookie_mss;
	mtu -= header_bytes;
	return mtu > 0xffff ? 0xffff : mtu;
}

static __always_inline void answer_tcp(const struct handshake *h, struct tcphdr *tcp, __be32 *option, __u32 sequence,
				       __u32 mss)
{
	*tcp = (struct tcphdr){
		.source = h->tcp.header.dest,
		.dest = h->tcp.header.source,
		.seq = bpf_htonl(sequence),
		.ack_seq = bpf_htonl(bpf_ntohl(h->tcp.header.seq) + 1),
		.window = bpf_htons(SYN_ACK_WINDOW),
	};
	tcp->doff = SYN_ACK_TCP_BYTES / 4;
	tcp->syn = 1;
	tcp->ack = 1;
	*option = bpf_htonl(OPTION_MSS << 24 | OPTION_MSS_BYTES << 16 | mss);
}

/* Makes the frame the answer to the SYN that it was; tags stay. Returns 0, or 1 where there is no room. A global function. */
__attribute__((noinline)) int answer(struct xdp_md *ctx, const struct packet *p, __u64 cookie)
{
	struct scratch *scratch = scratch_of_cpu();
	__u32 mss, headers_bytes;
	struct syn_ack_v4 *v4;
	struct syn_ack_v6 *v6;
	struct handshake *h;
	int bytes;

	if (!CONSTANT(protects_syn) || !p || !scratch)
		return 1;
	h = &scratch->handshake;
	mss = cookie >> COOKIE_MSS_SHIFT & 0xffff;
	headers_bytes = p->family == XDPFW_FAMILY_IPV4 ? sizeof(*v4) : sizeof(*v6);
	mss = own_mss(ctx, headers_bytes - OPTION_MSS_BYTES, mss);
	bytes = p->ip_offset + headers_bytes;
	if (bpf_xdp_adjust_tail(ctx, bytes - (int)bpf_xdp_get_buff_len(ctx)))
		return 1;
	if (p->family == XDPFW_FAMILY_IPV4) {
		v4 = &h->answer.v4;
		v4->ip = (struct iphdr){
			.tot_len = bpf_htons(sizeof(*v4)),
			.frag_off = bpf_htons(IPV4_DONT_FRAGMENT),
			.ttl = SYN_ACK_TTL,
			.protocol = IPPROTO_TCP,
			.saddr = h->ip.v4.daddr,
			.daddr = h->ip.v4.saddr,
		};
		v4->ip.version = 4;
		v4->ip.ihl = sizeof(v4->ip) / 4;
		v4->ip.check = folded(bpf_csum_diff(NULL, 0, (__be32 *)&v4->ip, sizeof(v4->ip), 0));
		answer_tcp(h, &v4->tcp, &v4->option, cookie, mss);
		/* The addresses stand before the TCP header, as in the pseudo-header. */
		v4->tcp.check = folded(bpf_csum_diff(NULL, 0, &v4->ip.saddr, 2 * sizeof(v4->ip.saddr) + SYN_ACK_TCP_BYTES,
						     bpf_htonl(IPPROTO_TCP + SYN_ACK_TCP_BYTES)));
		if (bpf_xdp_store_bytes(ctx, p->ip_offset, v4, sizeof(*v4)))
			return 1;
	} else {
		v6 = &h->answer.v6;
		v6->ip = (struct ipv6hdr){
			.payload_len = bpf_htons(SYN_ACK_TCP_BYTES),
			.nexthdr = IPPROTO_TCP,
			.hop_limit = SYN_ACK_TTL,
			.saddr = h->ip.v6.daddr,
			.daddr = h->ip.v6.saddr,
		};
		v6->ip.version = 6;
		answer_tcp(h, &v6->tcp, &v6->option, cookie, mss);
		v6->tcp.check = folded(bpf_csum_diff(NULL, 0, v6->ip.saddr.in6_u.u6_addr32,
						     2 * sizeof(v6->ip.saddr) + SYN_ACK_TCP_BYTES,
						     bpf_htonl(IPPROTO_TCP + SYN_ACK_TCP_BYTES)));
		if (bpf_xdp_store_bytes(ctx, p->ip_offset, v6, sizeof(*v6)))
			return 1;
	}
	return transmit(ctx) != XDPFW_VERDICT_TX;
}

/*
 * Of a packet that is to pass: 0, or the reason for which it does not: PROTECT_SYN_COOKIE, and the frame is the answer by
 * now; PROTECT_BAD_COOKIE. Whoever is known passes; the stack's own cookies keep it from holding on to anything for those who
 * use a known source's address. So does what no socket of this host waits for. A global function.
 */
__attribute__((noinline)) int challenge(struct xdp_md *ctx, const struct packet *p)
{
	struct scratch *scratch = scratch_of_cpu();
	__u32 tcp_bytes;
	__s64 cookie;

	if (!CONSTANT(protects_syn) || !p || !scratch)
		return 0;
	if (!is_protected(p) || is_acquainted(p))
		return 0;
	tcp_bytes = read_headers(ctx, p, &scratch->handshake);
	if (!tcp_bytes)
		return XDPFW_REASON_PROTECT_BAD_COOKIE;
	cookie = has_been_asked(p) ? make_cookie(p, tcp_bytes) : ask_listener(ctx, p, tcp_bytes);
	if (cookie == NOT_ASKED)
		return 0;
	if (cookie < 0 || !is_between_hosts(ctx, p) || answer(ctx, p, cookie))
		return XDPFW_REASON_PROTECT_BAD_COOKIE;
	return XDPFW_REASON_PROTECT_SYN_COOKIE;
}

#endif
