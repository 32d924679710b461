/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Single packet authorization: one UDP datagram that proves who sent it. What is cheap to refuse is refused first, so
 * that replays and stale messages never reach the tag. docs/knocking.md has the format.
 */
#ifndef XDPFW_SPA_H
#define XDPFW_SPA_H

#include <bpf/bpf_endian.h>

#include "grant.h"
#include "scratch.h"

enum {
	UDP_HEADER_BYTES = 8,
	SPA_DATAGRAM_BYTES = UDP_HEADER_BYTES + XDPFW_SPA_BYTES,
	SPA_TAG_WORDS = (XDPFW_SPA_BYTES - XDPFW_SPA_SIGNED_BYTES) / sizeof(__u32),
	IPV4_MAPPED_HIGH = 0,
	SPA_PREFIX_V4_BITS = 24,	/* failures are counted by */
	SPA_PREFIX_V6_BITS = 64,
};

#define IPV4_MAPPED_LOW 0x0000ffff00000000ULL

/* As on the wire, in network byte order. */
struct spa_message {
	__u8 version;
	__u8 flags;
	__be16 key;
	__be16 service;
	__be16 ttl_s;
	__be64 time_ns;
	__be64 nonce;
	__be64 source_high;
	__be64 source_low;
	__u32 tag[SPA_TAG_WORDS];
};

struct spa_datagram {
	__be16 source;
	__be16 destination;
	__be16 length;
	__be16 checksum;
	struct spa_message message;
};

_Static_assert(sizeof(struct spa_message) == XDPFW_SPA_BYTES, "a message is 56 bytes");
_Static_assert(sizeof(struct spa_datagram) == sizeof(__u64) * SCRATCH_DATAGRAM_WORDS, "a datagram fits the scratch");

/* The datagram, copied, or NULL where it has not exactly the length of a message, by UDP's word and by IP's. */
static __always_inline const struct spa_datagram *read_spa(struct xdp_md *ctx, const struct packet *p,
							   struct scratch *scratch)
{
	const struct spa_datagram *datagram = (const struct spa_datagram *)scratch->datagram;
	__u32 offset = p->payload_offset - UDP_HEADER_BYTES;
	const __u64 *linear;

	if (p->fragment != XDPFW_FRAGMENT_NONE || p->payload_bytes != XDPFW_SPA_BYTES || offset > MAX_OFFSET)
		return NULL;
	linear = (void *)(long)ctx->data + offset;
	if ((void *)(linear + SCRATCH_DATAGRAM_WORDS) <= (void *)(long)ctx->data_end)
		__builtin_memcpy(scratch->datagram, linear, sizeof(scratch->datagram));
	else if (bpf_xdp_load_bytes(ctx, offset, scratch->datagram, sizeof(scratch->datagram)))
		return NULL;
	if (datagram->length != bpf_htons(SPA_DATAGRAM_BYTES))
		return NULL;
	return datagram;
}

/* Who it is from, to whom it says that it is from. */
static __always_inline bool is_from_source(const struct packet *p, const struct spa_message *message)
{
	__u64 high = p->address[XDPFW_DIRECTION_SRC].high, low = p->address[XDPFW_DIRECTION_SRC].low;

	if (p->family == XDPFW_FAMILY_IPV4) {
		low = IPV4_MAPPED_LOW | high >> 32;
		high = IPV4_MAPPED_HIGH;
	}
	return message->source_high == bpf_cpu_to_be64(high) && message->source_low == bpf_cpu_to_be64(low);
}

/* What the tag is made of, for blake2s_last_block(). */
static __always_inline void begin_tag(const struct xdpfw_spa_key *key, const struct spa_message *message,
				      struct blake2s *b)
{
	_Static_assert(sizeof(b->message) == XDPFW_SPA_SIGNED_BYTES, "a message has room for what is signed");
	__builtin_memcpy(b->state, key->state, sizeof(b->state));
	__builtin_memcpy(b->message, message, XDPFW_SPA_SIGNED_BYTES);
}

