/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The maps, and the constants. Sizes of 1 (and of tables' value) are placeholders: the loader sets them.
 */
#ifndef XDPFW_MAPS_H
#define XDPFW_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

const volatile struct xdpfw_config config;

/* The compiled policy, config.table_bytes in one value; tables.h reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, XDPFW_BLOCK_BYTES);
} tables SEC(".maps");

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

#endif
