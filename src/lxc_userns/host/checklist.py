# SPDX-License-Identifier: Apache-2.0
"""Everything that is looked at, in the order in which it is shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from oslo_config import cfg

from lxc_userns.config.settings import Settings
from lxc_userns.findings import Finding, Severity
from lxc_userns.host import (
    cgroups,
    filesystems,
    hook,
    ids,
    kernel,
    keyring,
    libvirtd,
    limits,
    networks,
    paths,
    programs,
    propagation,
    root,
    user_namespaces,
)
from lxc_userns.host.check import Probe
from lxc_userns.host.libvirtd import Connect
from lxc_userns.libvirtd import daemon

_PROC = "see that /proc is mounted, and this is Linux 4.9 or later"
_UTIL_LINUX = "install util-linux, which has unshare"
_LIBRARY = "install the library of libvirt (Debian package libvirt0)"
_KEYUTILS = (
    "install libkeyutils (Debian package libkeyutils1) and run this as root"
)
_SEE_LIBVIRT = "see the check of libvirt"


def check_host(conf: cfg.ConfigOpts, connect: Connect) -> list[Finding]:
    """Look at everything that containers in user namespaces need.

    :param conf: configuration with our options registered.
    :param connect: how to reach libvirt.
    """
    probes = list_probes(Settings.from_conf(conf), connect)
    return [*(probe.check() for probe in probes), *filesystems.check_all()]


def list_probes(settings: Settings, connect: Connect) -> Iterator[Probe]:
    """Yield what is looked at but filesystems, of which each is a finding.

    :param settings: values of our options.
    :param connect: how to reach libvirt.
    """
    yield from _of_kernel(settings)
    yield from _of_libvirt(settings, connect)
    yield from _of_ids(settings)
    yield Probe(
        "overlays",
        lambda: filesystems.check_overlays(
            Path(settings.state_path), settings.rootfs_strategy
        ),
    )


def _of_kernel(settings: Settings) -> Iterator[Probe]:
    yield Probe("root", root.check)
    yield Probe("kernel", lambda: kernel.check(settings.rootfs_strategy))
    yield Probe(
        "user namespaces",
        user_namespaces.check_making,
        Severity.ERROR,
        _UTIL_LINUX,
    )
    yield Probe(
        "number of user namespaces",
        user_namespaces.check_number,
        Severity.WARN,
        _PROC,
    )
    for switch in user_namespaces.SWITCHES:
        if os.path.exists(switch.path):
            yield Probe(switch.name, switch.check, Severity.WARN)
    yield Probe("shared limits", limits.check, Severity.WARN, _PROC)
    yield Probe("programs", programs.check)


def _of_libvirt(settings: Settings, connect: Connect) -> Iterator[Probe]:
    find_daemon = cache(daemon.find)
    yield Probe(
        "libvirt", lambda: libvirtd.check(connect), Severity.ERROR, _LIBRARY
    )
    yield Probe(
        "security driver",
        lambda: libvirtd.check_security(connect),
        Severity.WARN,
        _SEE_LIBVIRT,
    )
    yield Probe(
        "session keyring",
        lambda: keyring.check(find_daemon()),
        Severity.WARN,
        _KEYUTILS,
    )
    yield Probe(
        "cgroups",
        lambda: cgroups.check(
            find_daemon(), has_pool=bool(settings.subid_owner)
        ),
    )
    yield Probe(
        "state_path",
        lambda: paths.check_state_path(Path(settings.state_path)),
    )
    yield Probe(
        "run_path", lambda: paths.check_run_path(Path(settings.run_path))
    )
    yield Probe(
        "mounts in run_path",
        lambda: propagation.check(Path(settings.run_path), find_daemon()),
    )
    yield Probe("hook", lambda: hook.check(find_daemon()))
    yield Probe(
        "network driver",
        lambda: networks.check_driver(connect),
        Severity.WARN,
        _SEE_LIBVIRT,
    )
    yield Probe(
        "bridges",
        lambda: networks.check_bridges(connect, find_daemon()),
        Severity.WARN,
        _SEE_LIBVIRT,
    )


def _of_ids(settings: Settings) -> Iterator[Probe]:
    yield Probe("subordinate user IDs", ids.check_users)
    yield Probe("subordinate group IDs", ids.check_groups)
    yield Probe("range for new users", ids.check_login_defs, Severity.WARN)
    yield Probe(
        "pool",
        lambda: ids.check_pool(settings.subid_owner, settings.range_size),
    )
