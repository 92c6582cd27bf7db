# SPDX-License-Identifier: Apache-2.0
"""Settings for all tests."""

import hypothesis

# A deadline would make the result depend on how busy the machine is.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")
