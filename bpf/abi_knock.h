/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the data plane and user space agree on about knocks, the state that outlives a generation, and events. */
#ifndef XDPFW_ABI_KNOCK_H
#define XDPFW_ABI_KNOCK_H

#include "abi.h"

/* cffi: begin */

/*
 * Knocks. A knock and a sequence have identities, 32 bits of a digest, which stay when numbers change: state that
 * outlives a generation goes by them.
 */

/* Value of the map "knocks", by number. */
struct xdpfw_knock {
	__u32 id;			/* of its name */
	__u32 service_count;
	__u64 for_ns;
	__u8 scope_v4;			/* bits of the prefix that a grant is for */
	__u8 scope_v6;
	__u16 padding;
	__u32 padding2;
	__u32 services[16];		/* MAX_SERVICES: protocol << 16 | port, in the order of "opens" */
};

/* Value of the map "sequences", by number. Those of rotations come first, in order of the rotations. */
struct xdpfw_sequence {
	__u32 id;			/* of the knock's name, the steps and the times */
	__u32 knock;
	__u32 length;
	__u32 closes;			/* 1: ends the grant; 0: opens */
	__u32 within_ms;
	__u32 step_ms;
};

/* Value of the map "tokens", by ACTION_STEP's target: bit p of positions[s]: it is step p of sequence s. */
struct xdpfw_token {
	__u16 positions[32];		/* MAX_SEQUENCES */
};

/*
 * Value of the map "rotations", by number. Steps of window w, which is time / every_ns, are words 0, 1... (16 bits,
 * big-endian) of BLAKE2s-256 with the secret as key over w (64 bits, big-endian): port_low + word % port_span, of TCP
 * and UDP by turns. state is that of BLAKE2s behind the block of the key.
 */
struct xdpfw_rotation {
	__u32 state[8];
	__u64 every_ns;
	__u32 port_low;
	__u32 port_span;
};

/* Value of the map "windows", by rotation * 4 + window % 4: the steps of a window once they were asked for. */
struct xdpfw_window {
	__u64 number;			/* window + 1 */
	__u16 ports[16];		/* MAX_STEPS */
};

/*
 * Value of the map "filters", by rotation: the ports of the windows that count, as a set in which a bit is there for
 * several of them. It spares the time to be asked for most packets that are no steps.
 */
struct xdpfw_filter {
	__u64 valid_until_tick;		/* of jiffies, taken to be as long as they can be */
	__u64 bits[16];
};

/* Value of the map "guards": the knocks that open a port. */
struct xdpfw_guard {
	__u32 knock_count;
	__u32 knocks[8];		/* MAX_OPENERS, numbers */
};

/* Value of the map "spa_ports". Its keys are at first_key + number, below first_key + key_count. */
struct xdpfw_spa_port {
	__u32 first_key;
	__u32 key_count;
};

/* Value of the map "spa_keys". */
struct xdpfw_spa_key {
	__u32 state[8];			/* of BLAKE2s-128 behind the block of the key (RFC 7693 section 2.9) */
	__u64 window_ns;
	__u32 knock;
	__u32 slot;			/* the loader's: in the map "spa_times" */
	__u8 used;			/* 0: there is no key of this number */
	__u8 nat;			/* 1: any source may use it */
	__u16 padding;
	__u32 padding2;
};

/* An SPA message, the payload of a UDP datagram; all in network byte order. */
enum xdpfw_spa {
	XDPFW_SPA_VERSION = 1,
	XDPFW_SPA_FLAG_CLOSE = 1,
	XDPFW_SPA_BYTES = 56,
	XDPFW_SPA_SIGNED_BYTES = 40,
};

/*
 * State. These maps are an instance's, not a generation's: both have them while one takes the other's place.
 *
 * Times are ns of CLOCK_BOOTTIME, which runs on in suspend, unless their name has wall.
 */

/* The only value of the map "shared". */
struct xdpfw_shared {
	__u64 hash_secret[2];		/* which slot a source falls into, nobody can know */
	__s64 tai_offset_ns;		/* CLOCK_TAI - CLOCK_REALTIME, as the last command found it */
	__u64 swept_ns;			/* when expired grants were last looked for, as the map was full */
	__u64 grants_refused;		/* as it was full all the same */
	__u64 unsigned_grants;		/* entries without an SPA key; more, by those that user space took out, until a sweep */
};

/*
 * Sources that have done the first step of a sequence: value of the map "beginnings", a bucket of slots by a keyed hash
 * of source and sequence. A slot has 32 further bits of it, the tag, in its upper half, and the time in ms of boot time,
 * which goes round after 49 days, in the lower one; 0: empty.
 */
struct xdpfw_beginnings {
	__u64 slots[8];			/* BUCKET_SLOTS */
};

/* One that has come further; first 0: empty. */
struct xdpfw_progress_slot {
	__u64 first;			/* tag << 32 | ms of the first step */
	__u64 last;			/* ms of the last step << 32 | further bits of the hash | steps done */
};

/* Value of the map "progress". */
struct xdpfw_progress {
	struct xdpfw_progress_slot slots[8];	/* BUCKET_SLOTS */
};

enum xdpfw_progress_done {
	XDPFW_PROGRESS_DONE_BITS = 4,
	XDPFW_PROGRESS_DONE_MASK = 0xf,
};

