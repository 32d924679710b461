/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Half-done sequences of sources. Those that have begun and those that have come further are in tables of their own, so
 * that a flood of forged first steps drives out beginnings alone. A table is made of buckets of eight, found by a keyed
 * hash; who finds a bucket full takes the place of who has waited longest there. Nobody is told apart by less than 32
 * bits of the hash beside the bucket, and nobody outside knows it.
 *
 * Markers say, by a hash of the source alone, whether it may have begun anything, so that a dropped packet that is no
 * knock costs one load.
 */
#ifndef XDPFW_PROGRESS_H
#define XDPFW_PROGRESS_H

#include "clock.h"
#include "event.h"
#include "maps.h"
#include "packet.h"

enum {
	MARK_TRIES = 4,
	NOT_FOUND = XDPFW_BUCKET_SLOTS,	/* beside the numbers of a bucket's slots */

	/* What advance() returns: one of these, with the number of steps done from DONE_SHIFT on. */
	ADVANCE_NOTHING = 0,
	ADVANCE_STEP = 1,
	ADVANCE_COMPLETE = 2,
	ADVANCE_RESET = 3,
	ADVANCE_MASK = 3,
	ADVANCE_DONE_SHIFT = 2,
};

/*
 * Nobody who does not know the secret can tell which sources fall together. The halves are folded by different
 * distances before they meet, so that what is done to one can't be undone in the other.
 */
static __always_inline __u64 source_hash(const struct packet *p)
{
	__u64 high = ((p->address[XDPFW_DIRECTION_SRC].high ^ CONSTANT_64(hash_secret[0])) +
		      p->family * 0xff51afd7ed558ccdULL) * 0x9e3779b97f4a7c15ULL;
	__u64 low = (p->address[XDPFW_DIRECTION_SRC].low ^ CONSTANT_64(hash_secret[1])) * 0xc4ceb9fe1a85ec53ULL;

	high ^= high >> 32;
	low ^= low >> 29;
	return (high ^ low) * 0xd6e8feb86659fd93ULL;
}

/* salt: the window of a rotation, else 0. */
static __always_inline __u64 progress_hash(const struct packet *p, __u32 sequence_id, __u64 salt)
{
	__u64 hash = source_hash(p);

	hash ^= hash >> 32;
	hash += (__u64)sequence_id << 32 | sequence_id;
	hash *= 0x9e3779b97f4a7c15ULL;
	hash ^= hash >> 32;
	hash = (hash ^ salt ^ CONSTANT_64(hash_secret[1])) * 0xd6e8feb86659fd93ULL;
	return hash ^ hash >> 32;
}

static __always_inline __u32 *marker_of(const struct packet *p)
{
	__u32 slot = source_hash(p) >> 48, zero = 0;
	struct xdpfw_markers *all = bpf_map_lookup_elem(&markers, &zero);

	_Static_assert(XDPFW_MARKER_SLOTS == 1 << 16, "a marker is found by 16 bits");
	return all ? &all->slots[slot & (XDPFW_MARKER_SLOTS - 1)] : NULL;
}

/* Whether the source may have begun something. Markers that are over are taken away. */
static __always_inline bool is_marked(const struct packet *p, __u64 now)
{
	__u32 *marker = marker_of(p);
	__u32 until;

	if (!marker)
		return false;
	until = *marker;
	if (!until)
		return false;
	if (until >= now >> XDPFW_MARKER_SHIFT)
		return true;
	/* Only if nobody has set it meanwhile. */
	__sync_val_compare_and_swap(marker, until, 0);
	return false;
}

static __always_inline void mark(const struct packet *p, __u64 until_ns)
{
	__u32 *marker = marker_of(p);
	__u32 until = (until_ns >> XDPFW_MARKER_SHIFT) + 1, before;

	if (!marker)
		return;
#pragma unroll
	for (int i = 0; i < MARK_TRIES; i++) {
		before = *marker;
		if (before >= until || __sync_val_compare_and_swap(marker, before, until) == before)
			break;
	}
}

