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
};

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

/* What a sweep counts is in the scratch, where the verifier does not follow it from entry to entry. */
static long sweep_entry(void *map, const struct xdpfw_grant_key *key, const struct xdpfw_grant *grant,
			const __u64 *now_ns)
{
	struct scratch *scratch = scratch_of_cpu();

	if (grant->until_ns <= *now_ns)
		bpf_map_delete_elem(map, key);
	else if (!grant->key && scratch)
		scratch->unsigned_grants++;
	return 0;
}

/* Makes room, if it was not tried just now. A global function. Returns whether it tried. */
__attribute__((noinline)) int sweep_grants(void)
{
	struct xdpfw_shared *state = shared_state();
	struct scratch *scratch = scratch_of_cpu();
	__u64 now_ns, swept;

	if (!scratch || !state)
		return 0;
	now_ns = scratch->grant.granted_ns;
	swept = state->swept_ns;
	if (swept && now_ns - swept < SWEEP_INTERVAL_NS)
		return 0;
	if (__sync_val_compare_and_swap(&state->swept_ns, swept, now_ns) != swept)
		return 0;
	scratch->unsigned_grants = 0;
	bpf_for_each_map_elem(&grants, sweep_entry, &now_ns, 0);
	/* Counted anew: what user space took out is not in the number. */
	state->unsigned_grants = scratch->unsigned_grants;
	return 1;
}

enum put_outcome {
	PUT_REFUSED,
	PUT_EXTENDED,
	PUT_NEW,
};

/*
 * Puts the scratch's grant at its key. Entries are written whole: another CPU may have taken the one that was looked
 * at out, and its memory may be another's by now. A global function. Returns an enum put_outcome.
 */
__attribute__((noinline)) int put_grant(void)
{
	struct xdpfw_shared *state = shared_state();
	struct scratch *scratch = scratch_of_cpu();
	const struct xdpfw_grant *held;
	__u64 now_ns;
	bool is_signed;

	if (!scratch || !state)
		return PUT_REFUSED;
	now_ns = scratch->grant.granted_ns;
	is_signed = scratch->grant.key;
	held = bpf_map_lookup_elem(&grants, &scratch->key);
	if (held) {
		if (held->until_ns >= scratch->grant.until_ns)
			return PUT_EXTENDED;
		scratch->extended = scratch->grant;
		if (held->until_ns > now_ns)
			scratch->extended.granted_ns = held->granted_ns;
		if (held->key && !is_signed)
			__sync_fetch_and_add(&state->unsigned_grants, 1);
		else if (!held->key && is_signed)
			__sync_fetch_and_add(&state->unsigned_grants, -1);
		return bpf_map_update_elem(&grants, &scratch->key, &scratch->extended, BPF_ANY) ? PUT_REFUSED :
												  PUT_EXTENDED;
	}
	if (!is_signed && state->unsigned_grants >= XDPFW_MAX_UNSIGNED_GRANTS)
		return PUT_REFUSED;
	if (bpf_map_update_elem(&grants, &scratch->key, &scratch->grant, BPF_ANY))
		return PUT_REFUSED;
	if (!is_signed)
		__sync_fetch_and_add(&state->unsigned_grants, 1);
	return PUT_NEW;
}

/* Takes out what is at scratch->key; true if it was live. */
static __always_inline bool take_grant(struct scratch *scratch, struct xdpfw_shared *state, __u64 now_ns)
{
	const struct xdpfw_grant *held = bpf_map_lookup_elem(&grants, &scratch->key);
	bool was_live;

	if (!held)
		return false;
	was_live = now_ns < held->until_ns;
	if (!held->key)
		__sync_fetch_and_add(&state->unsigned_grants, -1);
	bpf_map_delete_elem(&grants, &scratch->key);
	return was_live;
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

/* Gives the source what it has earned, all of it or nothing. A global function. Returns 1, or 0: there is no room. */
__attribute__((noinline)) int give_grant(const struct packet *p, const struct entitlement *earned)
{
	struct scratch *scratch = scratch_of_cpu();
	struct xdpfw_shared *state = shared_state();
	const struct xdpfw_knock *knock;
	__u32 number;
	enum put_outcome outcome = PUT_EXTENDED;

	if (!p || !earned || !scratch || !state)
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
	scratch->made = 0;
	for (__u32 i = 0; i <= XDPFW_MAX_SERVICES; i++) {
		if (i > knock->service_count)
			break;
		if (!is_asked_for(knock, i, earned->service))
			continue;
		grant_key(&scratch->key, p, knock, service_of(knock, i));
		outcome = put_grant();
		if (outcome == PUT_REFUSED)
			break;
		if (outcome == PUT_NEW)
			scratch->made |= 1U << i;
	}
	if (outcome != PUT_REFUSED)
		return 1;
	for (__u32 i = 0; i <= XDPFW_MAX_SERVICES; i++) {
		if (!(scratch->made >> i & 1))
			continue;
		grant_key(&scratch->key, p, knock, service_of(knock, i));
		take_grant(scratch, state, 0);
	}
	return 0;
}

/* Whether the source holds a port of the knock. */
static __always_inline bool holds_any(struct scratch *scratch, const struct packet *p, const struct xdpfw_knock *knock,
				      __u64 now_ns)
{
	const struct xdpfw_grant *held;

	for (__u32 i = 0; i < XDPFW_MAX_SERVICES; i++) {
		if (i >= knock->service_count)
			break;
		grant_key(&scratch->key, p, knock, service_of(knock, i));
		held = bpf_map_lookup_elem(&grants, &scratch->key);
		if (held && now_ns < held->until_ns)
			return true;
	}
	return false;
}

/*
 * Ends the source's grant of a knock, or of one service of it; with the last service, that of the knock itself ends,
 * too. A global function. Returns whether there was one.
 */
__attribute__((noinline)) int end_grant(const struct packet *p, const struct entitlement *given)
{
	struct scratch *scratch = scratch_of_cpu();
	struct xdpfw_shared *state = shared_state();
	const struct xdpfw_knock *knock;
	bool was_there = false;
	__u64 now_ns;
	__u32 number;

	if (!p || !given || !scratch || !state)
		return 0;
	number = given->knock;
	knock = bpf_map_lookup_elem(&knocks, &number);
	if (!knock)
		return 0;
	now_ns = boot_ns();
	for (__u32 i = 0; i <= XDPFW_MAX_SERVICES; i++) {
		if (i > knock->service_count)
			break;
		if (given->service && given->service != i + 1)
			continue;
		grant_key(&scratch->key, p, knock, service_of(knock, i));
		was_there |= take_grant(scratch, state, now_ns);
	}
	if (given->service && !holds_any(scratch, p, knock, now_ns)) {
		grant_key(&scratch->key, p, knock, 0);
		take_grant(scratch, state, now_ns);
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
		is_given = give_grant(p, earned) || (sweep_grants() && give_grant(p, earned));
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
	event->is_signed = earned->key != 0;
	record(p, event);
	return event->kind != XDPFW_EVENT_GRANT_REFUSED;
}

#endif
