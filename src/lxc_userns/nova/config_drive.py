# SPDX-License-Identifier: Apache-2.0
"""Config drives: what Nova tells an instance, as a directory in it.

Nova makes a disk of it, with a filesystem that is not everywhere in the kernel
and that cannot be idmapped. cloud-init looks into this directory as well.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from typing import Any, Final

from nova.api.metadata import base
from nova.virt import configdrive
from nova.virt.libvirt import utils as libvirt_utils
from oslo_log import log as logging

from lxc_userns.idmap import IdMaps
from lxc_userns.rootfs.shifting import acl
from lxc_userns.spec.volume import Volume

LOG = logging.getLogger(__name__)

#: Where it is in a container.
TARGET: Final = "/config-drive"
#: In the directory of an instance; for the service alone.
_NAME: Final = "config-drive"
#: In that, for the root of the container.
_TREE: Final = "tree"
#: The way to it is the service's alone.
_DIRECTORY_MODE: Final = 0o755
_FILE_MODE: Final = 0o644


def write(instance: Any, injection_info: Any) -> None:
    """Write the config drive of an instance that asks for one.

    One that is there stays as it is.

    :param injection_info: what it is told besides, as Nova's driver has it.
    """
    path = libvirt_utils.get_instance_path(instance)
    final = os.path.join(path, _NAME)
    if not configdrive.required_by(instance) or os.path.isdir(final):
        return
    password = injection_info.admin_pass
    metadata = base.InstanceMetadata(
        instance,
        content=injection_info.files,
        extra_md={"admin_pass": password} if password else {},
        network_info=injection_info.network_info,
    )
    made = tempfile.mkdtemp(prefix=f"{_NAME}.", dir=path)
    try:
        for name, data in metadata.metadata_for_config_drive():
            _add(made, os.path.join(_TREE, name), data)
        os.rename(made, final)
    except BaseException:
        shutil.rmtree(made)
        raise


def _add(directory: str, path: str, data: str | bytes) -> None:
    """Write a file, which all may read whatever the umask is."""
    *names, last = path.split("/")
    for name in names:
        directory = os.path.join(directory, name)
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, _DIRECTORY_MODE)
    with open(os.path.join(directory, last), "xb") as stream:
        stream.write(data.encode() if isinstance(data, str) else data)
        os.fchmod(stream.fileno(), _FILE_MODE)


def volumes(instance: Any) -> tuple[Volume, ...]:
    """Return the config drive of an instance, if it has one, as a volume.

    Its files are the service's, who is nobody in a container.
    """
    tree = _tree(instance)
    if not os.path.isdir(tree):
        return ()
    return (Volume(tree, TARGET, owners="none", readonly=True),)


def close(instance: Any, id_maps: IdMaps | None) -> None:
    """Let only the container's root into its config drive, if it has one.

    There are secrets in it, as the password of the administrator.

    :param id_maps: those of the container; None if it has none.
    """
    tree = _tree(instance)
    if not os.path.isdir(tree):
        return
    if id_maps is None:
        # Modes do not keep the host's root out.
        os.chmod(tree, 0o700)
        return
    # To the kernel that root is a user like others, for whom only an ACL
    # makes an exception: the service may not give it the directory.
    root, _ = id_maps.root
    try:
        os.setxattr(tree, acl.ACCESS, acl.closed_but_to(root))
    except OSError as err:
        if err.errno != errno.EOPNOTSUPP:
            raise
        os.chmod(tree, _DIRECTORY_MODE)
        LOG.warning(
            "%s: all in the container may read its config drive, for there "
            "are no POSIX ACLs in %s; mount a filesystem there that has them",
            instance.name,
            tree,
            instance=instance,
        )


def _tree(instance: Any) -> str:
    path = libvirt_utils.get_instance_path(instance)
    return os.path.join(path, _NAME, _TREE)
