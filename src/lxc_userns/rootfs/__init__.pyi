# SPDX-License-Identifier: Apache-2.0

from lxc_userns.rootfs.archive.pack import PackReport as PackReport
from lxc_userns.rootfs.archive.pack import pack as pack
from lxc_userns.rootfs.archive.unpack import UnpackReport as UnpackReport
from lxc_userns.rootfs.archive.unpack import unpack as unpack
from lxc_userns.rootfs.archive.unpack import unpack_oci as unpack_oci
from lxc_userns.rootfs.shifting.report import Finding as Finding
from lxc_userns.rootfs.shifting.report import ShiftReport as ShiftReport
from lxc_userns.rootfs.shifting.report import VerifyReport as VerifyReport
from lxc_userns.rootfs.shifting.shift import read_state as read_state
from lxc_userns.rootfs.shifting.shift import shift as shift
from lxc_userns.rootfs.shifting.shift import unshift as unshift
from lxc_userns.rootfs.shifting.shift import verify as verify
from lxc_userns.rootfs.views.standalone import mount_idmapped as mount_idmapped
from lxc_userns.rootfs.views.standalone import mount_overlay as mount_overlay
from lxc_userns.rootfs.views.standalone import unmount as unmount
