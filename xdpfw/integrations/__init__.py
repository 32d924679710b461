# SPDX-License-Identifier: GPL-2.0-or-later
"""Other programs decide whom to ban: what brings their decisions into the firewall's sets."""
