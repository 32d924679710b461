/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The maps, and the constants. Sizes of 1 (and of tables' value) are placeholders: the loader sets them.
 */
#ifndef XDPFW_MAPS_H
#define XDPFW_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi_flow.h"
#include "abi_knock.h"
#include "abi_limit.h"
#include "abi_set.h"

/* The program has its constants in its instructions (constants.h); here they are for whoever reads a generation. */
const volatile struct xdpfw_config config;

/* The compiled policy, config.table_bytes in one value; tables.h reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, XDPFW_BLOCK_BYTES);
} tables SEC(".maps");

/* The addresses of sets with files, config.sets.bytes in one value. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, XDPFW_BLOCK_BYTES);
} set_tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xdpfw_action);
} actions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XDPFW_INTERFACE_SLOTS);
	__type(key, __u32);
	__type(value, struct xdpfw_interface);
} interfaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XDPFW_REASON_COUNT);
	__type(key, __u32);
	__type(value, struct xdpfw_counter);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, (XDPFW_MAX_INTERFACES + 1) * XDPFW_VERDICT_COUNT);
	__type(key, __u32);
	__type(value, struct xdpfw_counter);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xdpfw_trace);
} trace SEC(".maps");

#define ARRAY_MAP(name, entries, type_of_value)			\
	struct {						\
		__uint(type, BPF_MAP_TYPE_ARRAY);		\
		__uint(max_entries, entries);			\
		__type(key, __u32);				\
		__type(value, type_of_value);			\
	} name SEC(".maps")

#define MAPPABLE_ARRAY_MAP(name, entries, type_of_value)	\
	struct {						\
		__uint(type, BPF_MAP_TYPE_ARRAY);		\
		__uint(map_flags, BPF_F_MMAPABLE);		\
		__uint(max_entries, entries);			\
		__type(key, __u32);				\
		__type(value, type_of_value);			\
	} name SEC(".maps")

/* Knocks, as the policy has them. */
ARRAY_MAP(knocks, 1, struct xdpfw_knock);
ARRAY_MAP(sequences, 1, struct xdpfw_sequence);
ARRAY_MAP(tokens, 1, struct xdpfw_token);
ARRAY_MAP(guards, 1, struct xdpfw_guard);
ARRAY_MAP(rotations, 1, struct xdpfw_rotation);
ARRAY_MAP(windows, 1, struct xdpfw_window);
ARRAY_MAP(filters, 1, struct xdpfw_filter);
ARRAY_MAP(spa_ports, 1, struct xdpfw_spa_port);
ARRAY_MAP(spa_keys, 1, struct xdpfw_spa_key);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xdpfw_knock_counter);
} knock_counters SEC(".maps");

/* Limits and actions, as the policy has them. */
ARRAY_MAP(limits, 1, struct xdpfw_rate);
MAPPABLE_ARRAY_MAP(limit_totals, 1, struct xdpfw_limit_total);	/* of limits per rule */
ARRAY_MAP(cpu_choices, 1, __u32);
ARRAY_MAP(asked, 1, __u64);		/* sockets that cookies were asked of: see syncookie.h */
ARRAY_MAP(protected_ports, 1, __u64);	/* bit port % 64 of element port / 64 */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xdpfw_limit_counter);
} limit_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xdpfw_flow_counter);
} flow_counters SEC(".maps");

/* Where routed packets may go: interfaces that take frames, by index. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, XDPFW_MAX_INTERFACES);
	__type(key, __u32);
	__type(value, __u32);
} routes SEC(".maps");

/* The policy's interfaces' own MAC addresses, by its numbers: first byte on the wire first, then two of 0. */
ARRAY_MAP(stations, XDPFW_MAX_INTERFACES, __u64);

/* When the stack was last given a packet for a neighbour (route.h), in ticks, by a hash. */
ARRAY_MAP(reminders, 1, __u64);

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(struct xdpfw_never_ban_key));
	__uint(value_size, sizeof(__u32));
} never_ban SEC(".maps");

/* State: an instance's. The loader hands on what the generation before has. */
MAPPABLE_ARRAY_MAP(flow_tags, XDPFW_FLOW_BUCKETS, struct xdpfw_flow_tags);
MAPPABLE_ARRAY_MAP(flows, XDPFW_FLOW_BUCKETS * XDPFW_BUCKET_SLOTS, struct xdpfw_flow);
MAPPABLE_ARRAY_MAP(incoming, XDPFW_INCOMING_BUCKETS, struct xdpfw_incoming);
MAPPABLE_ARRAY_MAP(fragments, XDPFW_FRAGMENT_BUCKETS, struct xdpfw_fragments);
MAPPABLE_ARRAY_MAP(limit_buckets, XDPFW_LIMIT_BUCKETS, struct xdpfw_limit_slots);
MAPPABLE_ARRAY_MAP(acquaintances, XDPFW_ACQUAINTANCE_BUCKETS, struct xdpfw_acquaintances);
MAPPABLE_ARRAY_MAP(set_heads, XDPFW_SET_SLOTS, struct xdpfw_set_head);

/* Members of dynamic sets, by slot. Each set's map is as large as the policy says. */
struct members {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(struct xdpfw_member_key));
	__uint(value_size, sizeof(struct xdpfw_member));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, XDPFW_SET_SLOTS);
	__type(key, __u32);
	__array(values, struct members);
} dynamic_sets SEC(".maps");

MAPPABLE_ARRAY_MAP(shared, 1, struct xdpfw_shared);
MAPPABLE_ARRAY_MAP(beginnings, XDPFW_BEGINNING_BUCKETS, struct xdpfw_beginnings);
MAPPABLE_ARRAY_MAP(progress, XDPFW_PROGRESS_BUCKETS, struct xdpfw_progress);
ARRAY_MAP(markers, 1, struct xdpfw_markers);
MAPPABLE_ARRAY_MAP(spa_times, XDPFW_MAX_SPA_KEYS, struct xdpfw_spa_time);
MAPPABLE_ARRAY_MAP(spa_failures, XDPFW_SPA_FAILURE_SLOTS, struct xdpfw_spa_failures);
MAPPABLE_ARRAY_MAP(events, XDPFW_EVENT_SLOTS, struct xdpfw_event);
MAPPABLE_ARRAY_MAP(event_heads, 2, __u64);
ARRAY_MAP(event_limits, 2 * XDPFW_EVENT_COUNT, struct xdpfw_event_limit);
MAPPABLE_ARRAY_MAP(notes, XDPFW_EVENT_SLOTS, struct xdpfw_event);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, XDPFW_MAX_GRANTS);
	__type(key, struct xdpfw_grant_key);
	__type(value, struct xdpfw_grant);
} grants SEC(".maps");

#endif
