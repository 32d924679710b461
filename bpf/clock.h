/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The time. Boot time runs on in suspend and never steps; wall time is what the system's clock says. Test runs bring
 * theirs along.
 */
#ifndef XDPFW_CLOCK_H
#define XDPFW_CLOCK_H

#include "maps.h"
#include "scratch.h"
#include "tables.h"

enum {
	NS_PER_MS = 1000000,
	NS_PER_S = 1000000000,
	LONGEST_TICK_NS = 10000000,	/* of jiffies: HZ is 100 at least */
};

static __always_inline struct xdpfw_shared *shared_state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&shared, &zero);
}

static __always_inline const struct xdpfw_trace *test_run(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&trace, &zero);
}

/* A global function: within a loop, its two ways out would double the verifier's work at each turn. */
__attribute__((noinline)) __u64 test_boot_ns(void)
{
	const struct xdpfw_trace *run = test_run();

	return run ? run->boot_ns : 0;
}

static __always_inline __u64 boot_ns(void)
{
	return CONSTANT(trace) ? test_boot_ns() : bpf_ktime_get_boot_ns();
}

/*
 * Boot time as it was when the present tick began to be used, LONGEST_TICK_NS ago at most: for what need not be more exact,
 * as a clock costs as much as parsing. In test runs, it is exact.
 */
static __always_inline __u64 recent_boot_ns(void)
{
	struct scratch *scratch;
	__u64 tick;

	if (CONSTANT(trace))
		return boot_ns();
	scratch = scratch_of_cpu();
	if (!scratch)
		return 0;
	tick = bpf_jiffies64();
	if (scratch->boot_tick != tick) {
		scratch->boot_ns = bpf_ktime_get_boot_ns();
		scratch->boot_tick = tick;
	}
	return scratch->boot_ns;
}

/*
 * ns since 1970, in UTC, as it was when the present tick began to be used: asked for once a tick and CPU, as a clock
 * costs as much as parsing. The kernel tells BPF programs only TAI, which is ahead by the leap seconds once a time
 * daemon has told the kernel of them; commands refresh the offset.
 */
static __always_inline __u64 wall_ns(void)
{
	const struct xdpfw_shared *state;
	const struct xdpfw_trace *run;
	struct scratch *scratch;
	__u64 tick;

	if (CONSTANT(trace)) {
		run = test_run();
		return run ? run->wall_ns : 0;
	}
	scratch = scratch_of_cpu();
	if (!scratch)
		return 0;
	tick = bpf_jiffies64();
	if (scratch->wall_tick != tick) {
		state = shared_state();
		scratch->wall_ns = bpf_ktime_get_tai_ns() - (state ? state->tai_offset_ns : 0);
		scratch->wall_tick = tick;
	}
	return scratch->wall_ns;
}

#endif
