/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Knocks by sequences, and the ports that knocks open.
 *
 *   step packet ─► each sequence of its source advances, stays, begins anew or is given up ─► grant, or its end
 *   any other packet that no rule passes ─► all sequences of its source are given up
 *   packet to an opened port ─► granted or closed
 */
#ifndef XDPFW_KNOCK_H
#define XDPFW_KNOCK_H

#include "grant.h"
#include "progress.h"
#include "rotation.h"
#include "verdict.h"

#define NO_TOKEN 0xffffffffU

static __always_inline bool has_syn_data(const struct packet *p)
{
	return p->value[XDPFW_FIELD_PROTO] == IPPROTO_TCP && p->payload_bytes;
}

/*
 * Tells and counts what became of a sequence, and notes in the scratch what it earned. A global function. Returns 0.
 */
__attribute__((noinline)) int conclude(const struct packet *p, __u32 number, __u32 outcome)
{
	const struct xdpfw_sequence *sequence = bpf_map_lookup_elem(&sequences, &number);
	struct scratch *scratch = scratch_of_cpu();
	const struct xdpfw_knock *knock;
	struct event *event;
	__u32 knock_number;
	bool is_reset = (outcome & ADVANCE_MASK) == ADVANCE_RESET;

	if (!p || !sequence || !scratch)
		return 0;
	knock_number = sequence->knock;
	knock = bpf_map_lookup_elem(&knocks, &knock_number);
	if (!knock)
		return 0;
	count_knock(knock_number, is_reset ? COUNT_RESET : COUNT_STEP);
	scratch->entitlement = (struct entitlement){ .knock = knock_number, .closes = sequence->closes };
	if (is_suppressed(is_reset ? XDPFW_EVENT_RESET : XDPFW_EVENT_STEP))
		return 0;
	event = new_event(scratch, is_reset ? XDPFW_EVENT_RESET : XDPFW_EVENT_STEP);
	event->knock = knock->id;
	event->step = outcome >> ADVANCE_DONE_SHIFT;
	event->steps = sequence->length;
	event->detail = sequence->closes;
	record(p, event);
	return 0;
}

static __always_inline void try_sequence(const struct packet *p, struct scratch *scratch)
{
	__u32 outcome = advance(p, &scratch->attempt);

	if (!(outcome & ADVANCE_MASK))
		return;
	conclude(p, scratch->attempt.sequence, outcome);
	if ((outcome & ADVANCE_MASK) == ADVANCE_COMPLETE)
		settle(p, &scratch->entitlement);
}

/* The scratch with an attempt at no sequence yet, or NULL where the packet has no effect on any. */
static __always_inline struct scratch *new_attempt(const struct packet *p)
{
	struct scratch *scratch = scratch_of_cpu();
	struct attempt *attempt;

	if (!scratch || is_to_group(p))
		return NULL;
	attempt = &scratch->attempt;
	*attempt = (struct attempt){ .now_ns = boot_ns() };
	attempt->is_marked = is_marked(p, attempt->now_ns);
	return scratch;
}

/* note() for the windows of one rotation, whose rules the packet matched or not. A global function. Returns 0. */
__attribute__((noinline)) int note_rotation(const struct packet *p, __u32 number, __u32 is_asked)
{
	const struct xdpfw_rotation *rotation = bpf_map_lookup_elem(&rotations, &number);
	const struct xdpfw_sequence *sequence = bpf_map_lookup_elem(&sequences, &number);
	struct scratch *scratch;
	struct attempt *attempt;
	__u64 window;

	if (!p || !rotation || !sequence)
		return 0;
	scratch = new_attempt(p);
	if (!scratch)
		return 0;
	attempt = &scratch->attempt;
	attempt->sequence = number;
	window = present_window(rotation) - 1;
#pragma unroll
	for (int i = 0; i < ROTATION_WINDOWS; i++) {
		attempt->salt = window + i + 1;
		attempt->positions = is_asked && !has_syn_data(p) ?
				     rotation_positions(p, number, window + i, sequence->length) : 0;
		if (attempt->positions || attempt->is_marked)
			try_sequence(p, scratch);
	}
	return 0;
}

/*
 * Lets a packet have its effect on each sequence of its source: as the step that token is the number of, or, with
 * NO_TOKEN, as a wrong one. A global function. Returns 0.
 */
