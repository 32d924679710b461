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

static __always_inline struct rotating *rotating_of(struct scratch *scratch, __u32 number)
{
	OPAQUE(number);
	return number < XDPFW_MAX_ROTATIONS ? &scratch->rotating[number] : NULL;
}

/*
 * note() for the windows of one rotation; is_step: find_steps() has just found that the packet is a step of one. A
 * global function. Returns 0.
 */
__attribute__((noinline)) int note_rotation(const struct packet *p, __u32 number, __u32 is_step)
{
	const struct xdpfw_rotation *rotation = bpf_map_lookup_elem(&rotations, &number);
	const struct rotating *found;
	struct scratch *scratch;
	struct attempt *attempt;
	__u64 first;

	if (!p || !rotation)
		return 0;
	scratch = new_attempt(p);
	if (!scratch)
		return 0;
	found = rotating_of(scratch, number);
	if (!found)
		return 0;
	attempt = &scratch->attempt;
	attempt->sequence = number;
	is_step = is_step && !has_syn_data(p);
	first = is_step ? found->first : present_window(rotation) - 1;
	for (__u32 i = 0; i < ROTATION_WINDOWS; i++) {
		attempt->salt = first + i + 1;
		attempt->positions = is_step ? found->positions[i] : 0;
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
		if (number < CONSTANT(rotation_count))
			continue;
		if (number >= CONSTANT(sequence_count))
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

/*
 * Which steps of its windows a packet is that matched the rules of a rotation; the scratch has them then, so that the
 * windows are the same when they are gone by. A global function. Returns whether it is any.
 */
__attribute__((noinline)) int find_steps(const struct packet *p, __u32 number)
{
	const struct xdpfw_rotation *rotation = bpf_map_lookup_elem(&rotations, &number);
	const struct xdpfw_sequence *sequence = bpf_map_lookup_elem(&sequences, &number);
	struct scratch *scratch = scratch_of_cpu();
	struct rotating *found;
	__u32 any = 0;

	if (!p || !rotation || !sequence || !scratch)
		return 0;
	found = rotating_of(scratch, number);
	if (!found)
		return 0;
	found->first = present_window(rotation) - 1;
	for (__u32 i = 0; i < ROTATION_WINDOWS; i++) {
		derive_window(rotation, number, found->first + i);
		found->positions[i] = rotation_positions(p, number, found->first + i, sequence->length);
		any |= found->positions[i];
	}
	if (!CONSTANT(trace))
		renew_filter(number, found->first + 1);
	return any != 0;
}

/* asked: as asked_rotations() has it. Returns those that the packet is a step of: bit r for rotation r. */
static __always_inline __u32 stepped_rotations(const struct packet *p, __u32 asked)
{
	__u32 stepped = 0;

#pragma unroll
	for (__u32 number = 0; number < XDPFW_MAX_ROTATIONS; number++)
		if (number < CONSTANT(rotation_count) && asked >> 2 * number & 3 && may_be_step(p, number) &&
		    find_steps(p, number))
			stepped |= 1U << number;
	return stepped;
}

/* stepped: as stepped_rotations() has it. */
static __always_inline void note_step(const struct packet *p, __u32 token, __u32 stepped)
{
#pragma unroll
	for (__u32 number = 0; number < XDPFW_MAX_ROTATIONS; number++)
		if (number < CONSTANT(rotation_count))
			note_rotation(p, number, stepped >> number & 1);
	note(p, token);
}

/* Gives up what the source of a packet that no rule passes has begun. One load where it has begun nothing. */
static __always_inline void note_wrong(const struct packet *p)
{
	__u32 *marker;

	if (!CONSTANT(sequence_count) || p->family == XDPFW_FAMILY_OTHER)
		return;
	marker = marker_of(p);
	if (marker && *marker)
		note_step(p, NO_TOKEN, 0);
}

/* Whether the source may use a port that knocks open. A global function. */
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
	const struct xdpfw_knock *knock;
	__u32 found = 0, number;
	__u64 now = 0;

	if (p->family == XDPFW_FAMILY_OTHER)
		return 0;
	for (__u32 i = 0; i < XDPFW_MAX_KNOCKED; i++) {
		if (i >= CONSTANT(knocked_count))
			break;
		number = config.knocked[i];
		knock = bpf_map_lookup_elem(&knocks, &number);
		if (knock && holds_grant(p, knock, 0, &now))
			found |= 1U << i;
	}
	return found;
}

#endif
