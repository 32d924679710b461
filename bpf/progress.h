/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Half-done sequences of sources. Each step has a table of its own, in which a source falls into the slot of a keyed
 * hash. A slot can be taken over by another source that comes as far; whoever fell into it before is then still taken
 * to be there. So a flood of spoofed first steps, or of all steps that an attacker knows, breaks nobody's sequence,
 * and gives nobody a step that the flood had not got right. ARCHITECTURE.md says why no LRU can promise that.
 *
 * Markers say, by a hash of the source alone, whether it may have any progress, so that a dropped packet that is no
 * knock costs one load.
 */
#ifndef XDPFW_PROGRESS_H
#define XDPFW_PROGRESS_H

#include "clock.h"
#include "event.h"
#include "maps.h"
#include "packet.h"

enum {
	MARKER_STEP_MASK = (1 << XDPFW_MARKER_STEP_BITS) - 1,
	IPV4_MULTICAST_HIGH = 0xe,	/* the first 4 bits of 224.0.0.0/4 */
	IPV6_MULTICAST_HIGH = 0xff,	/* the first 8 bits of ff00::/8 */

	/* What advance() returns: one of these, with the number of steps done from DONE_SHIFT on. */
	ADVANCE_NOTHING = 0,
	ADVANCE_STEP = 1,
	ADVANCE_COMPLETE = 2,
	ADVANCE_RESET = 3,
	ADVANCE_MASK = 3,
	ADVANCE_DONE_SHIFT = 2,
};