__attribute__((noinline)) int note(const struct packet *p, __u32 token)
{
	const struct xdpfw_config *config = constants();
	const struct xdpfw_token *steps;
	struct scratch *scratch;
	struct attempt *attempt;

	if (!p)
		return 0;
	scratch = new_attempt(p);
	if (!scratch)
		return 0;
	attempt = &scratch->attempt;
	/* A SYN with data is no knock: clients that knock send none. */
	if (has_syn_data(p))
		token = NO_TOKEN;
	for (__u32 number = 0; number < XDPFW_MAX_SEQUENCES; number++) {
		if (number < config->rotation_count)
			continue;
		if (number >= config->sequence_count)
			break;
		attempt->sequence = number;
		/* Looked up each time: clang would add to the pointer before it is known to be one. */
		steps = bpf_map_lookup_elem(&tokens, &token);
		attempt->positions = steps ? steps->positions[number] : 0;
		if (attempt->positions || attempt->is_marked)
			try_sequence(p, scratch);
	}
	return 0;
}

/* Whether a packet that matched the rules of a rotation is a step of any window. A global function. */
__attribute__((noinline)) int is_step_of(const struct packet *p, __u32 number)
{
	const struct xdpfw_rotation *rotation = bpf_map_lookup_elem(&rotations, &number);
	const struct xdpfw_sequence *sequence = bpf_map_lookup_elem(&sequences, &number);
	__u32 found = 0;
	__u64 window;

	if (!p || !rotation || !sequence)
		return 0;
	window = present_window(rotation) - 1;
	for (int i = 0; i < ROTATION_WINDOWS; i++) {
		derive_window(rotation, number, window + i);
		found |= rotation_positions(p, number, window + i, sequence->length);
	}
	if (!constants()->trace)
		renew_filter(number, window + 1);
	return found != 0;
}

/* asked: as asked_rotations() has it. */
static __always_inline bool is_asked(__u32 asked, __u32 rotation)
{
	return asked >> 2 * rotation & 3;
}

static __always_inline bool is_rotation_step(const struct packet *p, __u32 asked)
{
	bool found = false;

#pragma unroll
	for (__u32 number = 0; number < XDPFW_MAX_ROTATIONS; number++)
		if (number < constants()->rotation_count && is_asked(asked, number) && may_be_step(p, number))
			found |= is_step_of(p, number);
	return found;
}

static __always_inline void note_step(const struct packet *p, __u32 token, __u32 asked)
{
#pragma unroll
	for (__u32 number = 0; number < XDPFW_MAX_ROTATIONS; number++)
		if (number < constants()->rotation_count)
			note_rotation(p, number, is_asked(asked, number));
	note(p, token);
}

/* Gives up what the source of a packet that no rule passes has begun. One load where it has begun nothing. */
static __always_inline void note_wrong(const struct packet *p)
{
	__u32 *marker;

	if (!constants()->sequence_count || p->family == XDPFW_FAMILY_OTHER)
		return;
	marker = marker_of(p);
	if (marker && *marker)
		note_step(p, NO_TOKEN, 0);
}

/* Whether the source may use a port that knocks open; *opener is the first of them. A global function. */
__attribute__((noinline)) int is_open(const struct packet *p, __u32 number)
{
	const struct xdpfw_guard *guard = bpf_map_lookup_elem(&guards, &number);
	const struct xdpfw_knock *knock;
	__u32 service, knock_number;
	__u64 now = 0;

	if (!p || !guard)
		return 0;
	service = p->value[XDPFW_FIELD_PROTO] << SERVICE_PROTOCOL_SHIFT | p->value[XDPFW_FIELD_DPORT];
	for (__u32 i = 0; i < XDPFW_MAX_OPENERS; i++) {
		if (i >= guard->knock_count)
			break;
		knock_number = guard->knocks[i];
		knock = bpf_map_lookup_elem(&knocks, &knock_number);
		if (knock && holds_grant(p, knock, service, &now)) {
			count_knock(knock_number, COUNT_PASSED);
			return 1;
		}
	}
	knock_number = guard->knocks[0];
	count_knock(knock_number, COUNT_DROPPED);
	return 0;
}

/* The value of FIELD_KNOCKED: bit i where the source holds a grant of knocked[i]. */
static __always_inline __u32 knocked(const struct packet *p)
{
	const struct xdpfw_config *config = constants();
	const struct xdpfw_knock *knock;
	__u32 found = 0, number;
	__u64 now = 0;

	if (p->family == XDPFW_FAMILY_OTHER)
		return 0;
	for (__u32 i = 0; i < XDPFW_MAX_KNOCKED; i++) {
		if (i >= config->knocked_count)
			break;
		number = config->knocked[i];
		knock = bpf_map_lookup_elem(&knocks, &number);
		if (knock && holds_grant(p, knock, 0, &now))
			found |= 1U << i;
	}
	return found;
}

#endif
