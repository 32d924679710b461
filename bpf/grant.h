/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Grants: who has knocked. One entry for each port that a knock opens, so that a grant is for these ports whatever
 * becomes of the policy, and one for the knock itself. The map never evicts: when it is full, what has expired is
 * looked for, at most once a second, and then a grant is refused.
 */
#ifndef XDPFW_GRANT_H
#define XDPFW_GRANT_H

#include "event.h"

enum {
	SWEEP_INTERVAL_NS = 1000000000,
	SERVICE_PROTOCOL_SHIFT = 16,
	NS_PER_S = 1000000000,
};

static __always_inline __u64 leading_bits(__u32 count)
{
	return count ? ~0ULL << (64 - count) : 0;
}

static __always_inline __u32 scope_bits(const struct packet *p, const struct xdpfw_knock *knock)
{
	return p->family == XDPFW_FAMILY_IPV4 ? knock->scope_v4 : knock->scope_v6;
}

static __always_inline void grant_key(struct xdpfw_grant_key *key, const struct packet *p,
				      const struct xdpfw_knock *knock, __u32 service)
{
	__u32 bits = scope_bits(p, knock);

	/* Member by member, into memory that may be the scratch: a copy on the stack would be 40 bytes. */
	key->high = p->address[XDPFW_DIRECTION_SRC].high & leading_bits(bits > 64 ? 64 : bits);
	key->low = p->address[XDPFW_DIRECTION_SRC].low & leading_bits(bits > 64 ? bits - 64 : 0);
	key->knock = knock->id;
	key->port = service;
	key->protocol = service >> SERVICE_PROTOCOL_SHIFT;
	key->family = p->family;
	key->prefix_bits = bits;
	__builtin_memset(key->padding, 0, sizeof(key->padding));
}

/* Whether the source holds a grant for a service, protocol << 16 | port. *now_ns is asked for once, where needed. */
static __always_inline bool holds_grant(const struct packet *p, const struct xdpfw_knock *knock, __u32 service,
					__u64 *now_ns)
{
	struct xdpfw_grant_key key;
	const struct xdpfw_grant *grant;

	grant_key(&key, p, knock, service);
	grant = bpf_map_lookup_elem(&grants, &key);
	if (!grant)
		return false;
	if (!*now_ns)
		*now_ns = boot_ns();
	return *now_ns < grant->until_ns;
}

static long delete_expired(void *map, const struct xdpfw_grant_key *key, const struct xdpfw_grant *grant,
			   const __u64 *now)
{
	if (grant->until_ns <= *now)
		bpf_map_delete_elem(map, key);
	return 0;
}

/* Makes room, if it was not tried just now. */
static __always_inline bool sweep(__u64 now)
{
	struct xdpfw_shared *state = shared_state();
	__u64 swept;

	if (!state)
		return false;
	swept = state->swept_ns;
	if (swept && now - swept < SWEEP_INTERVAL_NS)
		return false;
	if (__sync_val_compare_and_swap(&state->swept_ns, swept, now) != swept)
		return false;
	bpf_for_each_map_elem(&grants, delete_expired, &now, 0);
	return true;
}

static __always_inline bool put_grant(const struct xdpfw_grant_key *key, const struct xdpfw_grant *grant)
{
	struct xdpfw_grant *held = bpf_map_lookup_elem(&grants, key);

	if (held) {
		/* One that has run out is no more than a place. */
		if (held->until_ns <= grant->granted_ns)
			held->granted_ns = grant->granted_ns;
		if (held->until_ns < grant->until_ns) {
			held->until_ns = grant->until_ns;
			held->key = grant->key;
			held->key_number = grant->key_number;
		}
		return true;
	}
	if (!bpf_map_update_elem(&grants, key, grant, BPF_ANY))
		return true;
	return sweep(grant->granted_ns) && !bpf_map_update_elem(&grants, key, grant, BPF_ANY);
}

/* The knock's service i, or 0, the knock itself, behind the last. */
static __always_inline __u32 service_of(const struct xdpfw_knock *knock, __u32 i)
{
	return i < knock->service_count && i < XDPFW_MAX_SERVICES ? knock->services[i] : 0;
}

static __always_inline bool is_asked_for(const struct xdpfw_knock *knock, __u32 i, __u32 service)
{
	return !service || service == i + 1 || i >= knock->service_count;
}

