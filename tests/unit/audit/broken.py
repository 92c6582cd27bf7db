# SPDX-License-Identifier: Apache-2.0
"""Domains that break a rule, and where each breaks it."""

from tests.unit.audit.documents import (
    PRIVNET,
    ROOT,
    domain,
    filesystem,
    id_map,
)

GOOD = "0:2013265920:65536"
NETNS = "<lxc:namespace>\n<lxc:{} type='{}' value='{}'/></lxc:namespace>\n"


#: Code, severity, XPath, line and a part of the message; the document.
BROKEN = [
    (
        ("no-idmap", "CRITICAL", "/domain", 1, "no ID maps"),
        domain(idmap=""),
    ),
    (
        ("no-idmap", "CRITICAL", "/domain", 1, "no ID maps"),
        domain(idmap="<idmap/>\n"),
    ),
    (
        (
            *("idmap-host-root", "CRITICAL", "/domain/idmap/uid", 6),
            "the uid entry 0:0:65536 makes guest uid 0 host ID 0",
        ),
        domain(idmap=id_map("0:0:65536", GOOD)),
    ),
    (
        (
            *("idmap-host-root", "CRITICAL", "/domain/idmap/gid[2]", 7),
            "makes guest gid 1000 host ID 0",
        ),
        domain(idmap=id_map(GOOD, "0:2013265920:1000,1000:0:1")),
    ),
    (
        # As libvirt reads it.
        ("idmap-host-root", "CRITICAL", "/domain/idmap/uid", 6, "host ID 0"),
        domain(idmap=id_map("0: +00:65536", GOOD)),
    ),
    (
        (
            *("idmap-low-host-ids", "HIGH", "/domain/idmap/uid", 6),
            "the uid entry 0:1000:65536 uses host IDs from 1000 on",
        ),
        domain(idmap=id_map("0:1000:65536", GOOD)),
    ),
    (
        ("idmap-low-host-ids", "HIGH", "/domain/idmap/gid", 7, "from 65535"),
        domain(idmap=id_map(GOOD, "0:65535:65536")),
    ),
    (
        ("idmap-refused", "ERROR", "/domain/idmap", 5, "has no gid entry"),
        domain(idmap=id_map(GOOD, "")),
    ),
    (
        ("idmap-refused", "ERROR", "/domain/idmap", 5, "has no uid entry"),
        domain(idmap=id_map("", GOOD)),
    ),
    (
        (
            *("idmap-refused", "ERROR", "/domain/idmap", 5),
            "guest uid 0 is not mapped",
        ),
        domain(idmap=id_map("1:2013265920:65536", GOOD)),
    ),
    (
        (
            *("idmap-refused", "ERROR", "/domain/idmap/uid[2]", 6),
            "guest IDs of the uid entries 0:2013265920:65536 and "
            "65535:2013331456:9 overlap",
        ),
        domain(idmap=id_map(f"{GOOD},65535:2013331456:9", GOOD)),
    ),
    (
        (
            *("idmap-refused", "ERROR", "/domain/idmap/gid[2]", 7),
            "host IDs of the gid entries 0:2013265920:65536 and "
            "65536:2013331455:9 overlap",
        ),
        domain(idmap=id_map(GOOD, f"{GOOD},65536:2013331455:9")),
    ),
    (
        (
            *("idmap-refused", "ERROR", "/domain/idmap/uid[2]", 6),
            "65536:2013331456:0 has no IDs",
        ),
        domain(idmap=id_map(f"{GOOD},65536:2013331456:0", GOOD)),
    ),
    (
        (
            *("idmap-refused", "ERROR", "/domain/idmap/uid", 6),
            "host IDs beyond 4294967294",
        ),
        domain(idmap=id_map("0:4294901760:65536", GOOD)),
    ),
    (
        (
            *("idmap-refused", "ERROR", "/domain/idmap/uid[2]", 6),
            "guest IDs beyond 4294967294",
        ),
        domain(idmap=id_map(f"{GOOD},4294967295:2100000000:0", GOOD)),
    ),
    *(
        (
            (
                *("idmap-refused", "ERROR", "/domain/idmap/uid[2]", 6),
                f"start '70000', target {text!r}, count '1' is malformed",
            ),
            domain(idmap=id_map(f"{GOOD},70000:{text}:1", GOOD)),
        )
        for text in ("", "-1", "0x10", "1e3", "5 ", "10000000000", "٣")
    ),
    (
        (
            *("idmap-refused", "ERROR", "/domain/idmap", 5),
            "has 341 uid entries",
        ),
        domain(
            idmap=id_map(
                ",".join(f"{n}:{n + 70000}:1" for n in range(341)), GOOD
            )
        ),
    ),
    (
        # 300 entries, but more bytes than a page has.
        (
            *("idmap-refused", "ERROR", "/domain/idmap", 5),
            "has 300 uid entries, 4990 bytes",
        ),
        domain(
            idmap=id_map(
                ",".join(f"{n}:{2 * n + 2013265920}:1" for n in range(300)),
                GOOD,
            )
        ),
    ),
    (
        ("idmap-few-ids", "WARN", "/domain/idmap", 5, "only 65535 uids"),
        domain(idmap=id_map("0:2013265920:65535", GOOD)),
    ),
    (
        (
            *("idmap-few-ids", "WARN", "/domain/idmap", 5),
            "guest gid 65534 (nobody) is not mapped",
        ),
        domain(idmap=id_map(GOOD, "0:2013265920:65534,70000:2013331454:1000")),
    ),
    (
        (
            *("idmap-tty", "WARN", "/domain/idmap/gid[2]", 7),
            "5:2013265925:65531 starts at guest group 5",
        ),
        domain(idmap=id_map(GOOD, "0:2013265920:5,5:2013265925:65531")),
    ),
    (
        ("idmap-tty", "WARN", "/domain/idmap", 5, "group 5 (tty) is not"),
        domain(idmap=id_map(GOOD, "0:2013265920:5,6:2013265926:65530")),
    ),
    (
        (
            *("idmap-systemd-range", "INFO", "/domain/idmap/uid", 6),
            "uses host IDs of 524288-1879048191",
        ),
        domain(idmap=id_map("0:1879048191:65536", GOOD)),
    ),
    (
        (
            *("idmap-high-host-ids", "INFO", "/domain/idmap/gid", 7),
            "above 2147483647",
        ),
        domain(idmap=id_map(GOOD, "0:2147483647:65536")),
    ),
    (
        (
            *("init-unmapped", "ERROR", "/domain/os/inituser", 4),
            "<inituser> is 70000, a uid that is not mapped",
        ),
        domain(init="<inituser>+70000</inituser>"),
    ),
    (
        (
            *("init-unmapped", "ERROR", "/domain/os/initgroup", 4),
            "<initgroup> is 65536, a gid that is not mapped",
        ),
        domain(init="<initgroup>65536</initgroup>"),
    ),
    (
        (
            *("host-network", "CRITICAL", "/domain", 1),
            "it does not start where cgroups are version 1",
        ),
        domain(features=""),
    ),
    (
        (
            *("init-unmapped", "ERROR", "/domain/os/inituser", 4),
            "<inituser> is 4294967294, a uid that is not mapped",
        ),
        domain(init="<inituser>+0004294967294</inituser>"),
    ),
    (
        ("host-network", "CRITICAL", "/domain", 1, "shares the host's netw"),
        domain(
            features="",
            devices="<hostdev mode='subsystem' type='usb'/>",
            idmap="",
        ),
    ),
    (
        (
            *("shared-network", "CRITICAL"),
            *("/domain/lxc:namespace/lxc:sharenet", 18),
            "<sharenet> shares the net namespace of pid '1'",
        ),
        domain(features="", end=NETNS.format("sharenet", "pid", 1)),
    ),
    *(
        (
            (
                *("shared-namespace", "HIGH"),
                *(f"/domain/lxc:namespace/lxc:{name}", 18),
                f"shares the {kind} namespace of name 'db'",
            ),
            domain(end=NETNS.format(name, "name", "db")),
        )
        for name, kind in (("shareipc", "IPC"), ("shareuts", "UTS"))
    ),
    *(
        (
            (
                *("sharing-refused", "ERROR"),
                *(f"/domain/lxc:namespace/lxc:{name}", 18),
                "which a user namespace has no right to enter",
            ),
            domain(end=NETNS.format(name, "name", "db")),
        )
        for name in ("sharenet", "shareipc", "shareuts")
    ),
    (
        (
            *("sharing-refused", "ERROR"),
            *("/domain/lxc:namespace/lxc:sharenet", 14),
            "has a network of its own",
        ),
        domain(idmap="", end=NETNS.format("sharenet", "netns", "blue")),
    ),
    (
        (
            *("host-root-filesystem", "CRITICAL", "/domain/devices", 10),
            "no filesystem has the target '/'",
        ),
        domain(root=""),
    ),
    (
        (
            *("host-root-filesystem", "CRITICAL", "/domain/devices", 10),
            "libvirt does not take '//' for it",
        ),
        domain(root=filesystem("/srv/web", "//")),
    ),
    (
        (
            *("host-root-filesystem", "CRITICAL"),
            *("/domain/devices/filesystem", 11),
            "filesystem '/' is '/' of the host",
        ),
        domain(root=filesystem("/srv/..", "/")),
    ),
    (
        (
            *("host-root-filesystem", "CRITICAL"),
            *("/domain/devices/filesystem[2]", 15),
            "filesystem '/mnt' is '/' of the host",
        ),
        domain(devices=filesystem("/")),
    ),
    (
        (
            *("root-filesystem-twice", "WARN"),
            *("/domain/devices/filesystem[2]", 15),
            "libvirt takes the first",
        ),
        domain(devices=ROOT),
    ),
    *(
        (
            (
                *("host-path", "HIGH", "/domain/devices/filesystem[2]", 15),
                message,
            ),
            domain(devices=filesystem(source)),
        )
        for source, message in (
            ("/run", "sockets of the host's services"),
            ("/run/dbus/", "sockets of the host's services"),
            ("/var/run/libvirt", "is '/run/libvirt' of the host"),
            ("//dev", "devices of the host"),
            ("/dev/./shm", "devices of the host"),
            ("/proc", "processes and settings"),
            ("/sys/fs/cgroup", "devices and settings"),
            ("/srv/../etc/ssl", "the host's configuration"),
            ("/boot", "what the host boots from"),
            ("/root/.ssh", "files of the host's root"),
            ("/var", "/var/lib/libvirt is in it"),
            ("/var/lib", "/var/lib/libvirt is in it"),
            ("/var/lib/libvirt", "files and sockets of libvirt"),
            ("/var/lib/libvirt/filesystems", "files and sockets of libvirt"),
            ("/var/lib/docker/volumes", "files of other containers"),
            ("/var/spool/cron", "what the host runs by itself"),
            ("/srv/docker.sock", "a socket by which the host can be ruled"),
            ("/run/lxc-userns", "sockets of the host's services"),
            ("/run/lxc-userns/../dbus", "sockets of the host's services"),
            ("/run/lxc-userns2/web", "sockets of the host's services"),
        )
    ),
    (
        # libvirt keeps the host's tree there while it mounts.
        (
            *("host-path", "HIGH", "/domain/devices/filesystem[2]", 15),
            "filesystem '/mnt' is '/etc' of the host",
        ),
        domain(devices=filesystem("/.oldroot/etc", kind="bind")),
    ),
    *(
        (
            (
                *("filesystem-refused", "ERROR"),
                *("/domain/devices/filesystem[2]", 15),
                f"of type '{kind}' cannot be mounted in a user namespace",
            ),
            domain(devices=filesystem("/srv/disk", kind=kind)),
        )
        for kind in ("file", "block")
    ),
    *(
        (
            (
                *("filesystem-refused", "ERROR"),
                *("/domain/devices/filesystem[2]", 11),
                f"of type '{kind}': libvirt's LXC driver cannot mount that",
            ),
            domain(idmap="", devices=filesystem("x", kind=kind)),
        )
        for kind in ("template", "volume")
    ),
    (
        (
            *("filesystem-refused", "ERROR"),
            *("/domain/devices/filesystem", 11),
            "it cannot be the root",
        ),
        domain(root=filesystem("65536", "/", "ram")),
    ),
    *(
        (
            (
                *("reserved-target", "WARN"),
                *("/domain/devices/filesystem[2]", 15),
                f"filesystem '{target}': libvirt has a mount",
            ),
            domain(devices=filesystem("/srv/x", target)),
        )
        for target in ("/proc", "/sys/", "/proc/sys/net", "/.oldroot", "/dev")
    ),
    *(
        (
            (
                *("readonly-not-enforced", "HIGH"),
                *("/domain/devices/filesystem[2]", 15),
                "filesystem '/mnt' would be writable",
            ),
            domain(devices=filesystem("/srv/x", kind=kind, readonly=True)),
        )
        for kind in ("mount", "bind")
    ),
    (
        (
            *("writable-host-path", "WARN"),
            *("/domain/devices/filesystem[2]", 15),
            "filesystem '/mnt' is '/srv/x' of the host, and can be written",
        ),
        domain(devices=filesystem("/srv/x")),
    ),
    (
        (
            *("capabilities-allowed", "HIGH"),
            *("/domain/features/capabilities", 9),
            "keeps all capabilities, audit_control, mac_admin, sys_module, "
            "sys_time among them",
        ),
        domain(
            features=f"{PRIVNET}<capabilities policy='allow'>"
            "<mknod state='off'/></capabilities>"
        ),
    ),
    (
        # Its local name is all that libvirt looks at.
        (
            *("capabilities-allowed", "HIGH"),
            *("/domain/features/x:capabilities", 9),
            "the policy 'allow'",
        ),
        domain(
            features=f"{PRIVNET}<x:capabilities xmlns:x='urn:x' "
            "policy='allow'/>"
        ),
    ),
    *(
        (
            (
                *("capability-on", "HIGH"),
                *(f"/domain/features/capabilities/{name}", 9),
                f"the capability {name} is switched on",
            ),
            domain(
                features=f"{PRIVNET}<capabilities policy='{policy}'>"
                f"<{name} state='on'/></capabilities>"
            ),
        )
        for policy, name in (
            ("default", "mknod"),
            ("default", "sys_module"),
            ("deny", "sys_rawio"),
            ("deny", "sys_time"),
            ("default", "mac_admin"),
            ("deny", "mac_override"),
            ("default", "audit_control"),
        )
    ),
    *(
        (
            (
                *("host-device", "HIGH", "/domain/devices/hostdev", 15),
                f"(capabilities {kind}) is given to the container: '{source}'",
            ),
            domain(
                devices=f"<hostdev mode='capabilities' type='{kind}'>"
                f"<source><{tag}>{source}</{tag}></source></hostdev>"
            ),
        )
        for kind, tag, source in (
            ("storage", "block", "/dev/sda"),
            ("misc", "char", "/dev/kmsg"),
            ("net", "interface", "eth1"),
        )
    ),
    (
        (
            *("host-device", "HIGH", "/domain/devices/hostdev", 15),
            "(subsystem usb)",
        ),
        domain(devices="<hostdev mode='subsystem' type='usb'/>"),
    ),
    *(
        (
            (
                *("host-device", "HIGH", "/domain/devices/disk", 15),
                "the disk '/dev/vdb' is given",
            ),
            domain(
                devices=f"<disk type='block'><source {name}='/dev/vdb'/>"
                "<target dev='sda'/></disk>"
            ),
        )
        for name in ("dev", "file")
    ),
    (
        ("no-seclabel", "WARN", "/domain", 1, "has no <seclabel>"),
        domain(end=""),
    ),
    (
        ("no-seclabel", "WARN", "/domain", 1, "has no <seclabel>"),
        domain(end="<seclabel type='dynamic' model='dac'/>"),
    ),
    (
        (
            *("no-seclabel", "WARN", "/domain/seclabel", 17),
            "type='none'> leaves it unconfined",
        ),
        domain(end="<seclabel type='none'/>"),
    ),
    *(
        (
            (
                *("no-seclabel", "WARN", "/domain/seclabel", 17),
                f"the label '{label}' leaves it unconfined",
            ),
            domain(
                end="<seclabel type='static' model='x'>"
                f"<label>{label}</label></seclabel>"
            ),
        )
        for label in ("unconfined", "u:r:unconfined_t:s0")
    ),
    *(
        (
            ("markup-in-value", "HIGH", "/domain/os/initenv", 4, shown),
            domain(init=f"<initenv name='A'>{value}</initenv>"),
        )
        for value, shown in (
            ("1&lt;2", "'A' is '1<2'"),
            ("&amp;", "'A' is '&'"),
            ("]]&gt;", "'A' is ']]>'"),
            ("<![CDATA[</initenv>]]>", "'A' is '</initenv>'"),
        )
    ),
    (
        (
            *("markup-in-value", "HIGH", "/domain/os/initenv", 4),
            'name is "A\'>"',
        ),
        domain(init='<initenv name="A\'>">x</initenv>'),
    ),
    (
        (
            *("markup-in-value", "HIGH"),
            *("/domain/lxc:namespace/lxc:shareuts", 18),
            'the value is "\'/>"',
        ),
        domain(end=NETNS.format("shareuts", "name", "&apos;/>")),
    ),
    *(
        (
            (
                *("foreign-emulator", "HIGH"),
                *("/domain/devices/emulator", 15),
                "would be run as the host's root",
            ),
            domain(devices=f"<emulator>{path}</emulator>"),
        )
        for path in (
            "/srv/evil",
            "/usr/lib/libvirt/virsh",
            "/usr/lib/../../srv/libvirt_lxc",
            "/srv/libvirt_lxc",
            "",
        )
    ),
]