/* Whether the message has the tag that was made. In constant time: all words are looked at, whichever differ. */
static __always_inline bool is_signed(const struct scratch *scratch)
{
	const struct spa_datagram *datagram = (const struct spa_datagram *)scratch->datagram;
	__u32 difference = 0;

	for (int i = 0; i < SPA_TAG_WORDS; i++)
		difference |= scratch->blake2s.state[i] ^ datagram->message.tag[i];
	return !difference;
}

/*
 * By prefix of the source, never by key: a flood must lock nobody out. A prefix that fails often keeps its slot; one
 * that fails seldom gives way.
 */
static __always_inline void count_failure(const struct packet *p)
{
	__u32 bits = p->family == XDPFW_FAMILY_IPV4 ? SPA_PREFIX_V4_BITS : SPA_PREFIX_V6_BITS;
	__u64 prefix = p->address[XDPFW_DIRECTION_SRC].high & leading_bits(bits);
	__u64 hash = (prefix ^ CONSTANT_64(hash_secret[0]) ^ p->family) * 0x9e3779b97f4a7c15ULL;
	__u32 slot = hash >> 52;
	struct xdpfw_spa_failures *failures;

	_Static_assert(XDPFW_SPA_FAILURE_SLOTS == 1 << 12, "a slot is found by 12 bits");
	failures = bpf_map_lookup_elem(&spa_failures, &slot);
	if (!failures)
		return;
	if (failures->prefix != prefix || failures->family != p->family) {
		if (failures->weight) {
			failures->weight--;
			return;
		}
		failures->prefix = prefix;
		failures->family = p->family;
		failures->packets = 0;
	}
	failures->weight += failures->weight < 0xffff;
	failures->packets++;
	failures->last_wall_ns = wall_ns();
}

/*
 * Whether a message was made before its key was loaded here, when an earlier one may have been lost. By the age of the
 * key, not by what the clock said then: it may have been wrong, and been put right since.
 */
static __always_inline bool is_older(__u64 time_ns, __u64 wall, __u64 loaded_ns)
{
	__u64 age_ns = boot_ns() - loaded_ns;

	return age_ns < wall && time_ns <= wall - age_ns;
}

/*
 * All checks but that of the tag. Returns the reason to refuse the message, or 0; then the scratch has its claim, and
 * what its tag is made of. A global function.
 */
__attribute__((noinline)) int examine_spa(struct xdp_md *ctx, const struct packet *p, __u32 port_number)
{
	const struct xdpfw_spa_port *port = bpf_map_lookup_elem(&spa_ports, &port_number);
	struct scratch *scratch = scratch_of_cpu();
	const struct spa_datagram *datagram;
	const struct spa_message *message;
	const struct xdpfw_spa_key *key;
	struct xdpfw_spa_time *times;
	struct entitlement *asked;
	__u64 time, wall;
	__u32 number;

	if (!p || !port || !scratch)
		return XDPFW_REASON_KNOCK_SPA_MALFORMED;
	asked = &scratch->entitlement;
	*asked = (struct entitlement){};
	datagram = read_spa(ctx, p, scratch);
	if (!datagram)
		return XDPFW_REASON_KNOCK_SPA_MALFORMED;
	message = &datagram->message;
	if (message->version != XDPFW_SPA_VERSION || message->flags & ~XDPFW_SPA_FLAG_CLOSE)
		return XDPFW_REASON_KNOCK_SPA_MALFORMED;

	number = bpf_ntohs(message->key);
	asked->key_number = number;
	if (number >= port->key_count)
		return XDPFW_REASON_KNOCK_SPA_UNKNOWN_KEY;
	number += port->first_key;
	key = bpf_map_lookup_elem(&spa_keys, &number);
	if (!key || !key->used)
		return XDPFW_REASON_KNOCK_SPA_UNKNOWN_KEY;
	asked->knock = key->knock;
	number = key->slot;
	times = bpf_map_lookup_elem(&spa_times, &number);
	if (!times)
		return XDPFW_REASON_KNOCK_SPA_UNKNOWN_KEY;

	time = bpf_be64_to_cpu(message->time_ns);
	scratch->claim = (struct claim){ .time_ns = time, .last_ns = times->last_wall_ns, .times = number };
	if (time <= scratch->claim.last_ns)
		return XDPFW_REASON_KNOCK_SPA_REPLAYED;
	wall = wall_ns();
	if (!scratch->claim.last_ns && times->loaded_ns && is_older(time, wall, times->loaded_ns))
		return XDPFW_REASON_KNOCK_SPA_REPLAYED;
	if (time < wall && wall - time > key->window_ns)
		return XDPFW_REASON_KNOCK_SPA_STALE;
	if (time > wall && time - wall > key->window_ns)
		return XDPFW_REASON_KNOCK_SPA_EARLY;
	if (!key->nat && !is_from_source(p, message))
		return XDPFW_REASON_KNOCK_SPA_SOURCE;
	begin_tag(key, message, &scratch->blake2s);
	return 0;
}

