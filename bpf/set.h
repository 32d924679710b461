/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dynamic sets, the bans among them. A set is a hash of prefixes, which says nothing of the time when it was last tidied:
 * whoever finds a member asks for the clock. Before a prefix is looked up, the set's head is asked by two bits: is there
 * anything near the address, and is there a prefix of that length.
 */
#ifndef XDPFW_SET_H
#define XDPFW_SET_H

#include <bpf/bpf_endian.h>

#include "clock.h"
#include "event.h"
#include "maps.h"
#include "packet.h"
#include "scratch.h"
#include "tables.h"

enum {
	SET_SWEEP_MEMBERS = 8192,		/* one packet looks at no more: packets behind it wait for it */
	SET_SWEEP_INTERVAL_NS = 1000000000,
	SET_LONGEST_SWEEP_INTERVAL_NS = 10ULL * 1000000000,
	SET_RENEWAL_NS = 1000000000,		/* a member is renewed in steps of this, and of a quarter of its time */
	SET_RENEWAL_SHIFT = 2,
	SET_WORD_BITS = 64,
	FAMILY_BITS = 32,			/* of a key of never_ban */
};

/* Which bit of a head's presence stands for an address. */
static __always_inline __u64 presence_bit(__u32 family, __u64 high)
{
	__u64 first = high >> 48;

	if (family == XDPFW_FAMILY_IPV4)
		return first;
	return XDPFW_SET_PRESENCE_BITS + (first ^ (high >> 32 & 0xffff));
}

static __always_inline bool has_bit(const struct xdpfw_set_word *word, __u32 bit)
{
	return (word->commands | word->rules) >> bit & 1;
}

static __always_inline bool is_near(const struct xdpfw_set_head *head, __u32 family, __u64 high)
{
	__u64 bit = presence_bit(family, high);

	return has_bit(&head->presence[bit / SET_WORD_BITS], bit % SET_WORD_BITS);
}

static __always_inline void member_key(struct xdpfw_member_key *key, __u32 family, const struct address *address,
				       __u32 bits)
{
	key->high = address->high & leading_bits(bits > 64 ? 64 : bits);
	key->low = address->low & leading_bits(bits > 64 ? bits - 64 : 0);
	key->family = family;
	key->prefix_bits = bits;
	__builtin_memset(key->padding, 0, sizeof(key->padding));
}

static __always_inline bool is_over(const struct xdpfw_member *member, __u64 now_ns)
{
	return member->until_ns && member->until_ns <= now_ns;
}

/*
 * Whether the set that has this slot has, now, the prefix of so many bits that an address of the packet begins with. A
 * global function: the verifier looks at it once, and not for each length.
 */
__attribute__((noinline)) int has_prefix(const struct packet *p, __u32 direction, __u32 slot, __u32 bits)
{
	void *members = bpf_map_lookup_elem(&dynamic_sets, &slot);
	const struct xdpfw_member *member;
	struct xdpfw_member_key key;

	if (!p || !members)
		return 0;
	member_key(&key, p->family, &p->address[direction == XDPFW_DIRECTION_DST], bits);
	member = bpf_map_lookup_elem(members, &key);
	return member && (!member->until_ns || boot_ns() < member->until_ns);
}

/* A global function. Whether an address of the packet is in the set that has this slot. */
__attribute__((noinline)) int is_member(const struct packet *p, __u32 direction, __u32 slot)
{
	const struct xdpfw_set_head *head = bpf_map_lookup_elem(&set_heads, &slot);
	const struct xdpfw_set_word *lengths;

	if (!p || !head || p->family == XDPFW_FAMILY_OTHER ||
	    !is_near(head, p->family, p->address[direction == XDPFW_DIRECTION_DST].high))
		return 0;
	lengths = &head->lengths[p->family == XDPFW_FAMILY_IPV4 ? 0 : XDPFW_SET_LENGTH_WORDS];
	for (__u32 i = 0; i < XDPFW_SET_LENGTH_WORDS; i++) {
		__u64 bits = lengths[i].commands | lengths[i].rules;

		for (int n = 0; n < SET_WORD_BITS && bits; n++, bits &= bits - 1)
			if (has_prefix(p, direction, slot, i * SET_WORD_BITS + lowest_bit(bits)))
				return 1;
	}
	return 0;
}

