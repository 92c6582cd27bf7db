# SPDX-License-Identifier: Apache-2.0
"""Control groups: whether libvirt can start containers in them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from lxc_userns.findings import Finding
from lxc_userns.host.check import failed, passed, warned
from lxc_userns.host.kernel import Version, parse_release
from lxc_userns.libvirtd.daemon import Daemon
from lxc_userns.linux import systemd
from lxc_userns.linux.mounts import Mount, read_mounts

_ROOT = "/sys/fs/cgroup"
_UNIFIED = f"{_ROOT}/unified"
_SYSTEMD = f"{_ROOT}/systemd"
#: Since then only the host's root may say what is run (CVE-2022-0492).
_MENDED = (5, 17)
_ONLY_VERSION_2 = "boot with systemd.unified_cgroup_hierarchy=1"

_VERSION_2 = (
    "version 2; the limits of a container are set in the group that systemd "
    "makes for it, which is root's and above the one that libvirt gives to "
    "the container"
)
_SHARED = (
    "version 2 without systemd-machined: above the group that libvirt gives "
    "to a container there is one for all, in which no limits of one can be "
    "set; a container runs only if its domain has a <partition> of its own, "
    "as container run gives it"
)


def check(daemon: Daemon | None, *, has_pool: bool = False) -> Finding:
    """Return whether libvirt can start containers under this layout.

    :param daemon: libvirt's, None if it is not found.
    :param has_pool: whether each container is to have ID maps of its own.
    """
    # It may run where not all is mounted that is mounted here.
    mounts = daemon.mounts if daemon else tuple(read_mounts())
    version = parse_release(os.uname().release)
    return evaluate(
        mounts,
        version,
        has_machined=systemd.has_machined(),
        has_pool=has_pool,
    )


def evaluate(
    mounts: Iterable[Mount],
    version: Version | None,
    *,
    has_machined: bool = True,
    has_pool: bool = False,
) -> Finding:
    """Return whether libvirt can start containers under a layout.

    :param mounts: all that libvirtd has mounted.
    :param version: of the kernel, None if it is not known.
    :param has_machined: whether systemd makes a group for each container.
    :param has_pool: whether each container is to have ID maps of its own.
    """
    types = {mount.point: mount.fs_type for mount in mounts}
    if types.get(_UNIFIED) == "cgroup2":
        # It tries to make that directory in the container, whose
        # /sys/fs/cgroup has no place for it.
        return failed(
            f"hybrid, with version 2 on {_UNIFIED}: libvirt cannot start "
            "containers",
            f"{_ONLY_VERSION_2} for version 2 alone, or run libvirtd where "
            f"{_UNIFIED} is not mounted",
        )
    if types.get(_ROOT) == "cgroup2":
        if has_machined:
            return passed(_VERSION_2)
        return warned(_SHARED, "install systemd-container")
    if _SYSTEMD in types:
        return _evaluate_systemd(version, has_machined, has_pool)
    if "cgroup" in types.values():
        return passed("version 1")
    return failed(
        f"no cgroup filesystem is mounted below {_ROOT}",
        f"mount one: mount -t cgroup2 cgroup2 {_ROOT}",
    )


def _evaluate_systemd(
    version: Version | None, has_machined: bool, has_pool: bool
) -> Finding:
    if has_machined:
        return passed("version 1, with a group for each container")
    message = (
        f"version 1 without systemd-machined: libvirt makes {_SYSTEMD} belong "
        "to the root of each container it starts"
    )
    if has_pool:
        message += (
            ", so that beside one with systemd no other can start, for each "
            "has ID maps of its own"
        )
    if version and version >= _MENDED:
        message += "; no limit depends on that hierarchy"
    else:
        message += (
            ", and before Linux 5.17 the host runs what is written to its "
            "release_agent (CVE-2022-0492), unless this distribution has "
            "mended it"
        )
    report = failed if has_pool else warned
    return report(
        message,
        "install systemd-container; or, if no container runs systemd, run "
        f"libvirtd where {_SYSTEMD} is not mounted; or {_ONLY_VERSION_2}",
    )
