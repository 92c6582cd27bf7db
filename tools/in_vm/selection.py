# SPDX-License-Identifier: Apache-2.0
"""Functional tests that ``tools/test-vm`` runs.

All of them would take hours. These have in them what a kernel, libvirt,
systemd and a security module have a part in: whole lives of containers in
both modes, each strategy, verification, policy, leases, limits, audit,
libvirt's hook, commands in containers, units.
"""

#: What each guest runs: modules, and tests of each; none: all of the module.
SELECTION: dict[str, dict[str, tuple[str, ...]]] = {
    "lives": {
        "test_demo": (),
        "test_modes": ("test_from_run_to_destroy",),
        "test_host_check": ("test_this_host",),
        "test_real_systems": (
            "test_debian_with_systemd_boots_whole[systemd]",
        ),
        "test_confinement": ("test_it_can_be_left_out",),
        "test_audit_live": ("test_container_run_has_no_serious_finding",),
        "test_lease_isolation": ("test_two_at_once",),
        "test_resource_limits": (
            "test_processes_stop_at_the_limit[overlay-300]",
            "test_memory_that_its_root_unlimits[at once]",
            "test_it_cannot_write_where_the_limits_are",
            "test_every_value_of_the_domain",
            "test_systemd_keeps_its_groups",
        ),
        "test_policy_commands": (
            "test_a_shared_namespace[net]",
            "test_capabilities",
            "test_devices",
        ),
        "test_strategies": (
            "test_idmapped_changes_nothing_on_disk",
            "test_after_a_reboot_of_the_host[chown]",
            "test_an_overlay_is_not_left_behind",
        ),
        "test_images_and_archives": ("test_an_image[ext4]",),
        "test_container_volumes": ("test_volumes",),
        "test_verification_of_containers": (
            "test_the_hosts_network",
            "test_what_its_root_changes_for_itself",
        ),
        "test_exit_events": (),
        "test_own_names": ("test_two_of_one_image",),
        "test_pack_command": ("test_an_instance_by_its_name[overlay]",),
        "test_traces": (
            "test_one_that_ends_later",
            "test_one_that_is_short_of_memory",
        ),
        "attach/test_exec": (
            "test_nothing_of_the_host_comes_in[private]",
            "test_it_is_as_the_first_process_is[private]",
        ),
        "attach/test_terminal": ("test_terminal[private]",),
        "attach/test_attacks": (
            "test_attack_on_the_joining_process[private]",
            "test_attack_by_what_is_executed[private]",
            "test_limits_hold",
        ),
    },
    "services": {
        "test_hook": (
            "test_start_and_destroy[overlay]",
            "test_edited_by_hand[<privnet/>--its XML lacks <privnet/>]",
            "test_without_its_security_label",
            "test_reboot_from_inside[idmapped]",
        ),
        "test_hook_leases": (
            "test_a_lease_from_convert_to_gc",
            "test_a_transient_domain",
        ),
        "test_hook_keeper": ("test_serves_later_calls",),
        "restart_units": ("test_one_that_fails",),
    },
}
#: The guest that is rebooted, and what runs there before and after it.
REBOOTED = "services"
BEFORE_REBOOT = "tests/functional/host_reboot.py::test_before"
AFTER_REBOOT = (
    "tests/functional/host_reboot.py::test_after",
    "tests/functional/host_reboot.py::test_a_container_that_differs",
    "tests/functional/host_reboot.py::test_purged",
)


def list_tests(guest: str) -> list[str]:
    """Return the tests selected for a guest as pytest names them."""
    return [
        f"tests/functional/{module}.py{test}"
        for module, tests in SELECTION[guest].items()
        for test in ([f"::{each}" for each in tests] or [""])
    ]