/* A global function. Whether no ban is for the packet's source. */
__attribute__((noinline)) int is_never_banned(const struct packet *p)
{
	struct {
		struct xdpfw_never_ban_key key;
		__u64 alignment[0];
	} never = {};
	__u64 *address_be = (__u64 *)never.key.address_be;

	if (!p)
		return 0;
	if (CONSTANT(never_ban_used)) {
		never.key.prefix_bits = FAMILY_BITS + 8 * sizeof(never.key.address_be);
		never.key.family = p->family;
		address_be[0] = bpf_cpu_to_be64(p->address[XDPFW_DIRECTION_SRC].high);
		address_be[1] = bpf_cpu_to_be64(p->address[XDPFW_DIRECTION_SRC].low);
		if (bpf_map_lookup_elem(&never_ban, &never.key))
			return 1;
	}
	if (!CONSTANT(never_ban_sets))
		return 0;
	for (__u32 number = 0; number < XDPFW_MAX_DYNAMIC_SETS; number++) {
		if (number >= CONSTANT(set_count))
			break;
		if (CONSTANT(never_ban_sets) >> number & 1 && is_member(p, XDPFW_DIRECTION_SRC, config.set_slots[number]))
			return 1;
	}
	return 0;
}

static __always_inline bool has_never_bans(void)
{
	return CONSTANT(never_ban_used) || CONSTANT(never_ban_sets);
}

/* Whether the packet's source is banned and nothing says that it never is. Nearly all packets end at the first bit. */
static __always_inline bool is_banned(const struct packet *p)
{
	const struct xdpfw_set_head *head;
	__u32 slot = XDPFW_BANS_SLOT;

	head = bpf_map_lookup_elem(&set_heads, &slot);
	if (!head || p->family == XDPFW_FAMILY_OTHER)
		return false;
	if (!is_near(head, p->family, p->address[XDPFW_DIRECTION_SRC].high))
		return false;
	return is_member(p, XDPFW_DIRECTION_SRC, XDPFW_BANS_SLOT) && !(has_never_bans() && is_never_banned(p));
}

static __always_inline __u32 asked_sets(const struct packet *p, __u32 direction, __u32 count)
{
	__u32 found = 0;

	for (__u32 i = 0; i < XDPFW_MAX_ASKED_SETS; i++) {
		const struct xdpfw_set_head *head;
		__u32 number, slot;

		if (i >= count)
			break;
		number = config.asked_sets[direction * XDPFW_MAX_ASKED_SETS + i];
		if (number >= XDPFW_MAX_DYNAMIC_SETS)
			break;
		slot = config.set_slots[number];
		head = bpf_map_lookup_elem(&set_heads, &slot);
		if (head && is_near(head, p->family, p->address[direction].high) && is_member(p, direction, slot))
			found |= 1U << i;
	}
	return found;
}

/* Which of the sets that rules ask for have the packet's addresses. A global function. Returns 0. */
__attribute__((noinline)) int find_sets(struct packet *p)
{
	if (!p)
		return 0;
	if (CONSTANT(asked_set_count[XDPFW_DIRECTION_SRC]))
		p->value[XDPFW_FIELD_SRC_SETS] =
			asked_sets(p, XDPFW_DIRECTION_SRC, CONSTANT(asked_set_count[XDPFW_DIRECTION_SRC]));
	if (CONSTANT(asked_set_count[XDPFW_DIRECTION_DST]))
		p->value[XDPFW_FIELD_DST_SETS] =
			asked_sets(p, XDPFW_DIRECTION_DST, CONSTANT(asked_set_count[XDPFW_DIRECTION_DST]));
	return 0;
}

/* What a sweep finds is in the scratch, where the verifier does not follow it from member to member. */
static long sweep_member(void *members, const struct xdpfw_member_key *key, const struct xdpfw_member *member,
			 const __u64 *now_ns)
{
	struct scratch *scratch = scratch_of_cpu();

	if (!scratch)
		return 1;
	if (member->until_ns && member->until_ns < scratch->first_end_ns)
		scratch->first_end_ns = member->until_ns;
	if (is_over(member, *now_ns))
		bpf_map_delete_elem(members, key);
	return ++scratch->swept_members >= SET_SWEEP_MEMBERS;
}

/*
 * Makes room, if there may be some: a set is looked through at most once a second, and where nothing was over, not again
 * before the first of the members that it looked at is (or ten seconds, as another CPU may have put in a shorter one
 * meanwhile). It begins at the same place each time, in the kernel's own order, which nobody can foretell; what is far
 * behind is left to the commands. Returns whether it looked.
 */
