# SPDX-License-Identifier: Apache-2.0
"""libvirt's daemon: domains as it knows them, and its process."""
