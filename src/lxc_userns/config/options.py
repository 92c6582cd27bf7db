# SPDX-License-Identifier: Apache-2.0
"""Options of this package.

Nothing is registered by importing this module; a service calls
:func:`register_opts` on its own configuration object.
"""

from __future__ import annotations

import copy

from oslo_config import cfg

from lxc_userns import lazy
from lxc_userns.arguments import checked
from lxc_userns.config import allowed_paths
from lxc_userns.config.groups import GROUP, LIBVIRT_GROUP, option_name
from lxc_userns.config.option_types import Integer, Size
from lxc_userns.config.shared_opts import SharedListOpt
from lxc_userns.idmap import MAX_ENTRIES
from lxc_userns.rootfs.archive.limits import LEAST_MEMORY
from lxc_userns.spec.requirements import DEFAULT_PROCESSES, MOST_PROCESSES
from lxc_userns.spec.strategy import CHOICES, Strategy

__all__ = [
    "GROUP",
    "LIBVIRT_GROUP",
    "LIBVIRT_OPTS",
    "OPTS",
    "list_opts",
    "option_name",
    "register_opts",
]


def _map_help(kind: str, ids: str) -> str:
    return f"""
ID map for {kind} IDs of the containers.

A comma-separated list of at most {MAX_ENTRIES} entries guest:host:count, each
three decimal integers: {ids} IDs guest..guest+count-1 inside the container
are host..host+count-1 on the host. Guest ID 0 has to be mapped, host ID 0
never is, and entries do not overlap. For example 0:2013265920:65536 gives
the container 65536 IDs and makes its root the host's {kind} 2013265920.

uid_maps and gid_maps are set together or not at all. While both are empty,
user namespaces are off, and the root of a container is the root of the host.
A value that breaks a rule stops every start of a container; it is never
shortened or ignored. All instances share these maps: for a range of its own
for each instance, set [lxc_userns] subid_owner instead.
"""


LIBVIRT_OPTS = (
    SharedListOpt("uid_maps", default=[], help=_map_help("user", "user")),
    SharedListOpt("gid_maps", default=[], help=_map_help("group", "group")),
)

