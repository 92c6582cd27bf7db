# SPDX-License-Identifier: Apache-2.0

from lxc_userns.resources.control_groups import ControlGroups as ControlGroups
from lxc_userns.resources.enforcement import differences as differences
from lxc_userns.resources.enforcement import enforce as enforce