/* Gives the source what it has earned. A global function. Returns 1, or 0 where there is no room. */
__attribute__((noinline)) int give_grant(const struct packet *p, const struct entitlement *earned)
{
	struct scratch *scratch = scratch_of_cpu();
	const struct xdpfw_knock *knock;
	__u32 number;

	if (!p || !earned || !scratch)
		return 0;
	number = earned->knock;
	knock = bpf_map_lookup_elem(&knocks, &number);
	if (!knock)
		return 0;
	scratch->grant.granted_ns = boot_ns();
	scratch->grant.until_ns = scratch->grant.granted_ns + earned->duration_ns;
	scratch->grant.key = earned->key;
	scratch->grant.key_number = earned->key_number;
	scratch->grant.padding = 0;
	for (__u32 i = 0; i <= XDPFW_MAX_SERVICES; i++) {
		if (i > knock->service_count)
			break;
		if (!is_asked_for(knock, i, earned->service))
			continue;
		grant_key(&scratch->key, p, knock, service_of(knock, i));
		if (!put_grant(&scratch->key, &scratch->grant))
			return 0;
	}
	return 1;
}

/* Ends the source's grant of a knock, or of one service of it. A global function. Returns whether there was one. */
__attribute__((noinline)) int end_grant(const struct packet *p, const struct entitlement *given)
{
	struct scratch *scratch = scratch_of_cpu();
	const struct xdpfw_knock *knock;
	const struct xdpfw_grant *held;
	bool was_there = false;
	__u64 now = boot_ns();
	__u32 number;

	if (!p || !given || !scratch)
		return 0;
	number = given->knock;
	knock = bpf_map_lookup_elem(&knocks, &number);
	if (!knock)
		return 0;
	for (__u32 i = 0; i <= XDPFW_MAX_SERVICES; i++) {
		if (i > knock->service_count)
			break;
		/* Who gives up one service keeps the others, and with them the knock. */
		if (given->service && given->service != i + 1)
			continue;
		grant_key(&scratch->key, p, knock, service_of(knock, i));
		held = bpf_map_lookup_elem(&grants, &scratch->key);
		if (!held)
			continue;
		was_there |= now < held->until_ns;
		bpf_map_delete_elem(&grants, &scratch->key);
	}
	return was_there;
}

enum knock_count {
	COUNT_STEP,
	COUNT_RESET,
	COUNT_GRANT,
	COUNT_REFUSED,
	COUNT_CLOSE,
	COUNT_PASSED,
	COUNT_DROPPED,
};

static __always_inline void count_knock(__u32 knock, enum knock_count what)
{
	struct xdpfw_knock_counter *counter = bpf_map_lookup_elem(&knock_counters, &knock);

	if (!counter)
		return;
	switch (what) {
	case COUNT_STEP:
		counter->steps++;
		break;
	case COUNT_RESET:
		counter->resets++;
		break;
	case COUNT_GRANT:
		counter->grants++;
		break;
	case COUNT_REFUSED:
		counter->refused++;
		break;
	case COUNT_CLOSE:
		counter->closes++;
		break;
	case COUNT_PASSED:
		counter->passed++;
		break;
	case COUNT_DROPPED:
		counter->dropped++;
		break;
	}
}

/*
 * Gives or ends the grant that the source has earned or gives up; counts and tells it. A global function. Returns 0
 * where a grant was refused.
 */
__attribute__((noinline)) int settle(const struct packet *p, struct entitlement *earned)
{
	struct scratch *scratch = scratch_of_cpu();
	struct xdpfw_shared *state = shared_state();
	const struct xdpfw_knock *knock;
	struct event *event;
	__u32 number;
	bool is_given;

	if (!p || !earned || !scratch || !state)
		return 0;
	number = earned->knock;
	knock = bpf_map_lookup_elem(&knocks, &number);
	if (!knock)
		return 0;
	if (earned->closes) {
		if (!end_grant(p, earned))
			return 1;
		count_knock(number, COUNT_CLOSE);
		event = new_event(scratch, XDPFW_EVENT_GRANT_END);
		event->detail = XDPFW_GRANT_END_CLOSED;
	} else {
		if (!earned->duration_ns || earned->duration_ns > knock->for_ns)
			earned->duration_ns = knock->for_ns;
		is_given = give_grant(p, earned);
		count_knock(number, is_given ? COUNT_GRANT : COUNT_REFUSED);
		if (!is_given)
			__sync_fetch_and_add(&state->grants_refused, 1);
		event = new_event(scratch, is_given ? XDPFW_EVENT_GRANT : XDPFW_EVENT_GRANT_REFUSED);
		event->duration_ns = earned->duration_ns;
	}
	event->knock = knock->id;
	event->service = earned->service;
	event->key_number = earned->key_number;
	event->prefix_bits = scope_bits(p, knock);
	record(p, event);
	return event->kind != XDPFW_EVENT_GRANT_REFUSED;
}

#endif