OPTS = (
    cfg.StrOpt(
        "subid_owner",
        default="",
        help="""
User, by name or number, whose ranges in /etc/subuid and /etc/subgid are the
pool from which each instance leases a range of its own.

For example "lxc-userns", with the line "lxc-userns:2013265920:131072000" in
both files. There need be no such user. If /etc/nsswitch.conf names another
source for "subid", getsubids(1) asks that one. Empty: no pool, and the maps of
[libvirt] uid_maps and gid_maps serve all instances. Setting both is an error.
""",
    ),
    cfg.Opt(
        "range_size",
        Integer(min=1, max=2**32 - 2),
        default=65536,
        help="""
Number of user IDs, and of group IDs, that an instance leases from the pool.

Fewer than 65536 leaves nobody (65534) without a host ID; more are needed only
for user namespaces nested in the container. For example 131072. At least 6,
for group 5 (tty) has to be mapped. The leases that are there keep their size.
""",
    ),
    cfg.StrOpt(
        "rootfs_strategy",
        default=Strategy.AUTO.value,
        choices=[(each.value, each.traits.summary) for each in CHOICES],
        help="""
How the files of a root filesystem come to belong to the mapped IDs.

For example "overlay", to start many instances from one image that none of
them changes. What each changes is kept below state_path.

"idmapped" and "overlay" change nothing in the root filesystem. They need a
kernel and a filesystem that can, and a parent directory of mode 0700, that
only root can enter; if anything is missing, the start is stopped. Only
"auto" falls back, to "chown", and says why; it is "chown" too for what is
shifted on disk already. An instance stays with what "auto" gave it first.
The request for an instance may name a strategy of its own.
""",
    ),
    cfg.StrOpt(
        "unmapped_ids",
        default="keep",
        choices=[
            ("keep", "Leave the owner; the container sees nobody."),
            ("nobody", "With chown, make it that of guest ID 65534."),
            ("error", "Change nothing, list the owners and stop."),
        ],
        help="""
What becomes of files whose owner no ID map entry covers.

For example "error" for images that have to be mapped whole: every root
filesystem is walked once, before its first start. With the strategies
idmapped and overlay nothing changes on disk, and the container sees nobody
by "nobody" as by "keep". With chown, "nobody" loses the owner: a later
unshift cannot bring it back.
""",
    ),
    cfg.StrOpt(
        "held_ids",
        default="refuse",
        choices=[
            ("refuse", "No container starts with them."),
            ("allow", "Containers start; config check warns."),
        ],
        help="""
Whether ID maps may have host IDs that a user, a group or the subordinate
ranges of another owner hold. It counts for [libvirt] uid_maps and gid_maps
and for the maps of a request; leases never have such IDs.

For example "allow", where /etc/subuid gives these ranges to root for this very
purpose, as LXC and Incus do. A user who has an ID of a container may kill its
processes and read its files, and the container those of the user. Better have
the line of /etc/subuid name lxc-userns as the owner: that is no other.
""",
    ),
    cfg.StrOpt(
        "userns_policy",
        default="required",
        choices=[
            ("required", "Every instance has its own user namespace."),
            ("preferred", "A request may fall back to the host's."),
        ],
        help="""
Whether an instance may run in the user namespace of the host.

For example "preferred", if instances may ask for things that the kernel
gives only in the host's user namespace. There, root is the host's root.
""",
    ),
    cfg.StrOpt(
        "state_path",
        default="/var/lib/lxc-userns",
        help="""
Directory for what has to outlive a reboot of the host, as an absolute path:
a record of each instance, what it has changed on an overlay, and what was
unpacked for it from an archive. For example /srv/lxc-userns. It is made
with mode 0700 and has to belong to root.

For overlays its filesystem has to be one that can hold an upper layer, such
as ext4, xfs or btrfs; not NFS.
""",
    ),
    cfg.StrOpt(
        "run_path",
        default="/run/lxc-userns",
        help="""
Directory for the mounts that containers use as filesystems, as an absolute
path. For example /run/compute-lxc-userns. It is made with mode 0711: users
of containers pass through it, and no one lists it. It is neither in
state_path nor above it.
""",
    ),
    cfg.Opt(
        "shift_workers",
        Integer(min=0, max=256),
        default=0,
        help="""
Most worker processes that shift one root filesystem on disk. 0: one for each
CPU. For example 1, to leave the other CPUs to running instances; a large root
filesystem then takes longer.
""",
    ),
    cfg.Opt(
        "unpack_max_bytes",
        Size(1),
        default="64 GiB",
        help="""
Most bytes that one archive may unpack to: as a stream, and on disk. Units
are K, M, G and so on for powers of 1000, and Ki, Mi, Gi for powers of 1024.
For example "8 GiB", if the archives come from users.

Whatever it is, a twentieth of the filesystem stays free, or 1 GiB of it, and
as many of its inodes, or 10000.
""",
    ),
    cfg.Opt(
        "unpack_max_inodes",
        Integer(min=1, max=2**32),
        default=4_000_000,
        help="""
Most files that one archive may unpack to. Each name of a hard link counts,
and each directory that is made because a name in the archive has it. For
example 1000000.
""",
    ),
    cfg.Opt(
        "unpack_max_memory",
        Size(LEAST_MEMORY),
        default="1 GiB",
        help="""
Most address space, in bytes, that tar may have while an archive is unpacked,
and as much again for the program that decompresses it. Units are as for
unpack_max_bytes. For example "256 MiB"; at least 64 MiB. What xz or zstd
make with their default settings needs less than 200 MiB.
""",
    ),
    cfg.Opt(
        "max_processes",
        Integer(min=0, max=MOST_PROCESSES),
        default=DEFAULT_PROCESSES,
        help="""
How many processes and threads one container may have. 0: no limit but those
of the host, which one container can use up for all.

For example 16384, for services of many threads. Host and containers together
have as many as sysctl kernel.pid_max says. The limit is that of a control
group of the host's root (pids.max); the instances that are there keep theirs.
""",
    ),
    cfg.StrOpt(
        "seclabel",
        default="auto",
        choices=[
            (
                "auto",
                "by that of AppArmor and SELinux which libvirtd uses, if it "
                "uses one; it is verified from the kernel's side",
            ),
            ("none", "they are left to the configuration of libvirtd"),
        ],
        help="""
How the containers of "container run" are confined by a security module of
the kernel, beside their user namespace.

Each gets a label of its own, which libvirt makes (<seclabel type='dynamic'>).
Without that element libvirt confines containers only if
security_default_confined in lxc.conf says so. The containers that are there
keep theirs. For example none, where a profile of the host is too tight.
""",
    ),
    cfg.Opt(
        "hook_timeout",
        Integer(min=1, max=600),
        default=10,
        help="""
Seconds that a call of libvirt's hook waits for a lock.

libvirtd answers no one while it waits for a hook. If others hold the lock of
an instance for longer, as to shift its files, the start is refused. For
example 2, where a start is tried again soon.
""",
    ),
    cfg.Opt(
        "hook_linger",
        Integer(min=0, max=86400),
        default=300,
        help="""
Seconds that a process of libvirt's hook stays for further calls.

To load what a call needs takes longer than the call does, and libvirtd waits
for it. So the first call leaves a process of root's behind, of some 40 MiB,
that serves those which follow: a start takes a third of the time then. For
example 60, where memory is short. 0: each call does everything by itself.
""",
    ),
    cfg.StrOpt(
        "unmarked_domains",
        default="ignore",
        choices=[
            ("ignore", "they start, as if this package were not there."),
            ("refuse", "they do not start, while the hook is installed."),
        ],
        help="""
What becomes of LXC domains without <idmap>, or with one to host ID 0, whose
root is the host's root, and which do not carry the mark of this package.

For example refuse, where no one but root's own programs may start any. Those
that this package made, or converted, carry the mark, also in the host's user
namespace; there userns_policy decides.
""",
    ),
)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return all options by section, copied, for oslo-config-generator."""
    return [
        (LIBVIRT_GROUP, copy.deepcopy(list(LIBVIRT_OPTS))),
        (GROUP, copy.deepcopy(list(OPTS))),
        (allowed_paths.GROUP, copy.deepcopy(list(allowed_paths.OPTS))),
    ]


@checked(conf=cfg.ConfigOpts)
def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register all options; safe to repeat, and beside Nova's own.

    ``[libvirt] uid_maps`` and ``gid_maps`` may have been registered by Nova
    before, or may be later, with any help text and default.

    :param conf: the configuration object of the service.
    :raises oslo_config.cfg.DuplicateOptError: if an option of the same name
        and another type is registered.
    """
    conf.register_opts(LIBVIRT_OPTS, group=LIBVIRT_GROUP)
    conf.register_opts(OPTS, group=GROUP)
    conf.register_opts(allowed_paths.OPTS, group=allowed_paths.GROUP)


__getattr__ = lazy.renamed(
    __name__,
    check_held="lxc_userns.config.settings.check_held",
    load_id_maps="lxc_userns.config.settings.load_id_maps",
)
