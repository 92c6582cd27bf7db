# SPDX-License-Identifier: Apache-2.0
"""libvirt: its version, its LXC driver, what confines its containers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lxc_userns import domain
from lxc_userns.exceptions import LibvirtError
from lxc_userns.findings import Finding
from lxc_userns.host.check import describe, failed, passed, warned

if TYPE_CHECKING:
    from lxc_userns.libvirtd.client import Guests

#: How to reach libvirt. Its library is loaded then, and may be missing.
Connect = Callable[[], "Guests"]

#: The oldest version with which containers were tried.
_TRIED = (9, 0, 0)
_DRIVERS = (
    "usr/lib/*/libvirt/connection-driver",
    "usr/lib*/libvirt/connection-driver",
)
_DRIVER = "libvirt_driver_lxc.so"
_INSTALL = (
    "install libvirt-daemon-driver-lxc (the package is so named in Debian "
    "and in Fedora) and restart libvirtd"
)
_CONFIGURATION = "/etc/libvirt/lxc.conf"
_LSMS = Path("/sys/kernel/security/lsm")
_DRIVERS_BY_LSM = ("selinux", "apparmor")
#: Where AppArmor's rules for a container come from: libvirt's own, and those
#: that it includes.
_RULES = Path("/etc/apparmor.d")
_OWN_RULES = "abstractions/libvirt-lxc"
_MORE_RULES = (
    "abstractions/libvirt-lxc.d/*",
    "local/abstractions/libvirt-lxc",
    "libvirt/TEMPLATE.lxc",
)


def check(connect: Connect, root: Path = Path("/")) -> Finding:
    """Return whether libvirt answers at ``lxc:///``.

    :param root: where the host's files are.
    """
    try:
        return evaluate_version(connect().version())
    except LibvirtError as err:
        return evaluate_silence(describe(err), any(_find_drivers(root)))


def evaluate_version(version: str) -> Finding:
    """Return whether a version of libvirt is one that was tried, or later.

    :param version: as ``9.0.0``.
    """
    message = f"libvirt {version} with its LXC driver"
    if tuple(map(int, version.split("."))) < _TRIED:
        tried = ".".join(map(str, _TRIED))
        return warned(
            f"{message}; nothing before {tried} was tried",
            f"upgrade to {tried} or later, or try a container before you "
            "rely on it",
        )
    return passed(message)


def evaluate_silence(error: str, has_driver: bool) -> Finding:
    """Return the result for a libvirt that does not answer.

    :param error: what was said instead.
    :param has_driver: whether its LXC driver is installed.
    """
    if not has_driver or "no connection driver" in error:
        return failed(error, _INSTALL)
    return failed(
        error,
        "start libvirtd or virtlxcd, as by systemctl start libvirtd, and run "
        "this as root",
    )


def check_security(connect: Connect) -> Finding:
    """Return whether a security driver confines containers."""
    models = domain.parse_models(connect().capabilities())
    if "apparmor" in models and refuses_mounts(_RULES):
        return warned(
            "apparmor, for containers whose XML has a <seclabel>; it keeps "
            "systemd from booting in them",
            "install etc/apparmor.d/libvirt-lxc as /etc/apparmor.d/"
            "abstractions/libvirt-lxc.d/lxc-userns, unless no container has "
            "systemd",
        )
    return evaluate_security(models, _read_lsms())


def refuses_mounts(rules: Path) -> bool:
    """Tell whether AppArmor refuses containers what systemd mounts.

    :param rules: ``/etc/apparmor.d``.
    :returns: False also if it cannot be told.
    """
    if not (rules / _OWN_RULES).exists():
        return False
    files = (each for name in _MORE_RULES for each in rules.glob(name))
    return not any(
        line.strip() == "mount,"
        for file in (rules / _OWN_RULES, *files)
        for line in _read_lines(file)
    )


def evaluate_security(
    models: Collection[str], lsms: Collection[str]
) -> Finding:
    """Return whether a security driver confines containers.

    :param models: the security models that libvirt uses.
    :param lsms: security modules that the kernel has active.
    """
    if models:
        # Seen with AppArmor: without the element the process is unconfined.
        return passed(
            f"{', '.join(models)}, for containers whose XML has a <seclabel>"
        )
    message = (
        "none confines containers; their user namespaces do not depend on one"
    )
    for name in _DRIVERS_BY_LSM:
        if name in lsms:
            return warned(
                message,
                f'set security_driver = "{name}" in {_CONFIGURATION} and '
                "restart libvirtd",
            )
    return warned(
        message,
        "boot with AppArmor or SELinux and restart libvirtd, which takes it "
        f"unless security_driver in {_CONFIGURATION} is another",
    )


def _find_drivers(root: Path) -> Iterator[Path]:
    for pattern in _DRIVERS:
        yield from root.glob(f"{pattern}/{_DRIVER}")


def _read_lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _read_lsms() -> list[str]:
    try:
        return _LSMS.read_text(encoding="ascii").strip().split(",")
    except OSError:
        return []  # It only makes the advice better.
