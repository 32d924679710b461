// SPDX-License-Identifier: GPL-2.0-or-later
/* The firewall: one program for every policy. What a policy says is in the maps and in the constants. */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "allow.h"
#include "classify.h"
#include "egress.h"
#include "knock.h"
#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "spa.h"
#include "syncookie.h"
#include "verdict.h"

_Static_assert(sizeof(struct xdpfw_entry) * XDPFW_BLOCK_ENTRIES == XDPFW_BLOCK_BYTES, "entries fill a block");
_Static_assert(sizeof(struct xdpfw_leaf) == sizeof(struct xdpfw_entry), "a leaf is an entry");
_Static_assert(sizeof(struct xdpfw_pair) == sizeof(struct xdpfw_entry), "a pair is an entry");
_Static_assert(sizeof(struct trie_search) == XDPFW_BLOCK_BYTES, "a search fills a block");
_Static_assert(sizeof(struct trie_search_3) == XDPFW_BLOCK_BYTES / 2, "a small one half of it");
_Static_assert(sizeof(config.fields) / sizeof(config.fields[0]) == XDPFW_FIELD_COUNT, "a table a field");
_Static_assert(sizeof(config.macs) / sizeof(config.macs[0]) == XDPFW_MAC_COUNT * XDPFW_MAC_PARTS, "a table a part");
_Static_assert(sizeof(config.mac_steps) / sizeof(config.mac_steps[0]) == XDPFW_MAC_COUNT, "a step an address");
_Static_assert(sizeof(config.directions) / sizeof(config.directions[0]) == XDPFW_DIRECTION_COUNT, "source, destination");
_Static_assert(XDP_DROP + XDPFW_VERDICT_PASS == XDP_PASS && XDP_DROP + XDPFW_VERDICT_TX == XDP_TX &&
	       XDP_DROP + XDPFW_VERDICT_REDIRECT == XDP_REDIRECT, "verdicts are in XDP's order");
_Static_assert(sizeof(config.knocked) / sizeof(config.knocked[0]) == XDPFW_MAX_KNOCKED, "a knock a bit");
_Static_assert(sizeof(config.asked_sets) / sizeof(config.asked_sets[0]) == XDPFW_DIRECTION_COUNT * XDPFW_MAX_ASKED_SETS,
	       "a set a bit");
_Static_assert(sizeof(config.set_slots) / sizeof(config.set_slots[0]) == XDPFW_MAX_DYNAMIC_SETS, "a slot a set");
_Static_assert(sizeof(struct xdpfw_flow) == XDPFW_BLOCK_BYTES, "a flow fills a cache line");
_Static_assert(XDPFW_MAX_STEPS - 1 <= XDPFW_PROGRESS_DONE_MASK, "a slot has room for the longest progress");
_Static_assert(sizeof(config.groups) / sizeof(config.groups[0]) == XDPFW_MAX_GROUPS, "a table a group");

/* The policy's number for an interface. The factor is chosen so that no two of its interfaces share a slot. */
static __always_inline __u32 interface_index(const struct xdp_md *ctx)
{
	const struct xdpfw_interface *interface;
	__u32 ifindex, slot;

	/* The program runs nowhere else. Test runs come from any interface. */
	if (CONSTANT(interface_count) == 1 && !CONSTANT(trace))
		return 0;
	ifindex = ctx->ingress_ifindex;
	slot = ifindex * CONSTANT(interface_factor) >> 24;
	interface = bpf_map_lookup_elem(&interfaces, &slot);
	return interface && interface->ifindex == ifindex ? interface->index : XDPFW_NO_INTERFACE;
}

/*
 * Verifies a datagram to an SPA port, and gives or ends what it asks for. Returns the reason. The tag is made from
 * here, as its 136 bytes of stack fit behind nothing else.
 */
static __always_inline enum xdpfw_reason authorize(struct xdp_md *ctx, const struct packet *p, __u32 port)
{
	struct scratch *scratch = scratch_of_cpu();
	enum xdpfw_reason reason;

	if (!scratch)
		return XDPFW_REASON_KNOCK_SPA_MALFORMED;
	reason = examine_spa(ctx, p, port);
	if (!reason) {
		blake2s_last_block(&scratch->blake2s, BLAKE2S_BLOCK_BYTES + XDPFW_SPA_SIGNED_BYTES);
		reason = is_signed(scratch) ? use_spa() : XDPFW_REASON_KNOCK_SPA_FORGED;
	}
	if (reason == XDPFW_REASON_KNOCK_SPA_ACCEPTED) {
		if (settle(p, &scratch->entitlement))
			return reason;
		reason = XDPFW_REASON_KNOCK_SPA_REFUSED;
	}
	refuse_spa(p, reason);
	note_wrong(p);
	return reason;
}