/* The only value of the map "markers": by a hash of the source, until when one of its sequences may be half done. */
struct xdpfw_markers {
	__u32 slots[65536];		/* MARKER_SLOTS; ns >> MARKER_SHIFT, 0: it has begun none */
};

enum xdpfw_marker {
	XDPFW_MARKER_SHIFT = 28,	/* a quarter of a second */
};

/* Key of the map "grants". protocol 0 and port 0: the knock itself, for rules that ask who has knocked. */
struct xdpfw_grant_key {
	__u64 high;			/* the source's prefix, from the highest bit down; IPv4 in the upper half of high */
	__u64 low;
	__u32 knock;			/* id */
	__u16 port;
	__u8 protocol;
	__u8 family;			/* enum xdpfw_family */
	__u8 prefix_bits;
	__u8 padding[7];
};

struct xdpfw_grant {
	__u64 until_ns;			/* granted before this time, not at it */
	__u64 granted_ns;
	__u64 key;			/* fingerprint of the SPA key; 0: none */
	__u32 key_number;		/* of the SPA key */
	__u32 padding;
};

/* Value of the map "spa_times". The controller assigns slots to keys. */
struct xdpfw_spa_time {
	__u64 fingerprint;		/* of the key: the first 8 bytes of its BLAKE2s-256, as a little-endian number; 0: free */
	__u64 last_wall_ns;		/* time of the last message that was accepted; 0: none since the key was loaded */
	__u64 loaded_ns;		/* when it was; messages from before are refused. 0: it always was there */
};

/* Value of the map "spa_failures", by a hash of the prefix: /24, /64. A prefix that fails more drives out others. */
struct xdpfw_spa_failures {
	__u64 prefix;			/* upper half of the address */
	__u32 family;
	__u32 weight;
	__u64 packets;
	__u64 last_wall_ns;
};

enum xdpfw_event_kind {
	XDPFW_EVENT_STEP,		/* a step was accepted: step of steps */
	XDPFW_EVENT_RESET,		/* a sequence was given up: step had been reached */
	XDPFW_EVENT_GRANT,		/* until: duration_ns from time_ns on */
	XDPFW_EVENT_GRANT_END,		/* by a close; detail: enum xdpfw_grant_end */
	XDPFW_EVENT_GRANT_REFUSED,	/* the map of grants is full */
	XDPFW_EVENT_SPA_FAILURE,	/* detail: enum xdpfw_reason */
	XDPFW_EVENT_RULE,		/* a rule that logs: rule, detail: enum xdpfw_verdict */
	XDPFW_EVENT_SET_ADD,		/* a new member of the dynamic set in slot detail, by rule or by a command; duration_ns: its time */
	XDPFW_EVENT_SET_DELETE,		/* by a command */
	XDPFW_EVENT_COUNT,
};

enum xdpfw_grant_end {
	XDPFW_GRANT_END_CLOSED,		/* by its holder */
	XDPFW_GRANT_END_REVOKED,	/* by an operator */
	XDPFW_GRANT_END_KEY_REMOVED,	/* by an apply */
	XDPFW_GRANT_END_KNOCK_REMOVED,
};

/*
 * Value of the map "events", a ring of EVENT_SLOTS: event n is in slot n % EVENT_SLOTS, with number n + 1. The map
 * "event_heads" has how many there were. User space has a ring of its own, "notes", that only it writes.
 */
struct xdpfw_event {
	__u64 number;			/* written last; 0 while the rest is */
	__u64 time_ns;
	__u64 src_high;
	__u64 src_low;
	__u64 dst_high;
	__u64 dst_low;
	__u64 duration_ns;
	__u32 kind;			/* enum xdpfw_event_kind */
	__u32 generation;
	__u32 suppressed;		/* of this kind, since the last one that was recorded */
	__u32 knock;			/* id */
	__u32 rule;
	__u32 detail;
	__u32 key_number;
	__u32 bytes;
	__u16 service;			/* that an SPA message asked for; 0: all */
	__u16 sport;
	__u16 dport;
	__u16 interface;		/* number in the policy */
	__u8 family;			/* enum xdpfw_family */
	__u8 protocol;
	__u8 step;
	__u8 steps;
	__u8 prefix_bits;		/* of a grant's source */
	__u8 padding[3];
};

/* Value of the map "event_limits", by kind; those of grants by SPA keys behind all others, at EVENT_COUNT + kind. */
struct xdpfw_event_limit {
	__u64 window;			/* a second, more or less: ns >> EVENT_WINDOW_SHIFT */
	__u32 count;			/* in this window */
	__u32 suppressed;		/* since the last one that was recorded */
	__u64 full_until_tick;		/* of jiffies: until then no more can be recorded, whatever the time is */
};

enum xdpfw_event_window {
	XDPFW_EVENT_WINDOW_SHIFT = 30,
};

/* Value of the per-CPU map "knock_counters", by number of a knock. */
struct xdpfw_knock_counter {
	__u64 steps;			/* accepted */
	__u64 resets;
	__u64 grants;
	__u64 refused;
	__u64 closes;
	__u64 passed;			/* packets to its ports with a grant */
	__u64 dropped;			/* and without */
	__u64 padding;
};

/* cffi: end */

#endif
