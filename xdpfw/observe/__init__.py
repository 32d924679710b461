# SPDX-License-Identifier: GPL-2.0-or-later
"""What the firewall did, read from the maps; nothing here changes anything."""
