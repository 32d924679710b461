/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Flows: which packets belong to what this host, or one behind it, has sent.
 *
 * Only what is sent makes a flow; what comes in moves it on. So nobody outside makes one by himself: he makes this side
 * answer, or send on what he has forged. Then the flow is of the lower rank until who began it, by TCP, has told the
 * number that only the answer had.
 */
#ifndef XDPFW_FLOW_H
#define XDPFW_FLOW_H

#include "flowtable.h"
#include "packet.h"
#include "related.h"
#include "scratch.h"

enum {
	FLOW_ANSWER_BYTES = 1 << 16,	/* that may come with a SYN's answer (RFC 7413), and more */
};

/*
 * The key of the flow that a packet belongs to, which comes from remote: DIRECTION_SRC; or that it would make for what
 * comes from where it goes: DIRECTION_DST. Returns false if there are no flows of its kind.
 */
static __always_inline bool flow_key_of(struct xdpfw_flow_key *key, const struct packet *p,
					enum xdpfw_direction remote)
{
	__u32 protocol = p->value[XDPFW_FIELD_PROTO], type;
	enum xdpfw_direction local = XDPFW_DIRECTION_DST - remote;

	if (has_flow_ports(protocol)) {
		key->remote_port = p->value[remote == XDPFW_DIRECTION_SRC ? XDPFW_FIELD_SPORT : XDPFW_FIELD_DPORT];
		key->local_port = p->value[remote == XDPFW_DIRECTION_SRC ? XDPFW_FIELD_DPORT : XDPFW_FIELD_SPORT];
	} else {
		if (protocol != icmp_of(p->family))
			return false;
		type = icmp_type(p, p->family == XDPFW_FAMILY_IPV4 ? XDPFW_DETAIL_ICMP : XDPFW_DETAIL_ICMPV6);
		if (!is_echo(p->family, type))
			return false;
		key->remote_port = remote == XDPFW_DIRECTION_SRC ? type : echo_counterpart(p->family, type);
		key->local_port = p->echo_id;
	}
	key->remote_high = p->address[remote].high;
	key->remote_low = p->address[remote].low;
	key->local_high = p->address[local].high;
	key->local_low = p->address[local].low;
	key->protocol = protocol;
	key->family = p->family;
	key->padding = 0;
	return true;
}

/* The number by which a TCP packet counts: what it says of its own side, or has heard of the other. */
static __always_inline __u32 telling_number(__u32 flags, __u32 seq, __u32 ack)
{
	return flags & FLAG_SYN ? seq : ack;
}

/* What a TCP packet that comes in makes of its flow. Returns false if it does not belong to it. */
static __always_inline bool receive_tcp(union flow_standing *flow, __u32 flags, __u32 number)
{
	__u32 ended = flags & FLAG_FIN ? XDPFW_FLOW_CLOSING : XDPFW_FLOW_ESTABLISHED;

	switch (flow->state) {
	case XDPFW_FLOW_SYN_SENT:
	case XDPFW_FLOW_ANSWERED:
		if (flags & FLAG_RST) {
			flow->state = XDPFW_FLOW_CLOSED;
		} else if (flags & FLAG_SYN) {	/* and ACK: others never get here */
			flow->state = XDPFW_FLOW_ANSWERED;
			flow->expected_ack = number + 1;
		}
		return true;
	case XDPFW_FLOW_HALF_OPEN:
		if (flags & FLAG_RST) {
			flow->state = XDPFW_FLOW_CLOSED;
			return true;
		}
		if ((flags & (FLAG_SYN | FLAG_ACK)) != FLAG_ACK || number != flow->expected_ack)
			return false;
		flow->state = ended;
		flow->rank = XDPFW_FLOW_OWN;
		return true;
	case XDPFW_FLOW_ESTABLISHED:
		flow->state = flags & FLAG_RST ? XDPFW_FLOW_CLOSED : ended;
		return true;
	default:
		return true;
	}
}

/*
 * Whether a packet that comes in belongs to a live flow, which it moves on. tcp: flags, and the telling number from bit
 * 32 on. A global function.
 */