static __always_inline __u64 mix(__u64 hash)
{
	hash ^= hash >> 32;
	hash *= 0xd6e8feb86659fd93ULL;
	hash ^= hash >> 32;
	hash *= 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

/* Nobody who does not know the secret can tell which sources fall together. */
static __always_inline __u64 source_hash(const struct packet *p)
{
	const struct xdpfw_config *config = constants();
	__u64 hash = (p->address[XDPFW_DIRECTION_SRC].high ^ config->hash_secret[0]) * 0x9e3779b97f4a7c15ULL;

	hash ^= hash >> 32;
	hash += p->address[XDPFW_DIRECTION_SRC].low ^ config->hash_secret[1] ^ p->family;
	return hash * 0xd6e8feb86659fd93ULL;
}

static __always_inline __u32 *marker_of(const struct packet *p)
{
	__u32 slot = source_hash(p) >> 48, zero = 0;
	struct xdpfw_markers *all = bpf_map_lookup_elem(&markers, &zero);

	_Static_assert(XDPFW_MARKER_SLOTS == 1 << 16, "a marker is found by 16 bits");
	return all ? &all->slots[slot & (XDPFW_MARKER_SLOTS - 1)] : NULL;
}

/* Announcements to all on a link: a host makes them while it knocks. They are neither steps nor wrong. */
static __always_inline bool is_to_group(const struct packet *p)
{
	__u64 high = p->address[XDPFW_DIRECTION_DST].high;

	if (p->family == XDPFW_FAMILY_IPV4)
		return high >> 60 == IPV4_MULTICAST_HIGH || high >> 32 == 0xffffffff;
	return high >> 56 == IPV6_MULTICAST_HIGH;
}

/* salt: the window of a rotation, else 0. */
static __always_inline __u64 progress_tag(const struct packet *p, __u32 sequence_id, __u64 salt)
{
	__u64 tag = mix(source_hash(p) ^ ((__u64)sequence_id << 32 | sequence_id)) ^ salt;

	tag = mix(tag ^ constants()->hash_secret[1]);
	return tag ? tag : 1;
}

static __always_inline struct xdpfw_progress *progress_slot(__u64 tag, __u32 step)
{
	__u32 slot = (step - 1) * XDPFW_PROGRESS_SLOTS + (tag & (XDPFW_PROGRESS_SLOTS - 1));

	return bpf_map_lookup_elem(&progress, &slot);
}

static __always_inline bool is_in_time(const struct xdpfw_progress *slot, const struct xdpfw_sequence *sequence,
				       __u64 now)
{
	return slot->started_ns && now - slot->started_ns <= sequence->within_ns &&
	       now - slot->last_ns <= sequence->step_ns;
}

/* How far the source has come, by its own slot, which *found then is; it is out of time where *in_time says so. */
static __always_inline __u32 own_progress(const struct xdpfw_sequence *sequence, __u64 tag, __u32 most, __u64 now,
					  struct xdpfw_progress **found, bool *in_time)
{
	for (__u32 step = 1; step < XDPFW_MAX_STEPS; step++) {
		struct xdpfw_progress *slot;

		if (step >= sequence->length || step > most)
			break;
		slot = progress_slot(tag, step);
		if (slot && slot->tag == tag && slot->started_ns) {
			*found = slot;
			*in_time = is_in_time(slot, sequence, now);
			return step;
		}
	}
	return 0;
}

/* How far whoever fell into the source's slots has come, such that the packet is the next step. */
static __always_inline __u32 foreign_progress(const struct xdpfw_sequence *sequence, __u64 tag, __u32 positions,
					      __u64 now, struct xdpfw_progress **found)
{
	for (__u32 step = 1; step < XDPFW_MAX_STEPS; step++) {
		struct xdpfw_progress *slot;

		if (step >= sequence->length)
			break;
		if (!(positions >> step & 1))
			continue;
		slot = progress_slot(tag, step);
		if (slot && slot->tag != tag && is_in_time(slot, sequence, now)) {
			*found = slot;
			return step;
		}
	}
	return 0;
}

/* Whether one time of a marker is before another. They have 28 bits, which go round after 834 days. */
static __always_inline bool is_before(__u32 a, __u32 b)
{
	return (__s32)((a - b) << XDPFW_MARKER_STEP_BITS) < 0;
}

static __always_inline void mark(const struct packet *p, __u64 until_ns, __u32 step)
{
	__u32 *marker = marker_of(p);
	__u32 until, before, most;

	if (!marker)
		return;
	until = (until_ns >> XDPFW_MARKER_SHIFT) + 1;
	before = *marker >> XDPFW_MARKER_STEP_BITS;
	most = *marker & MARKER_STEP_MASK;
	if (*marker && is_before(until, before))
		until = before;
	if (most > step)
		step = most;
	*marker = until << XDPFW_MARKER_STEP_BITS | step;
}

/* How far any sequence of the source may have come; 0: none has begun. Markers that are over are taken away. */
static __always_inline __u32 marked_progress(const struct packet *p, __u64 now)
{
	__u32 *marker = marker_of(p);
	__u32 before;

	if (!marker)
		return 0;
	before = *marker;
	if (!before)
		return 0;
	if (is_before(before >> XDPFW_MARKER_STEP_BITS, now >> XDPFW_MARKER_SHIFT)) {
		/* Only if nobody has set it meanwhile. */
		__sync_val_compare_and_swap(marker, before, 0);
		return 0;
	}
	return before & MARKER_STEP_MASK;
}

/*
 * What a step packet makes of one sequence. A repeat of the last step that was accepted changes nothing, as clients
 * send SYNs again. A global function.
 */
__attribute__((noinline)) int advance(const struct packet *p, const struct attempt *attempt)
{
	const struct xdpfw_sequence *sequence;
	struct xdpfw_progress *own = NULL, *from = NULL, *slot;
	__u64 tag, started;
	__u32 number, done, own_done;
	bool in_time = false;

	if (!p || !attempt)
		return 0;
	number = attempt->sequence;
	sequence = bpf_map_lookup_elem(&sequences, &number);
	if (!sequence)
		return 0;
	tag = progress_tag(p, sequence->id, attempt->salt);
	own_done = own_progress(sequence, tag, attempt->most, attempt->now_ns, &own, &in_time);
	done = in_time ? own_done : 0;
	from = own;
	if (done && attempt->positions >> (done - 1) & 1)
		return ADVANCE_NOTHING;
	if (!done)
		done = foreign_progress(sequence, tag, attempt->positions, attempt->now_ns, &from);

	if (attempt->positions >> done & 1 && done < sequence->length)
		started = done && from ? from->started_ns : attempt->now_ns;
	else if (attempt->positions & 1) {
		started = attempt->now_ns;
		done = 0;
	} else
		started = 0;
	/* Taken away before the next step is put down, so that a source is in one place at most. */
	if (own)
		own->started_ns = 0;
	if (!started)
		return in_time ? ADVANCE_RESET | own_done << ADVANCE_DONE_SHIFT : ADVANCE_NOTHING;
	done++;
	if (done >= sequence->length)
		return ADVANCE_COMPLETE | done << ADVANCE_DONE_SHIFT;
	slot = progress_slot(tag, done);
	if (!slot)
		return ADVANCE_NOTHING;
	slot->started_ns = 0;
	slot->tag = tag;
	slot->last_ns = attempt->now_ns;
	slot->started_ns = started;
	mark(p, started + sequence->within_ns, done);
	return ADVANCE_STEP | done << ADVANCE_DONE_SHIFT;
}

#endif
