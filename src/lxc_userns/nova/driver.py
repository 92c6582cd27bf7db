# SPDX-License-Identifier: Apache-2.0
"""Nova's libvirt driver with user namespaces for its LXC containers.

Everything that has to do with ID maps is done by
:mod:`lxc_userns.privileged`; here is only when. Nova's own set-up of a
container's root filesystem, which mounts the image, shifts it and unmounts it
once the container runs, is not called.
"""

from __future__ import annotations

from typing import Any

import nova.conf
from nova import block_device
from nova import exception as nova_exception
from nova.compute import power_state
from nova.virt import driver as virt_driver
from nova.virt.image import model as imgmodel
from nova.virt.libvirt import driver as libvirt_driver
from nova.virt.libvirt import utils as libvirt_utils
from oslo_log import log as logging

from lxc_userns import privileged
from lxc_userns.config.options import register_opts
from lxc_userns.config.settings import Settings
from lxc_userns.exceptions import ConfigError, ImageError, InstanceError
from lxc_userns.linux import cgroups
from lxc_userns.nova import disks, extra_specs, guest_config, moves
from lxc_userns.spec.strategy import Strategy

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


class LibvirtLXCDriver(libvirt_driver.LibvirtDriver):  # type: ignore[misc]
    """Runs each instance in a user namespace."""

    def init_host(self, host: str) -> None:
        """Refuse to start with a configuration that starts no instance.

        :raises ConfigError: with every problem.
        """
        register_opts(CONF)
        if CONF.libvirt.virt_type != "lxc":
            raise ConfigError(
                "[libvirt] virt_type",
                CONF.libvirt.virt_type,
                "this driver is for lxc",
            )
        # This compares the helper's configuration with ours, too.
        problems = [*privileged.find_problems()]
        missing = Settings.from_conf(CONF).missing
        # "required" is the default, which find_problems() alone lets pass.
        if missing and not problems and missing.value != "preferred":
            problems.append(
                f"{missing}, or userns_policy = preferred to run instances "
                "in the host's user namespace"
            )
        strategy = Strategy(CONF.lxc_userns.rootfs_strategy)
        if strategy.traits.private_upper:
            problems.append(
                f"[lxc_userns] rootfs_strategy = {strategy}: what an instance "
                "changes would not be on its disk, nor in a snapshot of it"
            )
        if problems:
            raise ConfigError("nova.conf", "", "; ".join(problems))
        disks.patch_find_disk()
        super().init_host(host)

    def _get_guest_idmaps(self) -> list[Any]:
        # Those of the instance are added when it is known which one it is.
        return []

    def _get_guest_config(
        self, instance: Any, *args: Any, **kwargs: Any
    ) -> Any:
        guest = super()._get_guest_config(instance, *args, **kwargs)
        reserved = privileged.reserve(self._request(instance))
        guest_config.apply(guest, reserved)
        return guest

    def _create_domain_setup_lxc(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        block_device_info: Any,
    ) -> None:
        root = block_device.get_root_bdm(
            virt_driver.block_device_info_get_mapping(block_device_info)
        )
        if root:
            connection = root["connection_info"]
            self._connect_volume(context, connection, instance)
            path = connection["data"]["device_path"]
        else:
            path = self._disk_path(instance)
        request = {**self._request(instance), "rootfs": path}
        try:
            prepared = privileged.prepare(request)
        except ImageError as err:
            # No other host could do better.
            raise nova_exception.ImageUnacceptable(
                image_id=instance.image_ref, reason=err.reason
            ) from err
        LOG.debug("mode %s", prepared["mode"], instance=instance)

    def _create_domain_cleanup_lxc(self, instance: Any) -> None:
        try:
            state = self.get_info(instance).state
        except nova_exception.InstanceNotFound:
            state = None
        # While it runs libvirt needs the view, to start it again when it
        # reboots itself.
        if state not in (power_state.RUNNING, power_state.PAUSED):
            privileged.detach(instance.name)

    def _teardown_container(self, instance: Any) -> None:
        # What Nova's own driver has left of an instance that it started. The
        # device may be somebody else's by now.
        device = instance.system_metadata.get("rootfs_device_name")
        if device:
            if disks.backs_loop_device(device, self._disk_path(instance)):
                super()._teardown_container(instance)
            del instance.system_metadata["rootfs_device_name"]
        privileged.detach(instance.name)

    def _create_guest(
        self,
        context: Any,
        xml: str,
        instance: Any,
        power_on: bool = True,
        pause: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        guest = super()._create_guest(
            context, xml, instance, power_on, pause, *args, **kwargs
        )
        if power_on or pause:
            privileged.verify(instance.name, started=True)
        return guest

    def cleanup(
        self, context: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Remove what an instance has here, and its lease if it goes away."""
        super().cleanup(context, instance, *args, **kwargs)
        # Files that other hosts share are left to them.
        if moves.is_leaving(context, instance):
            privileged.release(instance.name)

    def delete_instance_files(self, instance: Any) -> bool:
        """Delete an instance's files, and with them its lease."""
        privileged.release(instance.name)
        return bool(super().delete_instance_files(instance))

    def confirm_migration(
        self, context: Any, migration: Any, instance: Any, network_info: Any
    ) -> None:
        """Delete what an instance has left, and its lease if it has gone."""
        super().confirm_migration(context, migration, instance, network_info)
        if moves.has_left(instance):
            privileged.release(instance.name)

    def _get_instance_disk_info_from_config(
        self, guest_config: Any, block_device_info: Any
    ) -> Any:
        found = super()._get_instance_disk_info_from_config(
            guest_config, block_device_info
        )
        return found + disks.describe_root(guest_config, block_device_info)

    def snapshot(self, context: Any, instance: Any, *args: Any) -> None:
        """Write out what the kernel still has of its root filesystem first."""
        privileged.sync(instance.name)
        super().snapshot(context, instance, *args)

    def pause(self, instance: Any) -> None:
        """Pause an instance, where libvirt can.

        :raises nova.exception.NovaException: if it cannot on this host.
        """
        if not cgroups.can_freeze():
            raise nova_exception.NovaException(
                f"{instance.name}: cannot be paused: libvirt pauses "
                "containers by the freezer of version 1 of control groups, "
                "which this host does not have; stop it instead"
            )
        super().pause(instance)

    def _disk_path(self, instance: Any) -> str:
        model = self.image_backend.by_name(instance, "disk").get_model(
            self._conn
        )
        if isinstance(model, imgmodel.LocalFileImage):
            if model.format != imgmodel.FORMAT_RAW:
                raise InstanceError(
                    instance.name,
                    f"its disk is of format {model.format}, and the kernel "
                    "mounts raw ones; set [libvirt] images_type = raw and "
                    "[DEFAULT] use_cow_images = False",
                )
            return str(model.path)
        if isinstance(model, imgmodel.LocalBlockImage):
            return str(model.path)
        raise InstanceError(
            instance.name, "its disk is neither a file nor a block device"
        )

    def _request(self, instance: Any) -> dict[str, Any]:
        return {
            "name": instance.name,
            "uuid": instance.uuid,
            "rootfs": libvirt_utils.get_instance_path(instance),
            # Whatever a tenant has made of it.
            "rootfs_kind": "image",
            **extra_specs.to_request(instance.flavor.extra_specs),
        }