/* Announcements to all on a link: a host makes them while it knocks. They are neither steps nor wrong. */
static __always_inline bool is_to_group(const struct packet *p)
{
	return is_group(p->family, p->address[XDPFW_DIRECTION_DST].high);
}

static __always_inline struct xdpfw_beginnings *beginnings_of(__u64 hash)
{
	__u32 bucket = hash & CONSTANT(beginning_mask);

	return bpf_map_lookup_elem(&beginnings, &bucket);
}

static __always_inline struct xdpfw_progress *progress_of(__u64 hash)
{
	__u32 bucket = hash & CONSTANT(progress_mask);

	return bpf_map_lookup_elem(&progress, &bucket);
}

/* Never 0, which is nobody's. */
static __always_inline __u32 tag_of(__u64 hash)
{
	return hash >> 32 ? hash >> 32 : 1;
}

static __always_inline __u64 beginning(__u64 hash, __u32 started_ms)
{
	return (__u64)tag_of(hash) << 32 | started_ms;
}

/* The bits of the hash that stand beside the number of steps done. */
static __always_inline __u32 second_tag(__u64 hash)
{
	return hash & ~XDPFW_PROGRESS_DONE_MASK;
}

/* The slot of a bucket that a source has, or NOT_FOUND. A global function. */
__attribute__((noinline)) int find_beginning(__u64 hash)
{
	const struct xdpfw_beginnings *bucket = beginnings_of(hash);

	if (!bucket)
		return NOT_FOUND;
	for (int i = 0; i < XDPFW_BUCKET_SLOTS; i++)
		if (bucket->slots[i] >> 32 == tag_of(hash))
			return i;
	return NOT_FOUND;
}

/* As find_beginning(). */
__attribute__((noinline)) int find_progress(__u64 hash)
{
	const struct xdpfw_progress *bucket = progress_of(hash);

	if (!bucket)
		return NOT_FOUND;
	for (int i = 0; i < XDPFW_BUCKET_SLOTS; i++)
		if (bucket->slots[i].first >> 32 == tag_of(hash) && (__u32)bucket->slots[i].last >> XDPFW_PROGRESS_DONE_BITS ==
								    second_tag(hash) >> XDPFW_PROGRESS_DONE_BITS)
			return i;
	return NOT_FOUND;
}

/* Puts a beginning down at now_ms, in an empty slot or the oldest one. A global function. Returns 0. */
__attribute__((noinline)) int put_beginning(__u64 hash, __u32 now_ms)
{
	struct xdpfw_beginnings *bucket = beginnings_of(hash);
	__u32 oldest = 0, most_ms = 0, age_ms;

	if (!bucket)
		return 0;
	for (__u32 i = 0; i < XDPFW_BUCKET_SLOTS; i++) {
		age_ms = bucket->slots[i] ? now_ms - (__u32)bucket->slots[i] : ~0U;
		if (age_ms > most_ms) {
			most_ms = age_ms;
			oldest = i;
		}
	}
	bucket->slots[oldest & (XDPFW_BUCKET_SLOTS - 1)] = beginning(hash, now_ms);
	return 0;
}

/* The same for a source that has come further. */
__attribute__((noinline)) int put_progress(__u64 hash, __u32 started_ms, __u32 now_ms, __u32 done)
{
	struct xdpfw_progress *bucket = progress_of(hash);
	__u32 oldest = 0, most_ms = 0, age_ms;

	if (!bucket)
		return 0;
	for (__u32 i = 0; i < XDPFW_BUCKET_SLOTS; i++) {
		age_ms = bucket->slots[i].first ? now_ms - (__u32)(bucket->slots[i].last >> 32) : ~0U;
		if (age_ms > most_ms) {
			most_ms = age_ms;
			oldest = i;
		}
	}
	oldest &= XDPFW_BUCKET_SLOTS - 1;
	bucket->slots[oldest].first = beginning(hash, started_ms);
	bucket->slots[oldest].last = (__u64)now_ms << 32 | second_tag(hash) | (done & XDPFW_PROGRESS_DONE_MASK);
	return 0;
}