__attribute__((noinline)) int receive(const struct xdpfw_flow_key *key, __u64 tag, __u64 tcp)
{
	union flow_standing before, after;
	struct xdpfw_flow *flow;
	__u64 now_ns;
	__u32 index;
	int found;

	if (!key)
		return 0;
	found = find_flow(key, tag);
	if (found < 0)
		return 0;
	index = found;
	flow = bpf_map_lookup_elem(&flows, &index);
	if (!flow)
		return 0;
	now_ns = recent_boot_ns();
	if (flow->until_ns <= now_ns)
		return 0;
	before = standing_of(flow);
	after = before;
	if (key->protocol != IPPROTO_TCP)
		after.state = XDPFW_FLOW_REPLIED;
	else if (!receive_tcp(&after, tcp, tcp >> 32))
		return 0;
	/* These last from what this side has sent, or from the answer. */
	if (after.word == before.word && (after.state == XDPFW_FLOW_SYN_SENT || after.state == XDPFW_FLOW_ANSWERED ||
					  after.state == XDPFW_FLOW_CLOSED))
		return 1;
	move_flow(flow, before, after, now_ns + flow_lasts_ns(after.state, key->protocol));
	return 1;
}

/*
 * What a TCP packet that is sent makes of its flow. rank: of one that it begins. Returns false if that is nothing, and the
 * flow not refreshed.
 */
static __always_inline bool send_tcp(union flow_standing *flow, __u32 flags, __u32 number, __u32 rank)
{
	__u32 state = flow->state, heard;
	bool is_over = state == XDPFW_FLOW_NONE || state == XDPFW_FLOW_CLOSED || state == XDPFW_FLOW_CLOSING;

	if (flags & FLAG_RST) {
		if (state == XDPFW_FLOW_NONE || state == XDPFW_FLOW_CLOSED)
			return false;
		flow->state = XDPFW_FLOW_CLOSED;
		return true;
	}
	if (flags & FLAG_SYN && flags & FLAG_ACK) {
		if (!is_over && state != XDPFW_FLOW_HALF_OPEN)
			return false;
		flow->state = XDPFW_FLOW_HALF_OPEN;
		flow->expected_ack = number + 1;
		return true;
	}
	if (flags & FLAG_SYN) {
		if (is_over) {
			flow->state = XDPFW_FLOW_SYN_SENT;
			flow->rank = rank;
		}
		return true;
	}
	if (state == XDPFW_FLOW_HALF_OPEN)
		return false;
	if (state == XDPFW_FLOW_SYN_SENT)
		return true;
	if (state == XDPFW_FLOW_ANSWERED) {
		/*
		 * Who has sent the SYN has the answer's number only if he got it: a host behind answers forged SYNs, too. What
		 * came with the answer may be acknowledged as well; but that is easier to guess, and so raises nothing.
		 */
		heard = number - flow->expected_ack;
		if (!(flags & FLAG_ACK) || heard >= FLOW_ANSWER_BYTES)
			return true;
		if (!heard)
			flow->rank = XDPFW_FLOW_OWN;
	}
	/*
	 * Of no flow: it was open before flows were followed, or has lost its place. An answer, for all that is known: to a
	 * forged packet behind a forged SYN, a host sends an ACK. Of a closed one: the RST was forged.
	 */
	if (flags & FLAG_FIN)
		flow->state = XDPFW_FLOW_CLOSING;
	else if (state != XDPFW_FLOW_CLOSING)
		flow->state = XDPFW_FLOW_ESTABLISHED;
	return true;
}

/* Whether what is sent first is an answer. An echo reply is one by itself: what comes in of such a flow are requests. */
static __always_inline bool is_answer(const struct xdpfw_flow_key *key, __u64 tag, __u64 now_ns)
{
	if (key->protocol == IPPROTO_ICMP)
		return key->remote_port == ECHO_REQUEST;
	if (key->protocol == IPPROTO_ICMPV6)
		return key->remote_port == ECHO_REQUEST_V6;
	return has_incoming(tag, now_ns);
}

/*
 * What is sent makes a flow, or moves it on. tcp: flags, and the telling number from bit 32 on. rank: of a flow that it
 * begins, if it is no answer. A global function.
 */
