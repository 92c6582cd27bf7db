# SPDX-License-Identifier: Apache-2.0
"""Views of root filesystems and volumes: mounts for containers."""
