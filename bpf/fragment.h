/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What became of first fragments, which later ones follow. */
#ifndef XDPFW_FRAGMENT_H
#define XDPFW_FRAGMENT_H

#include "clock.h"
#include "maps.h"
#include "packet.h"
#include "scratch.h"

/* A global function. Returns 0. */
__attribute__((noinline)) int remember_first(const struct packet *p, __u32 verdict, __u32 reason, __u32 key)
{
	asm volatile("" : : "r"(p));
	asm volatile("" : : "r"(verdict));
	asm volatile("" : : "r"(reason));
	asm volatile("" : : "r"(key));
	return 0;
}

/* What became of a later fragment's first one, into scratch->followed. A global function. Returns 1, or 0: not known. */
__attribute__((noinline)) int follow_first(const struct packet *p)
{
	asm volatile("" : : "r"(p));
	return 0;
}

#endif
