# SPDX-License-Identifier: Apache-2.0
"""ID maps of every valid form, and domains of others."""

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import strategies as st

from lxc_userns.domain import Filesystem, Marker
from lxc_userns.idmap import IdMap, IdMapEntry, IdMaps
from lxc_userns.spec.requirements import Device
from tests.unit.domain.samples import UUID, VIEWS, promise


@st.composite
def _id_map(draw: st.DrawFn) -> IdMap:
    """Up to five entries that touch or leave gaps, in any order."""
    guest, host = 0, draw(st.integers(1, 2**31))
    entries = []
    for count in draw(st.lists(st.integers(6, 2**17), min_size=1, max_size=5)):
        entries.append(IdMapEntry(guest, host, count))
        guest += count + draw(st.integers(0, 1000))
        host += count + draw(st.integers(0, 1000))
    return IdMap(tuple(draw(st.permutations(entries))))


id_maps = st.builds(IdMaps, uid=_id_map(), gid=_id_map())

#: The instance whose domains these are.
PRIVATE = promise(
    "web",
    filesystems=(
        Filesystem(f"{VIEWS}/root", "/", ("/srv/web",)),
        Filesystem(f"{VIEWS}/volume0", "/data", ("/srv/data",)),
        Filesystem(f"{VIEWS}/volume1", "/data/deep", ("/srv/deep",), True),
    ),
    marker=Marker(rootfs="/srv/web", strategy="idmapped", mode="private"),
    devices=(Device("/dev/fuse", "char"),),
    security_model="apparmor",
    partition="/machine/lxc-userns-web",
)
HOST = promise(
    "web",
    id_maps=None,
    host_namespaces=("ipc", "network"),
    kept_capabilities=("mknod",),
    dropped_capabilities=(),
    marker=Marker(rootfs="/srv/web", strategy="plain", mode="host"),
)


class _Piece(NamedTuple):
    """Alternatives for one part of a document.

    :param fits: those that agree with :data:`PRIVATE`.
    :param contradicts: those that do not.
    """

    fits: Sequence[str]
    contradicts: Sequence[str] = ()


def _filesystem(source: str, target: str, rest: str = "") -> str:
    return (
        f"<filesystem type='mount'{rest}><source dir='{source}'/>"
        f"<target dir='{target}'/></filesystem>"
    )


def _idmap(host: int) -> str:
    entries = "".join(
        f"<{kind} start='0' target='{host}' count='65536'/>"
        for kind in ("uid", "gid")
    )
    return f"<idmap>{entries}</idmap>"