__attribute__((noinline)) int send(const struct xdpfw_flow_key *key, __u64 tcp, __u32 rank)
{
	union flow_standing before = {}, after;
	struct xdpfw_flow *flow = NULL;
	__u64 tag, now_ns, until_ns;
	__u32 index;
	int found;

	if (!key)
		return 0;
	tag = flow_tag(key);
	now_ns = recent_boot_ns();
	found = find_flow(key, tag);
	if (found >= 0) {
		index = found;
		flow = bpf_map_lookup_elem(&flows, &index);
	}
	if (flow && flow->until_ns > now_ns)
		before = standing_of(flow);
	after = before;
	if (key->protocol == IPPROTO_TCP) {
		if (!send_tcp(&after, tcp, tcp >> 32, rank))
			return 0;
	} else if (after.state == XDPFW_FLOW_NONE) {
		after.state = XDPFW_FLOW_UNREPLIED;
		after.rank = is_answer(key, tag, now_ns) ? XDPFW_FLOW_ANSWER : rank;
	}
	until_ns = now_ns + flow_lasts_ns(after.state, key->protocol);
	if (!flow)
		return put_flow(key, tag, after.word, until_ns, now_ns);
	if (before.state == XDPFW_FLOW_NONE) {
		/* One that is over, in its own place. */
		before = standing_of(flow);
		flow->created_ns = now_ns;
		count_flow(COUNT_FLOW_CREATED);
		if (before.word == after.word)
			flow->until_ns = until_ns;
	}
	move_flow(flow, before, after, until_ns);
	return 0;
}

/* Sets FIELD_STATE, where the packet has a state, and moves its flow on. A global function. Returns 0. */
__attribute__((noinline)) int find_state(struct xdp_md *ctx, struct packet *p)
{
	struct scratch *scratch = scratch_of_cpu();
	__u64 number = 0;
	__u32 flags = 0;

	if (!p || !scratch)
		return 0;
	if (p->family == XDPFW_FAMILY_OTHER || p->fragment == XDPFW_FRAGMENT_LATER)
		return 0;
	p->value[XDPFW_FIELD_STATE] = XDPFW_PACKET_STATE_NEW;
	if (p->value[XDPFW_FIELD_PROTO] == IPPROTO_TCP) {
		flags = p->value[XDPFW_FIELD_DETAIL] - XDPFW_DETAIL_TCP;
		/* It begins something, whatever there is: a flood of them costs nothing here. */
		if ((flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN)
			return 0;
		number = telling_number(flags, p->tcp_seq, p->tcp_ack);
	}
	if (!flow_key_of(&scratch->flow_key, p, XDPFW_DIRECTION_SRC)) {
		/* Where all errors are allowed, nobody asks. */
		if (!CONSTANT(allow.icmp_errors) && is_related(ctx, p, scratch)) {
			count_flow(COUNT_FLOW_RELATED);
			p->value[XDPFW_FIELD_STATE] = XDPFW_PACKET_STATE_ESTABLISHED;
		}
		return 0;
	}
	p->flow_tag = flow_tag(&scratch->flow_key);
	if (receive(&scratch->flow_key, p->flow_tag, number << 32 | flags) ||
	    (p->value[XDPFW_FIELD_PROTO] == IPPROTO_TCP && has_socket(ctx, &scratch->flow_key)))
		p->value[XDPFW_FIELD_STATE] = XDPFW_PACKET_STATE_ESTABLISHED;
	return 0;
}

/* Of a packet of no flow that goes on: what comes back to a datagram is an answer. */
static __always_inline void note_incoming(const struct packet *p)
{
	__u32 protocol = p->value[XDPFW_FIELD_PROTO];

	if (p->value[XDPFW_FIELD_STATE] == XDPFW_PACKET_STATE_NEW &&
	    (protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP))
		put_incoming(p->flow_tag);
}

/*
 * Of a packet that was passed on to another interface, whose other side so gets a packet from this one. What XDP sends
 * there the other program does not see. A global function. Returns 0.
 */
__attribute__((noinline)) int note_forwarded(const struct packet *p)
{
	struct scratch *scratch = scratch_of_cpu();
	__u32 flags = 0;

	if (!p || !scratch || p->value[XDPFW_FIELD_STATE] == XDPFW_PACKET_STATE_NONE ||
	    !flow_key_of(&scratch->flow_key, p, XDPFW_DIRECTION_DST))
		return 0;
	if (p->value[XDPFW_FIELD_PROTO] == IPPROTO_TCP)
		flags = p->value[XDPFW_FIELD_DETAIL] - XDPFW_DETAIL_TCP;
	return send(&scratch->flow_key, (__u64)telling_number(flags, p->tcp_seq, p->tcp_ack) << 32 | flags,
		    XDPFW_FLOW_ANSWER);
}

#endif
