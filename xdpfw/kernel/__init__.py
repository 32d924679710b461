# SPDX-License-Identifier: GPL-2.0-or-later
"""The boundary to the kernel: all that opens file descriptors of BPF objects, and nothing that knows a policy."""
