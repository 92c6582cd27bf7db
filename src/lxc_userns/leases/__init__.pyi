# SPDX-License-Identifier: Apache-2.0

from lxc_userns.leases.database import LeaseStore as LeaseStore
from lxc_userns.leases.lease import Lease as Lease
from lxc_userns.leases.lease import ShiftedTree as ShiftedTree
from lxc_userns.leases.transaction import LeaseTransaction as LeaseTransaction
