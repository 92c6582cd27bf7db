# SPDX-License-Identifier: Apache-2.0
"""Directories of the host below which a service may name files.

The service is trusted with names of instances, and not with paths: root works
on what they lead to.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from oslo_config import cfg

from lxc_userns.config.groups import PRIVILEGED_GROUP, option_name
from lxc_userns.config.shared_opts import SharedStrOpt
from lxc_userns.exceptions import ConfigError, RootfsError
from lxc_userns.linux import safe_path

GROUP: Final = PRIVILEGED_GROUP
NAME: Final = option_name(GROUP, "roots")
OPTS: Final = (
    cfg.ListOpt(
        "roots",
        default=[],
        help="""
Directories below which the privileged helper takes root filesystems, volumes
and devices from the service, as absolute paths. Anything elsewhere is refused.

For example /var/lib/compute/instances,/dev/disk/by-path, for instances that
boot from volumes of iSCSI as well. Empty: the directory that Nova's options
instances_path and state_path give, and no device. The helper reads this in
its own configuration files; the service need not know it. No symbolic link is
followed, neither on the way to a directory nor below it, but for those in /dev
that are root's and lead to a block device there.
""",
    ),
)


#: Of the service itself, as Nova has them: where its instances are.
_SERVICE_OPTS: Final = (
    SharedStrOpt("instances_path", default=""),
    SharedStrOpt("state_path", default=""),
)


def read_roots(conf: cfg.ConfigOpts) -> tuple[str, ...]:
    """Return the directories that a configuration gives.

    :param conf: configuration with our options registered.
    :raises ConfigError: if there are none.
    """
    given: list[str] = conf[GROUP].roots
    if given:
        return tuple(map(os.path.normpath, given))
    conf.register_opts(_SERVICE_OPTS)
    try:
        path = conf.instances_path
        if not path and conf.state_path:
            path = f"{conf.state_path}/instances"
    except cfg.Error as err:
        raise ConfigError(NAME, "", f"is empty, and {err}; set it") from err
    if not os.path.isabs(path):
        raise ConfigError(
            NAME,
            "",
            "is empty, and the helper's configuration files have neither "
            "instances_path nor state_path; set it",
        )
    return (os.path.normpath(path),)


def check_below(path: str, roots: Sequence[str]) -> None:
    """Check that a path is below one of some directories.

    This is about the text alone. :mod:`lxc_userns.linux.safe_path` opens it,
    and follows no link but those of root's in ``/dev`` to a block device.

    :param path: the path as the service has it.
    :param roots: the directories, absolute paths.
    :raises RootfsError: if it is anywhere else.
    """
    if path.startswith("/") and not {"", ".", ".."} & {*path.split("/")[1:]}:
        for root in roots:
            if path.startswith(f"{root}/"):
                return
    raise RootfsError(
        path,
        f"is not below {' or '.join(roots)}; put it there, or add its "
        f"directory to {NAME}",
    )


def check_root(root: str) -> None:
    """Check that a directory can be one of these, if it is there already.

    :raises ConfigError: if a link is on the way, or others than its own owner
        could replace it.
    """
    try:
        with safe_path.opened(root, safe_path.Trust((root,))):
            return
    except PermissionError as err:
        raise ConfigError(NAME, root, str(err)) from err
    except FileNotFoundError:
        return
