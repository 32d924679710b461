# SPDX-License-Identifier: GPL-2.0-or-later
"""An XDP firewall: a policy in YAML, enforced by one fixed program in the kernel."""
