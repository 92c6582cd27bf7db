# SPDX-License-Identifier: Apache-2.0
"""Everything that is looked at, in the order in which it is shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from oslo_config import cfg

from lxc_userns.config.check import option
from lxc_userns.host import (
    cgroups,
    filesystems,
    ids,
    kernel,
    keyring,
    libvirtd,
    limits,
    paths,
    programs,
    propagation,
    root,
    user_namespaces,
)
from lxc_userns.host.check import Check, Probe
from lxc_userns.host.libvirtd import Connect
from lxc_userns.libvirtd import daemon

_PROC = "see that /proc is mounted, and this is Linux 4.9 or later"
_UTIL_LINUX = "install util-linux, which has unshare"
_LIBRARY = "install the library of libvirt (Debian package libvirt0)"
_KEYUTILS = (
    "install libkeyutils (Debian package libkeyutils1) and run this as root"
)
_SEE_LIBVIRT = "see the check of libvirt"


def check_host(conf: cfg.ConfigOpts, connect: Connect) -> list[Check]:
    """Look at everything that containers in user namespaces need.

    :param conf: configuration with our options registered.
    :param connect: how to reach libvirt.
    """
    probes = (
        *_of_kernel(conf),
        *_of_libvirt(conf, connect),
        *_of_ids(conf),
        Probe(
            "overlays",
            lambda: filesystems.check_overlays(
                _path(conf, "state_path"), _strategy(conf)
            ),
        ),
    )
    return [*(probe.check() for probe in probes), *filesystems.check_all()]


def _of_kernel(conf: cfg.ConfigOpts) -> Iterator[Probe]:
    yield Probe("root", root.check)
    yield Probe("kernel", lambda: kernel.check(_strategy(conf)))
    yield Probe(
        "user namespaces", user_namespaces.check_making, "FAIL", _UTIL_LINUX
    )
    yield Probe(
        "number of user namespaces",
        user_namespaces.check_number,
        "WARN",
        _PROC,
    )
    for switch in user_namespaces.SWITCHES:
        if os.path.exists(switch.path):
            yield Probe(switch.name, switch.check, "WARN")
    yield Probe("shared limits", limits.check, "WARN", _PROC)
    yield Probe("programs", programs.check)


def _of_libvirt(conf: cfg.ConfigOpts, connect: Connect) -> Iterator[Probe]:
    find_daemon = cache(daemon.find)
    yield Probe("libvirt", lambda: libvirtd.check(connect), "FAIL", _LIBRARY)
    yield Probe(
        "security driver",
        lambda: libvirtd.check_security(connect),
        "WARN",
        _SEE_LIBVIRT,
    )
    yield Probe(
        "session keyring",
        lambda: keyring.check(find_daemon()),
        "WARN",
        _KEYUTILS,
    )
    yield Probe(
        "cgroups",
        lambda: cgroups.check(
            find_daemon(), has_pool=bool(option(conf, "subid_owner"))
        ),
    )
    yield Probe(
        "state_path",
        lambda: paths.check_state_path(_path(conf, "state_path")),
    )
    yield Probe(
        "run_path", lambda: paths.check_run_path(_path(conf, "run_path"))
    )
    yield Probe(
        "mounts in run_path",
        lambda: propagation.check(_path(conf, "run_path"), find_daemon()),
    )


def _of_ids(conf: cfg.ConfigOpts) -> Iterator[Probe]:
    yield Probe("subordinate user IDs", ids.check_users)
    yield Probe("subordinate group IDs", ids.check_groups)
    yield Probe("range for new users", ids.check_login_defs, "WARN")
    yield Probe(
        "pool",
        lambda: ids.check_pool(
            option(conf, "subid_owner"), option(conf, "range_size")
        ),
    )


def _path(conf: cfg.ConfigOpts, name: str) -> Path:
    return Path(option(conf, name))


def _strategy(conf: cfg.ConfigOpts) -> Any:
    return option(conf, "rootfs_strategy")