/* What knocks make of a packet for which this rule was found. Returns the reason, or 0: the policy's rules decide. */
static __always_inline enum xdpfw_reason knock(struct xdp_md *ctx, const struct policy *policy,
					       const struct packet *p, const struct lookup *l, __u32 rule)
{
	__u32 stepped = stepped_rotations(p, asked_rotations(policy, l));
	const struct xdpfw_action *action = NULL;

	if (rule < CONSTANT(knock_rules))
		action = bpf_map_lookup_elem(&actions, &rule);
	if (action && action->kind == XDPFW_ACTION_STEP) {
		note_step(p, action->target, stepped);
		return XDPFW_REASON_KNOCK_STEP;
	}
	if (stepped) {
		note_step(p, NO_TOKEN, stepped);
		return XDPFW_REASON_KNOCK_STEP;
	}
	if (!action)
		return 0;
	if (action->kind == XDPFW_ACTION_SPA)
		return authorize(ctx, p, action->target);
	if (is_open(p, action->target))
		return XDPFW_REASON_KNOCK_GRANTED;
	note_wrong(p);
	return XDPFW_REASON_KNOCK_CLOSED;
}

SEC("xdp.frags")
int xdpfw(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct policy policy = {
		.tables[RULES] = bpf_map_lookup_elem(&tables, &zero),
	};
	struct scratch *scratch = scratch_of_cpu();
	struct lookup *lookup;
	struct packet *packet;
	enum xdpfw_verdict verdict;
	enum xdpfw_reason reason;
	__u32 key, challenged;

	if (!policy.tables[RULES] || !scratch)
		return XDP_ABORTED;	/* the verifier's case: the map always has its one element */
	if (CONSTANT(sets.bytes)) {
		policy.tables[SETS] = bpf_map_lookup_elem(&set_tables, &zero);
		if (!policy.tables[SETS])
			return XDP_ABORTED;
	}
	packet = &scratch->packet;
	lookup = &scratch->lookup;
	clear(packet);
	packet->value[XDPFW_FIELD_INTERFACE] = interface_index(ctx);
	if (CONSTANT(stop_after) == XDPFW_STAGE_START)
		return XDP_DROP;
	reason = parse(ctx, packet);
	if (CONSTANT(stop_after) == XDPFW_STAGE_PARSE)
		return XDP_DROP;
	if (reason)
		return finish(packet, CONSTANT(invalid_verdict), reason, XDPFW_KEY_NONE);
	if (is_banned(packet))
		return finish(packet, XDPFW_VERDICT_DROP, XDPFW_REASON_BAN, XDPFW_KEY_NONE);

	if (CONSTANT(tracks))
		find_state(ctx, packet);
	if (CONSTANT(protects_syn))
		take_cookie(ctx, packet);
	reason = allow(packet);
	if (reason)
		return finish(packet, XDPFW_VERDICT_PASS, reason, XDPFW_KEY_NONE);
	if (CONSTANT(allow.fragments) && packet->fragment == XDPFW_FRAGMENT_LATER && follow_first(packet))
		return finish_later(ctx, packet, &scratch->followed);

	if (CONSTANT(knocked_count))
		packet->value[XDPFW_FIELD_KNOCKED] = knocked(packet);
	if (CONSTANT(asked_set_count[XDPFW_DIRECTION_SRC]) || CONSTANT(asked_set_count[XDPFW_DIRECTION_DST]))
		find_sets(packet);
	if (CONSTANT(stop_after) == XDPFW_STAGE_STATE)
		return XDP_DROP;
	combine_fields(&policy, packet, lookup);
	if (CONSTANT(stop_after) == XDPFW_STAGE_FIELDS)
		return XDP_DROP;
	find_addresses(&policy, packet, lookup);
	if (CONSTANT(stop_after) == XDPFW_STAGE_ADDRESSES)
		return XDP_DROP;
	key = find_rule(&policy, lookup);
	if (CONSTANT(stop_after) == XDPFW_STAGE_CLASSIFY)
		return XDP_DROP;

	reason = CONSTANT(knock_rules) ? knock(ctx, &policy, packet, lookup, key >> XDPFW_KEY_SHIFT) : 0;
	if (reason) {
		verdict = reason == XDPFW_REASON_KNOCK_GRANTED ? XDPFW_VERDICT_PASS : XDPFW_VERDICT_DROP;
	} else {
		if (CONSTANT(counts))
			count_passed_rules(&policy, packet, lookup, key);
		reason = key == XDPFW_KEY_NONE ? XDPFW_REASON_DEFAULT : XDPFW_REASON_RULE;
		verdict = key == XDPFW_KEY_NONE ? CONSTANT(default_verdict) : verdict_of(ctx, packet, key);
		if (reason == XDPFW_REASON_DEFAULT || verdict == XDPFW_VERDICT_DROP)
			note_wrong(packet);
	}
	if (CONSTANT(protects_syn) && is_for_stack(packet, verdict)) {
		challenged = challenge(ctx, packet);
		if (challenged) {
			reason = challenged;
			verdict = reason == XDPFW_REASON_PROTECT_SYN_COOKIE ? XDPFW_VERDICT_TX : XDPFW_VERDICT_DROP;
		}
	}
	return finish(packet, verdict, reason, key);
}

char _license[] SEC("license") = "GPL";