_LXC = "xmlns:lxc='http://libvirt.org/schemas/domain/lxc/1.0'"
_BEFORE = [
    _Piece(
        ["<name>web</name>", "<name><![CDATA[web]]></name>"],
        ["<name>web2</name>", "<name>Web</name>"],
    ),
    _Piece(
        ["", f"<uuid>{UUID}</uuid>", f"<uuid>{UUID.upper()}</uuid>"],
        [f"<uuid>{UUID[:-1]}0</uuid>"],
    ),
    _Piece(["", "<title>a &amp; b</title>", "<title>&#233;é</title>"]),
    _Piece(["", "<description><![CDATA[<os/>]]></description>"]),
    _Piece(
        [
            "",
            "<metadata/>",
            "<metadata><x:a xmlns:x='urn:x' b='>'><idmap/></x:a></metadata>",
            "<metadata><c xmlns='urn:lxc-userns:domain:1.0'/></metadata>",
        ]
    ),
    _Piece(["<memory>65536</memory>", "<memory unit='GiB'>1</memory>"]),
    _Piece(["", "<vcpu>1</vcpu>", "<vcpu cpuset='0'>2</vcpu>"]),
    _Piece(["", "<memtune><hard_limit>65536</hard_limit></memtune>"]),
    _Piece(["", "<cputune><quota>5000</quota></cputune>"]),
    _Piece(["", "<blkiotune><weight>500</weight></blkiotune>"]),
    _Piece(["", "<numatune><memory mode='strict' nodeset='0'/></numatune>"]),
    _Piece(
        ["", "<resource><partition>/machine</partition></resource>"],
        ["<resource><partition>/tenants</partition></resource>"],
    ),
]
_OS = _Piece(
    [
        f"<os><type{arch}>exe</type><init>/i</init>{rest}</os>"
        for arch in ("", " arch='x86_64'")
        for rest in (
            "",
            "<initarg>-c</initarg><initarg>a &lt; b</initarg>",
            "<initenv name='A'>b</initenv><initdir>/root</initdir>",
            "<inituser>root</inituser><initgroup>+0</initgroup>",
        )
    ],
    ["<os><type>exe</type><initenv name='A'>a&amp;b</initenv></os>"],
)
_AFTER = [
    _Piece(
        ["", _idmap(100000)],
        [_idmap(100001), "<idmap/>"],
    ),
    _Piece(
        [
            "",
            "<features/>",
            "<features><privnet/></features>",
            "<features><capabilities policy='default'/></features>",
            "<features><capabilities policy='deny'><kill state='on'/>"
            "</capabilities></features>",
        ],
        [
            "<features><capabilities policy='allow'/></features>",
            "<features><capabilities policy='default'><mknod state='on'/>"
            "</capabilities></features>",
            "<features><capabilities policy='deny'><syslog state='on'/>"
            "</capabilities></features>",
        ],
    ),
    _Piece(["", "<clock offset='utc'/>"]),
    _Piece(["", "<on_reboot>restart</on_reboot>"]),
]
_DEVICES = [
    _Piece(["", "<emulator>/usr/lib/libvirt/libvirt_lxc</emulator>"]),
    _Piece(
        [
            "",
            _filesystem("/srv/web", "/", " accessmode='passthrough'"),
            _filesystem(f"{VIEWS}/root", "/"),
            "<filesystem type='file'><driver type='loop' format='raw'/>"
            "<source file='/srv/web'/><target dir='/'/></filesystem>",
        ],
        [
            _filesystem("/", "/"),
            _filesystem("/srv/other", "/"),
            _filesystem(f"{VIEWS}/root/", "/"),
            "<filesystem type='block'><source dev='/dev/sda'/>"
            "<target dir='/'/></filesystem>",
        ],
    ),
    _Piece(
        ["", _filesystem("/srv/data", "/data")],
        [
            _filesystem("/srv/deep", "/data"),
            _filesystem("/srv/data", "/data/"),
            _filesystem("/srv/more", "/more"),
        ],
    ),
    _Piece(
        [
            "",
            "<filesystem type='ram'><source usage='9' units='KiB'/>"
            "<target dir='/data/deep/tmp'/></filesystem>",
            "<filesystem type='bind'><source dir='/data'/>"
            "<target dir='/other'/></filesystem>",
        ],
        [
            "<filesystem type='ram'><source usage='9' units='KiB'/>"
            "<target dir='/proc'/></filesystem>",
            "<filesystem type='bind'><source dir='/.oldroot/etc'/>"
            "<target dir='/other'/></filesystem>",
        ],
    ),
    _Piece(
        [
            "",
            "<interface type='bridge'><source bridge='b'/></interface>",
            "<interface type='network'><source network='n'/>"
            "<guest dev='host0'/><link state='down'/>"
            "<ip address='192.0.2.7' family='ipv4' prefix='24'/>"
            "<route family='ipv4' address='0.0.0.0' gateway='192.0.2.1'/>"
            "</interface>",
        ]
    ),
    _Piece(
        [
            "",
            "<hostdev mode='capabilities' type='misc'><source>"
            "<char>/dev/fuse</char></source></hostdev>",
        ],
        [
            "<hostdev mode='capabilities' type='misc'><source>"
            "<char>/dev/kvm</char></source></hostdev>",
            "<hostdev mode='capabilities' type='storage'><source>"
            "<block>/dev/fuse</block></source></hostdev>",
            "<hostdev mode='capabilities' type='net'><source>"
            "<interface>eth0</interface></source></hostdev>",
            "<disk type='block'><source dev='/dev/sdb'/>"
            "<target dev='sdb'/></disk>",
        ],
    ),
    _Piece(["<console type='pty'/>", "<console type='pty'></console>"]),
]
#: Anywhere among the devices.
_BETWEEN = [
    "<!-- <filesystem/> & -->",
    "<?x <console type='pty'/> ?>",
    "<!--\n-->",
]
_LAST = [
    _Piece(
        [
            "",
            "<seclabel type='dynamic'/>",
            "<seclabel type='dynamic' model='apparmor' relabel='yes'/>",
        ],
        [
            "<seclabel type='none' model='apparmor'/>",
            "<seclabel type='static' model='apparmor'><label>x</label>"
            "</seclabel>",
        ],
    ),
    _Piece(
        ["", f"<lxc:namespace {_LXC}/>"],
        [
            f"<lxc:namespace {_LXC}><lxc:shareuts type='pid' value='1'/>"
            "</lxc:namespace>",
            f"<lxc:namespace {_LXC}><lxc:sharenet type='netns' value='n'/>"
            "</lxc:namespace>",
        ],
    ),
]


#: The text is read as what it is, not as it says that its bytes once were.
_HEADS = [
    "",
    "<!-- a -->",
    "<?xml version='1.0'?>",
    *(
        f"<?xml version='1.0' encoding='{name}'?>"
        for name in ("UTF-8", "utf-16", "ISO-8859-1", "us-ascii")
    ),
]


class Document(NamedTuple):
    """A domain of others.

    :param text: its XML.
    :param fits: whether it agrees with :data:`PRIVATE`.
    """

    text: str
    fits: bool


@st.composite
def _documents(draw: st.DrawFn) -> Document:
    agrees = draw(st.booleans())
    fits = True

    def choose(piece: _Piece) -> str:
        nonlocal fits
        text = draw(st.sampled_from(piece.fits))
        if piece.contradicts and not agrees and draw(st.booleans()):
            text, fits = draw(st.sampled_from(piece.contradicts)), False
        return text

    newline = draw(st.sampled_from(["", "\n", "\r\n"]))
    unit = draw(st.sampled_from(["", "  ", "\t"])) if newline else ""
    devices = [*map(choose, _DEVICES)]
    if draw(st.booleans()):
        place = draw(st.integers(0, len(devices)))
        devices.insert(place, draw(st.sampled_from(_BETWEEN)))
    parts = [
        *map(choose, _BEFORE),
        choose(_OS),
        *map(choose, _AFTER),
        lines("devices", devices, newline, unit),
        *map(choose, _LAST),
    ]
    if draw(st.booleans()):
        parts.insert(draw(st.integers(1, len(parts))), "<!-- <os/> & -->")
    text = "".join(f"{newline}{unit}{part}" for part in parts if part)
    text = f"<domain type='lxc'>{text}{newline}</domain>{newline}"
    if draw(st.booleans()):
        text = text.replace("'", '"')
    head = draw(st.sampled_from(_HEADS))
    return Document(head + text, fits)


def lines(name: str, parts: list[str], newline: str, unit: str) -> str:
    """Return an element just below the root, its children on lines."""
    inside = "".join(f"{newline}{unit * 2}{part}" for part in parts if part)
    return f"<{name}>{inside}{newline}{unit}</{name}>"


documents = _documents()
