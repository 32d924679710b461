/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Room for what does not fit on the stack, of which the functions behind each other have 512 bytes. A CPU's; nothing
 * in it but the time is kept from packet to packet.
 */
#ifndef XDPFW_SCRATCH_H
#define XDPFW_SCRATCH_H

#include <linux/bpf.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_helpers.h>

#include "abi_flow.h"
#include "abi_knock.h"
#include "abi_set.h"
#include "blake2s.h"
#include "packet.h"

enum {
	SCRATCH_DATAGRAM_WORDS = 8,
	FILTER_WORDS = sizeof(((struct xdpfw_filter *)0)->bits) / sizeof(__u64),
};

/* What an event tells beside its packet. */
struct event {
	__u64 duration_ns;
	__u32 kind;		/* enum xdpfw_event_kind */
	__u32 knock;		/* id; 0: none */
	__u32 rule;
	__u32 detail;
	__u32 key_number;
	__u32 prefix_bits;
	__u16 service;
	__u8 step;
	__u8 steps;
	__u32 is_signed;	/* 1: a grant that an SPA key has earned, or its end */
};

/* Who earned a grant, and how. */
struct entitlement {
	__u64 duration_ns;	/* 0: as the knock has it */
	__u64 key;		/* fingerprint of the SPA key; 0: none */
	__u32 knock;		/* number */
	__u32 service;		/* from 1, in the order of the knock's; 0: all */
	__u32 key_number;
	__u32 closes;		/* 1: it is the end of one that is asked for */
};

/* A sequence of a source, at a time. */
struct attempt {
	__u64 salt;		/* of a rotation's window; else 0 */
	__u64 now_ns;
	__u32 sequence;		/* number */
	__u32 positions;	/* bit p: the packet is step p */
	__u32 is_marked;	/* the source may have begun something */
	__u32 padding;
};

/* An SPA message that is right but for its tag, which is still to be looked at. */
struct claim {
	__u64 time_ns;		/* the message's */
	__u64 last_ns;		/* of the last one of its key that was accepted, as it was found */
	__u32 times;		/* the key's slot in the map "spa_times" */
	__u32 padding;
};

/* What a packet is to a rotation: bit p of positions[i] for step p of window "first" + i. */
struct rotating {
	__u64 first;
	__u32 positions[3];	/* ROTATION_WINDOWS */
	__u32 padding;
};

/* What became of a datagram's first fragment. */
struct followed {
	__u32 verdict;		/* enum xdpfw_verdict */
	__u32 reason;		/* enum xdpfw_reason */
	__u32 key;		/* of the rule that decided; KEY_NONE: none of this generation */
	__u32 padding;
};

/* The answers to SYNs, as they are sent: only with an MSS as an option. */
struct syn_ack_v4 {
	struct iphdr ip;
	struct tcphdr tcp;
	__be32 option;
};

struct syn_ack_v6 {
	struct ipv6hdr ip;
	struct tcphdr tcp;
	__be32 option;
};

/* Copies of a packet's headers, and the answer to it. */
struct handshake {
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} ip;
	union {
		struct tcphdr header;
		__u8 bytes[60];		/* with options: RFC 9293 section 3.1 */
	} tcp;
	union {
		struct syn_ack_v4 v4;
		struct syn_ack_v6 v6;
	} answer;
};

struct scratch {
	struct packet packet;
	struct lookup lookup;	/* here, the verifier takes its values for unknown: with what it knew, paths multiplied */
	struct blake2s blake2s;
	__u64 datagram[SCRATCH_DATAGRAM_WORDS];		/* of UDP, with its header */
	struct claim claim;
	struct entitlement entitlement;
	struct attempt attempt;
	struct event event;
	struct followed followed;
	struct handshake handshake;
	struct bpf_fib_lookup fib;
	struct xdpfw_flow_key flow_key;
	struct xdpfw_grant_key key;
	struct xdpfw_grant grant;
	struct xdpfw_grant extended;
	__u64 unsigned_grants;		/* that a sweep found */
	struct xdpfw_member_key member_key;
	struct xdpfw_member member;
	__u64 first_end_ns;		/* of the members that a sweep has left; a time that is past: it took some out */
	__u64 swept_members;		/* that a sweep has looked at */
	__u64 made;			/* bit i: this grant's entry of service i is new */
	__u64 filter_bits[FILTER_WORDS];
	struct rotating rotating[XDPFW_MAX_ROTATIONS];
	__u64 boot_tick;	/* of jiffies, in which boot_ns was asked for */
	__u64 boot_ns;
	__u64 wall_tick;	/* likewise, of wall_ns */
	__u64 wall_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline struct scratch *scratch_of_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratches, &zero);
}

#endif
