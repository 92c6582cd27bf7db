# SPDX-License-Identifier: Apache-2.0
"""The command line: what it says, and its exit codes."""
