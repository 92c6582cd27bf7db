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
from nova.compute import power_state, task_states, vm_states
from nova.virt import driver as virt_driver
from nova.virt.libvirt import driver as libvirt_driver
from oslo_log import log as logging

from lxc_userns import privileged
from lxc_userns.config import novas_disks
from lxc_userns.config.options import register_opts
from lxc_userns.config.settings import Settings
from lxc_userns.exceptions import ConfigError
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.linux import cgroups
from lxc_userns.nova import (
    config_drive,
    disks,
    ephemeral,
    errors,
    extra_specs,
    interfaces,
    moves,
    quiesce,
    resources,
)
from lxc_userns.nova.quality import without_warning_of_maps
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.strategy import Strategy

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


class LibvirtLXCDriver(
    quiesce.Snapshots,
    libvirt_driver.LibvirtDriver,  # type: ignore[misc]
):
    """Runs each instance in a user namespace."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What is attached is not called as before; detach does not find it.
        self.capabilities["supports_attach_interface"] = False
        #: Between the set-up of an instance's root filesystem and its start.
        self._prepared: dict[str, PreparedInstance] = {}
        self.vif_driver = interfaces.VIFDriver(self._host)

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
        # The helper has other files, maybe without these.
        found = novas_disks.evaluate(
            CONF.libvirt.images_type, CONF.use_cow_images
        )
        problems += [x for x in map(str, found) if x not in problems]
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
        with without_warning_of_maps():
            super().init_host(host)
        quiesce.recover(self._host)

    def update_provider_tree(
        self, provider_tree: Any, nodename: str, allocations: Any = None
    ) -> None:
        """Tell placement what there is, ranges of host IDs among it."""
        is_known = resources.RANGES in provider_tree.data(nodename).inventory
        super().update_provider_tree(provider_tree, nodename, allocations)
        inventory = dict(provider_tree.data(nodename).inventory)
        resources.add_ranges(CONF, inventory, is_known=is_known)
        provider_tree.update_inventory(nodename, inventory)

    def _get_guest_idmaps(self) -> list[Any]:
        # Those of the instance are put in when it is known which one it is.
        return []

    def _get_guest_config(
        self, instance: Any, *args: Any, **kwargs: Any
    ) -> Any:
        guest = super()._get_guest_config(instance, *args, **kwargs)
        # The root filesystem is put in with all else that it is promised.
        guest.devices = [
            device
            for device in guest.devices
            if device.root_name not in ("filesystem", "disk")
        ]
        resources.limit_cpus(guest, instance.flavor)
        return guest

    def spawn(
        self, context: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Create an instance, unless it is to have disks it cannot have.

        :raises nova.exception.BuildAbortException: then, with nothing done.
        """
        # Those of before go on as they are.
        if instance.vm_state == vm_states.BUILDING:
            info = kwargs.get("block_device_info")
            with errors.as_novas(instance):
                disks.check(instance.flavor, info)
        super().spawn(context, instance, *args, **kwargs)

    def _create_guest_with_network(
        self,
        context: Any,
        xml: str,
        instance: Any,
        *args: Any,
        post_xml_callback: Any = None,
        **kwargs: Any,
    ) -> Any:
        # Nova does this when the domain is defined, and views are mounted
        # before.
        if post_xml_callback is not None:
            post_xml_callback()
        guest = super()._create_guest_with_network(
            context, xml, instance, *args, **kwargs
        )
        if post_xml_callback is not None:
            # It takes this from the domain.
            found = self._build_device_metadata(context, instance)
            instance.device_metadata = found
        # Nova would wait for one that has ended, for ever.
        is_running = self.get_info(instance).state != power_state.SHUTDOWN
        if kwargs.get("power_on", True) and not is_running:
            raise nova_exception.NovaException(
                f"{instance.name}: its first process has ended at once; its "
                "console log may have the reason"
            )
        return guest

    def _create_configdrive(
        self,
        _context: Any,
        instance: Any,
        injection_info: Any,
        **_kwargs: Any,
    ) -> None:
        config_drive.write(instance, injection_info)

    _create_ephemeral = staticmethod(ephemeral.create)

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
            path = disks.path_of(self, instance)
        with errors.as_novas(instance):
            request = InstanceRequest(
                instance.name,
                instance.uuid,
                path,
                # Whatever a tenant has made of it.
                rootfs_kind="image",
                # Nova makes the file larger, and of what is in it ext2 to
                # ext4 without a partition alone.
                grow=True,
                volumes=(
                    *config_drive.volumes(instance),
                    *ephemeral.volumes(instance),
                ),
                **extra_specs.to_request(instance.flavor.extra_specs),
            )
            # Disks are replaced at a resize and a rebuild.
            prepared = privileged.prepare(request, accept_replaced=True)
        config_drive.close(instance, prepared.id_maps)
        self._prepared[instance.uuid] = prepared

    def _create_domain_cleanup_lxc(self, instance: Any) -> None:
        try:
            state = self.get_info(instance).state
        except nova_exception.InstanceNotFound:
            state = None
        # While it runs libvirt needs the view, to start it again when it
        # reboots itself.
        if state not in (power_state.RUNNING, power_state.PAUSED):
            self._unmount(instance)

    def _teardown_container(self, instance: Any) -> None:
        # What Nova's own driver has left of an instance that it started. The
        # device may be somebody else's by now.
        device = instance.system_metadata.get("rootfs_device_name")
        if device:
            if disks.backs_loop_device(device, disks.path_of(self, instance)):
                super()._teardown_container(instance)
            del instance.system_metadata["rootfs_device_name"]
        self._unmount(instance)

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
        prepared = self._prepared.pop(instance.uuid)
        LOG.debug("mode %s", prepared.mode, instance=instance)
        with errors.as_novas(instance):
            xml = prepared.apply_to(xml)
        guest = super()._create_guest(
            context, xml, instance, power_on, pause, *args, **kwargs
        )
        if power_on or pause:
            with errors.as_novas(instance):
                privileged.verify(prepared, started=True)
        return guest

    def cleanup(
        self, context: Any, instance: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Remove what an instance has here, and its lease if it goes away."""
        super().cleanup(context, instance, *args, **kwargs)
        # Files that other hosts share are left to them.
        if moves.is_leaving(context, instance):
            self._release(instance)

    def delete_instance_files(self, instance: Any) -> bool:
        """Delete an instance's files, and with them its lease."""
        self._release(instance)
        return bool(super().delete_instance_files(instance))

    def confirm_migration(
        self, context: Any, migration: Any, instance: Any, network_info: Any
    ) -> None:
        """Delete what an instance has left, and its lease if it has gone."""
        super().confirm_migration(context, migration, instance, network_info)
        if moves.has_left(instance):
            self._release(instance)

    def _get_instance_disk_info_from_config(
        self, guest_config: Any, block_device_info: Any
    ) -> Any:
        if disks.is_on_view(guest_config):
            return disks.describe(guest_config, block_device_info)
        return super()._get_instance_disk_info_from_config(
            guest_config, block_device_info
        )

    def migrate_disk_and_power_off(
        self,
        context: Any,
        instance: Any,
        dest: str,
        flavor: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Move an instance, or give it another flavor, with the same IDs.

        :raises nova.exception.InstanceFaultRollback: if the flavor asks for
            others, or other disks besides the root's; the instance runs on.
        """
        with errors.as_refusals():
            extra_specs.check_same(
                instance.flavor.extra_specs, flavor.extra_specs
            )
            disks.check_same(instance.flavor, flavor)
        return super().migrate_disk_and_power_off(
            context, instance, dest, flavor, *args, **kwargs
        )

    def power_off(self, instance: Any, *args: Any, **kwargs: Any) -> None:
        """Stop an instance, unless Nova does so to rescue it.

        :raises nova.exception.NovaException: then; it runs on.
        """
        if instance.task_state == task_states.RESCUING:
            raise nova_exception.NovaException(
                "a container has no rescue disk, and runs on as it was; boot "
                "another instance from a snapshot of it"
            )
        super().power_off(instance, *args, **kwargs)

    def suspend(self, context: Any, instance: Any) -> None:
        """Refuse to suspend an instance.

        :raises nova.exception.InstanceFaultRollback: always.
        """
        raise nova_exception.InstanceFaultRollback(
            nova_exception.NovaException(
                f"{instance.name}: libvirt suspends no containers; stop it "
                "instead"
            )
        )

    def get_device_name_for_instance(
        self, instance: Any, bdms: Any, block_device_obj: Any
    ) -> Any:
        """Name a disk of an instance, which has no volume but its root.

        :raises nova.exception.InvalidVolume: for any other.
        """
        if block_device_obj.is_volume and not block_device_obj.is_root:
            raise nova_exception.InvalidVolume(
                reason="a container has no volume but the one it boots from"
            )
        return super().get_device_name_for_instance(
            instance, bdms, block_device_obj
        )

    def detach_interface(
        self, _context: Any, instance: Any, _vif: Any
    ) -> None:
        """Refuse to take an interface from an instance.

        :raises nova.exception.NovaException: always.
        """
        raise nova_exception.NovaException(
            f"{instance.name}: libvirt does not tell interfaces of containers "
            "apart; create another instance without it"
        )

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

    def _unmount(self, instance: Any) -> None:
        with errors.as_novas(instance):
            privileged.unmount(instance.name)

    def _release(self, instance: Any) -> None:
        with errors.as_novas(instance):
            privileged.release(instance.name)
