/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The constants of a policy, struct xdpfw_config. CONSTANT() is a load of a 64-bit immediate that carries a mark and the
 * member's offset; the loader puts the member's value there before the kernel sees the program. So the verifier takes
 * out what a policy does not use, and what is left has numbers where a global variable would cost a read each time.
 */
#ifndef XDPFW_CONSTANTS_H
#define XDPFW_CONSTANTS_H

#include <stddef.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi_knock.h"

/* Volatile: or else clang would keep values in registers, of which there are few, instead of loading them again. */
#define MARKED(mark, member) ({									\
	__u64 value;										\
	asm volatile("%0 = %1 ll" : "=r"(value)							\
		     : "i"((__u64)(mark) << 32 | __builtin_offsetof(struct xdpfw_config, member))); \
	value;											\
})

/* A member of 32 bits. */
#define CONSTANT(member) ((__u32)MARKED(XDPFW_MARK_WORD, member))

/* The same, to compare 64-bit values with: a cast would cost two instructions. */
#define CONSTANT_WIDE(member) MARKED(XDPFW_MARK_WORD, member)

/* A member of 64 bits. */
#define CONSTANT_64(member) MARKED(XDPFW_MARK_DOUBLE, member)

#endif