/*
 * Uses a message up whose tag is right, so that it never counts again; what it asks for is then in the scratch.
 * Returns the reason. A global function.
 */
__attribute__((noinline)) int use_spa(void)
{
	struct scratch *scratch = scratch_of_cpu();
	const struct spa_message *message;
	const struct xdpfw_knock *knock;
	struct xdpfw_spa_time *times;
	struct entitlement *asked;
	__u64 last;
	__u32 number;

	if (!scratch)
		return XDPFW_REASON_KNOCK_SPA_MALFORMED;
	number = scratch->claim.times;
	times = bpf_map_lookup_elem(&spa_times, &number);
	if (!times)
		return XDPFW_REASON_KNOCK_SPA_UNKNOWN_KEY;
	last = scratch->claim.last_ns;
	/* Another CPU may have had the same message, or a later one. */
	if (__sync_val_compare_and_swap(&times->last_wall_ns, last, scratch->claim.time_ns) != last)
		return XDPFW_REASON_KNOCK_SPA_REPLAYED;

	message = &((const struct spa_datagram *)scratch->datagram)->message;
	asked = &scratch->entitlement;
	asked->key = times->fingerprint;
	asked->service = bpf_ntohs(message->service);
	asked->duration_ns = (__u64)bpf_ntohs(message->ttl_s) * NS_PER_S;
	asked->closes = message->flags & XDPFW_SPA_FLAG_CLOSE;
	number = asked->knock;
	knock = bpf_map_lookup_elem(&knocks, &number);
	if (!knock || asked->service > knock->service_count)
		return XDPFW_REASON_KNOCK_SPA_SERVICE;
	return XDPFW_REASON_KNOCK_SPA_ACCEPTED;
}

/* Counts a message that was refused, and tells of it. A global function. Returns 0. */
__attribute__((noinline)) int refuse_spa(const struct packet *p, __u32 reason)
{
	const struct xdpfw_knock *knock;
	struct scratch *scratch = scratch_of_cpu();
	struct event *event;
	__u32 number;

	if (!p || !scratch)
		return 0;
	count_failure(p);
	if (is_suppressed(XDPFW_EVENT_SPA_FAILURE))
		return 0;
	event = new_event(scratch, XDPFW_EVENT_SPA_FAILURE);
	event->detail = reason;
	event->key_number = scratch->entitlement.key_number;
	event->service = scratch->entitlement.service;
	number = scratch->entitlement.knock;
	/* Before a key was found, no knock is known. */
	knock = reason > XDPFW_REASON_KNOCK_SPA_UNKNOWN_KEY ? bpf_map_lookup_elem(&knocks, &number) : NULL;
	event->knock = knock ? knock->id : 0;
	record(p, event);
	return 0;
}

#endif
