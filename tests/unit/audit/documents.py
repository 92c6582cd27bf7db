# SPDX-License-Identifier: Apache-2.0
"""Domains to audit: one without findings, and what others write."""

from __future__ import annotations

IDMAP = """\
  <idmap>
    <uid start='0' target='2013265920' count='65536'/>
    <gid start='0' target='2013265920' count='65536'/>
  </idmap>
"""
ROOT = """\
    <filesystem type='mount'>
      <source dir='/srv/containers/web'/>
      <target dir='/'/>
    </filesystem>
"""
SECLABEL = "  <seclabel type='dynamic' model='apparmor'/>\n"
PRIVNET = "<privnet/>"
LXC = "xmlns:lxc='http://libvirt.org/schemas/domain/lxc/1.0'"


def domain(
    *,
    idmap: str = IDMAP,
    root: str = ROOT,
    features: str = PRIVNET,
    init: str = "",
    devices: str = "",
    end: str = SECLABEL,
) -> str:
    """A domain that has no finding, but for what is changed."""
    return (
        f"<domain type='lxc' {LXC}>\n"
        "  <name>web</name>\n"
        "  <memory unit='MiB'>64</memory>\n"
        f"  <os><type>exe</type><init>/sbin/init</init>{init}</os>\n"
        f"{idmap}"
        f"  <features>{features}</features>\n"
        "  <devices>\n"
        f"{root}{devices}"
        "    <console type='pty'/>\n"
        "  </devices>\n"
        f"{end}"
        "</domain>\n"
    )


def id_map(uid: str, gid: str | None = None) -> str:
    """``<idmap>`` in three lines, of ``guest:host:count,...``."""
    texts = {"uid": uid, "gid": uid if gid is None else gid}
    lines = (
        "".join(
            "<{} start='{}' target='{}' count='{}'/>".format(
                kind, *entry.split(":")
            )
            for entry in text.split(",")
            if entry
        )
        for kind, text in texts.items()
    )
    return "  <idmap>\n" + "\n".join(lines) + "\n  </idmap>\n"


def filesystem(
    source: str,
    target: str = "/mnt",
    kind: str = "mount",
    *,
    readonly: bool = False,
) -> str:
    """A ``<filesystem>`` in one line."""
    name = {"file": "file", "block": "dev", "ram": "usage"}.get(kind, "dir")
    return (
        f"<filesystem type='{kind}'><source {name}='{source}'/>"
        f"<target dir='{target}'/>{'<readonly/>' * readonly}</filesystem>\n"
    )


#: As ``virsh dumpxml`` has one that runs; another program's metadata in it.
VIRSH = """\
<domain type='lxc' id='4711'>
  <name>web</name>
  <uuid>3e3fce45-4f53-4fa7-bb32-11f34168b82b</uuid>
  <metadata>
    <app:owner xmlns:app="http://example.org/app/1" id="7">
      <app:os/>
    </app:owner>
  </metadata>
  <memory unit='KiB'>524288</memory>
  <currentMemory unit='KiB'>524288</currentMemory>
  <vcpu placement='static'>2</vcpu>
  <resource>
    <partition>/machine</partition>
  </resource>
  <os>
    <type arch='x86_64'>exe</type>
    <init>/sbin/init</init>
    <initenv name='MODE'>quiet</initenv>
  </os>
  <idmap>
    <uid start='0' target='2013265920' count='65536'/>
    <gid start='0' target='2013265920' count='65536'/>
  </idmap>
  <features>
    <privnet/>
  </features>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/lib/libvirt/libvirt_lxc</emulator>
    <filesystem type='mount' accessmode='passthrough'>
      <source dir='/run/lxc-userns/web/root'/>
      <target dir='/'/>
    </filesystem>
    <filesystem type='mount' accessmode='passthrough'>
      <source dir='/srv/shared'/>
      <target dir='/data'/>
    </filesystem>
    <filesystem type='ram' accessmode='passthrough'>
      <source usage='65536' units='KiB'/>
      <target dir='/tmp'/>
    </filesystem>
    <interface type='bridge'>
      <mac address='52:54:00:12:34:56'/>
      <source bridge='br0'/>
      <target dev='vnet3'/>
      <guest dev='eth0'/>
    </interface>
    <console type='pty' tty='/dev/pts/3'>
      <source path='/dev/pts/3'/>
      <target type='lxc' port='0'/>
      <alias name='console0'/>
    </console>
  </devices>
  <seclabel type='dynamic' model='apparmor' relabel='yes'>
    <label>libvirt-3e3fce45-4f53-4fa7-bb32-11f34168b82b</label>
    <imagelabel>libvirt-3e3fce45-4f53-4fa7-bb32-11f34168b82b</imagelabel>
  </seclabel>
</domain>
"""
#: As virt-manager makes one from a directory, and with a host's device.
VIRT_MANAGER = """\
<?xml version="1.0" encoding="UTF-8"?>
<domain type="lxc">
  <name>debian12</name>
  <uuid>ba9a1ac2-9c96-4b6e-8f6b-5a3a8a2f8a01</uuid>
  <metadata>
    <libosinfo:libosinfo
        xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <libosinfo:os id="http://debian.org/debian/12"/>
    </libosinfo:libosinfo>
  </metadata>
  <memory>1048576</memory>
  <currentMemory>1048576</currentMemory>
  <vcpu>2</vcpu>
  <os>
    <type>exe</type>
    <init>/sbin/init</init>
  </os>
  <features>
    <privnet/>
  </features>
  <clock offset="utc"/>
  <devices>
    <emulator>/usr/libexec/libvirt_lxc</emulator>
    <filesystem type="mount" accessmode="passthrough">
      <source dir="/var/lib/libvirt/filesystems/debian12"/>
      <target dir="/"/>
    </filesystem>
    <interface type="network">
      <source network="default"/>
      <mac address="00:16:3e:11:22:33"/>
    </interface>
    <hostdev mode="capabilities" type="misc">
      <source>
        <char>/dev/ttyS0</char>
      </source>
    </hostdev>
    <console type="pty"/>
  </devices>
</domain>
"""
#: As Nova makes one, with half a map and no network.
NOVA = """\
<domain type="lxc">
  <uuid>0ad1ad35-7c9c-46ee-8e4c-9c5f6f2a4ae2</uuid>
  <name>instance-00000001</name>
  <memory>524288</memory>
  <vcpu>1</vcpu>
  <metadata>
    <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
      <nova:name>web</nova:name>
      <nova:owner>
        <nova:user uuid="b5d3">admin</nova:user>
      </nova:owner>
    </nova:instance>
  </metadata>
  <os>
    <type>exe</type>
    <cmdline>console=tty0 console=ttyS0 console=hvc0</cmdline>
    <init>/sbin/init</init>
    <smbios mode="sysinfo"/>
  </os>
  <cputune>
    <shares>1024</shares>
  </cputune>
  <clock offset="utc"/>
  <devices>
    <filesystem type="mount">
      <source dir="/var/lib/nova/instances/0ad1ad35/rootfs"/>
      <target dir="/"/>
    </filesystem>
    <console type="pty"/>
  </devices>
  <idmap>
    <uid start="0" target="10000" count="1000"/>
  </idmap>
</domain>
"""
