# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of a shift, beside other tools that do the like."""
