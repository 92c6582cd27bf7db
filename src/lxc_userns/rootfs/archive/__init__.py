# SPDX-License-Identifier: Apache-2.0
"""Root filesystems out of tar archives, and the sandbox of tar."""