static __always_inline bool sweep_set(struct xdpfw_set_head *head, void *members, __u64 now_ns)
{
	struct scratch *scratch = scratch_of_cpu();
	__u64 from_ns = head->sweep_from_ns;

	if (!scratch || now_ns < from_ns)
		return false;
	if (__sync_val_compare_and_swap(&head->sweep_from_ns, from_ns, now_ns + SET_SWEEP_INTERVAL_NS) != from_ns)
		return false;
	scratch->first_end_ns = now_ns + SET_LONGEST_SWEEP_INTERVAL_NS;
	scratch->swept_members = 0;
	bpf_for_each_map_elem(members, sweep_member, &now_ns, 0);
	if (scratch->first_end_ns > now_ns + SET_SWEEP_INTERVAL_NS)
		head->sweep_from_ns = scratch->first_end_ns;
	return true;
}

static __always_inline void set_bit(struct xdpfw_set_word *word, __u32 bit)
{
	if (!has_bit(word, bit))
		__sync_fetch_and_or(&word->rules, 1ULL << bit);
}

/* Says in a set's head that it has this address. */
static __always_inline void note_near(struct xdpfw_set_head *head, __u32 family, __u64 high, __u32 bits)
{
	__u64 bit = presence_bit(family, high);
	__u32 first = family == XDPFW_FAMILY_IPV4 ? 0 : XDPFW_SET_LENGTH_WORDS;

	set_bit(&head->presence[bit / SET_WORD_BITS], bit % SET_WORD_BITS);
	set_bit(&head->lengths[first + bits / SET_WORD_BITS], bits % SET_WORD_BITS);
}

/* Whether a member need not be written again: it lasts for good, or for as long, but for a little. */
static __always_inline bool is_fresh(const struct xdpfw_member *held, __u64 now_ns, __u64 duration_ns)
{
	__u64 step_ns = duration_ns >> SET_RENEWAL_SHIFT;

	if (!held->until_ns)
		return true;
	if (!duration_ns || is_over(held, now_ns))
		return false;
	if (step_ns > SET_RENEWAL_NS)
		step_ns = SET_RENEWAL_NS;
	return now_ns + duration_ns < held->until_ns + step_ns;
}

/*
 * Puts the packet's source into a dynamic set, by its number in the policy, or has it stay longer; never shorter. The bans
 * do not take those whom no ban is for. A global function. Returns 0.
 */
__attribute__((noinline)) int add_source(const struct packet *p, __u32 set, __u64 duration_ns, __u32 rule)
{
	__u32 slot = set < XDPFW_MAX_DYNAMIC_SETS ? config.set_slots[set] : 0;
	struct xdpfw_set_head *head = bpf_map_lookup_elem(&set_heads, &slot);
	void *members = bpf_map_lookup_elem(&dynamic_sets, &slot);
	struct scratch *scratch = scratch_of_cpu();
	const struct xdpfw_member *held;
	struct event *event;
	__u64 now_ns;
	__u32 bits;
	bool is_new;

	if (!p || !head || !members || !scratch || p->family == XDPFW_FAMILY_OTHER)
		return 0;
	bits = p->family == XDPFW_FAMILY_IPV4 ? 32 : 128;
	now_ns = boot_ns();
	member_key(&scratch->member_key, p->family, &p->address[XDPFW_DIRECTION_SRC], bits);
	held = bpf_map_lookup_elem(members, &scratch->member_key);
	if (held && is_fresh(held, now_ns, duration_ns)) {
		note_near(head, p->family, p->address[XDPFW_DIRECTION_SRC].high, bits);
		return 0;
	}
	is_new = !held || is_over(held, now_ns);
	if (slot == XDPFW_BANS_SLOT && has_never_bans() && is_never_banned(p))
		return 0;
	note_near(head, p->family, p->address[XDPFW_DIRECTION_SRC].high, bits);
	/* Written whole: another CPU may have taken out the member that was found, and its memory be another's by now. */
	scratch->member.until_ns = duration_ns ? now_ns + duration_ns : 0;
	scratch->member.added_ns = is_new ? now_ns : held->added_ns;
	scratch->member.origin = is_new ? XDPFW_SET_ORIGIN_RULE : held->origin;
	scratch->member.padding = 0;
	if (bpf_map_update_elem(members, &scratch->member_key, &scratch->member, BPF_ANY) &&
	    (!sweep_set(head, members, now_ns) ||
	     bpf_map_update_elem(members, &scratch->member_key, &scratch->member, BPF_ANY))) {
		__sync_fetch_and_add(&head->refused, 1);
		return 0;
	}
	if (!is_new || is_suppressed(XDPFW_EVENT_SET_ADD))
		return 0;
	event = new_event(scratch, XDPFW_EVENT_SET_ADD);
	event->rule = rule;
	event->detail = slot;
	event->duration_ns = duration_ns;
	event->prefix_bits = bits;
	record(p, event);
	return 0;
}

#endif
