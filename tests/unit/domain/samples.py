# SPDX-License-Identifier: Apache-2.0
"""The usual containers, each with a golden file of its name."""

from lxc_userns import domain
from lxc_userns.idmap import IdMap, IdMaps

MAPS = IdMaps(
    uid=IdMap.parse("0:100000:65536"), gid=IdMap.parse("0:100000:65536")
)
#: Two entries, not in the order in which libvirt wants them.
PUNCHED_MAPS = IdMaps(
    uid=IdMap.parse("1000:200000:1,0:100000:1000"),
    gid=IdMap.parse("0:100000:65536"),
)
ROOT = domain.Filesystem.mount("/run/lxc-userns/instance/root", "/")
UUID = "3e3fce45-4f53-4fa7-bb32-11f34168b82b"

SAMPLES = {
    "private": domain.Domain(
        name="private",
        memory_mib=64,
        init=domain.Init("/sbin/init"),
        filesystems=[ROOT],
        id_maps=MAPS,
    ),
    "busybox": domain.Domain(
        name="busybox",
        uuid=UUID,
        memory_mib=128,
        init=domain.Init(
            "/bin/sh",
            args=["-c", "echo \"$GREETING\" && exec sleep 60 # 'a' < b\n"],
            env={"GREETING": "hello world", "PATH": "/bin:/sbin:/usr/bin"},
            cwd="/root",
            user="root",
            group=0,
        ),
        filesystems=[ROOT],
        id_maps=MAPS,
        metadata={"mode": "private", "strategy": "chown"},
    ),
    "debian": domain.Domain(
        name="debian",
        uuid=UUID,
        memory_mib=1024,
        vcpus=2,
        init=domain.Init(
            "/lib/systemd/systemd",
            args=["--unit", "multi-user.target"],
            env={"container_host_id": "nova compute"},
        ),
        filesystems=[ROOT, domain.Filesystem.ram("/run", size_kib=65536)],
        interfaces=[domain.Interface.bridge("br0", guest_device="host0")],
        id_maps=PUNCHED_MAPS,
        consoles=2,
        metadata={"mode": "private", "rootfs": "/srv/images/debian <12>"},
    ),
    "interfaces": domain.Domain(
        name="interfaces",
        uuid=UUID,
        memory_mib=256,
        init=domain.Init("/sbin/init"),
        filesystems=[ROOT],
        id_maps=MAPS,
        interfaces=[
            domain.Interface.network(
                "default network",
                mac="52:54:00:12:34:56",
                nwfilter="clean-traffic",
                addresses=["192.0.2.7/24", "2001:db8::7/64"],
                gateways=["192.0.2.1", "2001:db8::1"],
            ),
            domain.Interface.bridge(
                "br-int",
                mac="52:54:00:12:34:57",
                host_device="tap0",
                openvswitch_id=UUID,
                up=False,
            ),
            domain.Interface.ethernet(
                mac="52:54:00:12:34:58", guest_device="side0"
            ),
            domain.Interface.direct(
                "eno1", mac="52:54:00:12:34:59", mode="bridge"
            ),
            domain.HostInterface("eno2"),
        ],
        features=domain.Features(privnet=False),
    ),
    "volumes": domain.Domain(
        name="volumes",
        uuid=UUID,
        memory_mib=256,
        init=domain.Init("/sbin/init"),
        filesystems=[
            domain.Filesystem.mount("/srv/volumes/b", "/data/b"),
            domain.Filesystem.mount("/srv/v & w", "/data"),
            domain.Filesystem.bind("/data/b", "/var/lib/app"),
            domain.Filesystem.ram("/tmp", size_kib=1000, readonly=True),
            ROOT,
        ],
        id_maps=MAPS,
    ),
    "host-mode": domain.Domain(
        name="host-mode",
        uuid=UUID,
        memory_mib=512,
        init=domain.Init("/sbin/init"),
        filesystems=[ROOT],
        features=domain.Features(privnet=False),
        metadata={"mode": "host"},
    ),
    "images": domain.Domain(
        name="images",
        uuid=UUID,
        memory_mib=512,
        init=domain.Init("/sbin/init"),
        filesystems=[
            domain.Filesystem.file("/srv/root.img", "/"),
            domain.Filesystem.file(
                "/srv/d.qcow2", "/data", driver="nbd", format="qcow2"
            ),
            domain.Filesystem.block("/dev/vdb", "/mnt", readonly=True),
            domain.Filesystem.mount("/srv/v", "/srv", readonly=True),
        ],
    ),
    "tuned": domain.Domain(
        name="tuned",
        uuid=UUID,
        memory_mib=512,
        vcpus=4,
        init=domain.Init("/sbin/init", user=1000, group=1000),
        filesystems=[ROOT],
        id_maps=MAPS,
        features=domain.Features(
            capabilities=domain.Capabilities(
                policy="deny", keep=["chown", "setuid"], drop=["net_raw"]
            )
        ),
        tuning=domain.Tuning(
            hard_limit_mib=600,
            soft_limit_mib=400,
            swap_hard_limit_mib=600,
            cpu_shares=512,
            cpu_period_us=100000,
            cpu_quota_us=50000,
            cpus="0-1",
            numa_mode="interleave",
            numa_nodes="0",
            disk_weight=500,
            disks=[
                domain.BlockDevice(
                    "/dev/vda",
                    weight=200,
                    read_bytes_sec=1000000,
                    write_bytes_sec=2000000,
                    read_iops_sec=100,
                    write_iops_sec=200,
                )
            ],
            partition="/machine/tenants",
        ),
        seclabels=[
            domain.SecLabel.static("selinux", "system_u:system_r:svirt_t:s0"),
            domain.SecLabel.dynamic("apparmor"),
            domain.SecLabel.none("dac"),
        ],
        emulator="/usr/lib/libvirt/libvirt_lxc",
    ),
    "shared": domain.Domain(
        name="shared",
        uuid=UUID,
        memory_mib=64,
        init=domain.Init("/sbin/init"),
        filesystems=[ROOT],
        features=domain.Features(privnet=False),
        namespaces=domain.SharedNamespaces(
            net=domain.SharedNamespace("netns", "blue"),
            ipc=domain.SharedNamespace("name", "host-mode"),
            uts=domain.SharedNamespace("pid", "1"),
        ),
    ),
}