/* Where a source stands in a sequence, and in which slot that is written. */
struct standing {
	__u32 done;		/* steps; 0: none */
	__u32 started_ms;
	__u32 last_ms;		/* when the last step was accepted */
	__u32 slot;
};

static __always_inline void look_up(__u64 hash, struct standing *s)
{
	const struct xdpfw_beginnings *begun;
	const struct xdpfw_progress *further;

	s->slot = find_progress(hash);
	further = progress_of(hash);
	if (further && s->slot < XDPFW_BUCKET_SLOTS) {
		s->started_ms = further->slots[s->slot].first;
		s->last_ms = further->slots[s->slot].last >> 32;
		s->done = further->slots[s->slot].last & XDPFW_PROGRESS_DONE_MASK;
		return;
	}
	s->slot = find_beginning(hash);
	begun = beginnings_of(hash);
	if (begun && s->slot < XDPFW_BUCKET_SLOTS) {
		s->started_ms = begun->slots[s->slot];
		s->last_ms = s->started_ms;
		s->done = 1;
	}
}

/* Takes away what look_up() has found. */
static __always_inline void forget(__u64 hash, const struct standing *s)
{
	struct xdpfw_beginnings *begun = beginnings_of(hash);
	struct xdpfw_progress *further = progress_of(hash);

	if (s->slot >= XDPFW_BUCKET_SLOTS || !begun || !further)
		return;
	if (s->done == 1)
		begun->slots[s->slot] = 0;
	else
		further->slots[s->slot].first = 0;
}

/*
 * What a step packet makes of one sequence. A repeat of the last step that was accepted changes nothing, as clients
 * send SYNs again. A global function.
 */
__attribute__((noinline)) int advance(const struct packet *p, const struct attempt *attempt)
{
	const struct xdpfw_sequence *sequence;
	struct standing s = {};
	__u32 number, now_ms, done = 0, started_ms;
	__u64 hash;

	if (!p || !attempt)
		return 0;
	number = attempt->sequence;
	sequence = bpf_map_lookup_elem(&sequences, &number);
	if (!sequence)
		return 0;
	hash = progress_hash(p, sequence->id, attempt->salt);
	now_ms = attempt->now_ns / NS_PER_MS;
	/* Whatever the marker says: what has run out must go before the source begins anew. */
	look_up(hash, &s);
	if (s.done && now_ms - s.started_ms <= sequence->within_ms && now_ms - s.last_ms <= sequence->step_ms)
		done = s.done;
	if (done && attempt->positions >> (done - 1) & 1)
		return ADVANCE_NOTHING;
	if (s.done)
		forget(hash, &s);
	started_ms = done ? s.started_ms : now_ms;
	if (!(attempt->positions >> done & 1)) {
		if (!(attempt->positions & 1))
			return done ? ADVANCE_RESET | done << ADVANCE_DONE_SHIFT : ADVANCE_NOTHING;
		/* It is no next step, but the first one: the sequence begins anew. */
		done = 0;
		started_ms = now_ms;
	}
	done++;
	if (done >= sequence->length)
		return ADVANCE_COMPLETE | done << ADVANCE_DONE_SHIFT;
	if (done == 1)
		put_beginning(hash, now_ms);
	else
		put_progress(hash, started_ms, now_ms, done);
	/* From now on, so that it is not before the end of a millisecond that has begun. */
	mark(p, attempt->now_ns + (__u64)sequence->within_ms * NS_PER_MS);
	return ADVANCE_STEP | done << ADVANCE_DONE_SHIFT;
}

#endif
