# SPDX-License-Identifier: Apache-2.0

from lxc_userns.resources.control_groups import ControlGroups as ControlGroups
from lxc_userns.resources.enforce import differences as differences
from lxc_userns.resources.enforce import enforce as enforce
