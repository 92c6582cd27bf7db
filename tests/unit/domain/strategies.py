# SPDX-License-Identifier: Apache-2.0
"""ID maps and domains of every valid form."""

import string

from hypothesis import strategies as st

from lxc_userns import domain
from lxc_userns.idmap import IdMap, IdMapEntry, IdMaps

#: What XML and libvirt can carry: no controls, no surrogates.
_CHARACTERS = st.characters(
    exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"
)
_WORD = string.ascii_letters + string.digits + "_"

lines = st.text(_CHARACTERS, min_size=1, max_size=20)
texts = st.lists(lines, min_size=1, max_size=3).map("\n\t".join)
words = st.text(_WORD, max_size=8).map("n".__add__)
paths = st.lists(
    lines.map(lambda line: f"n{line.replace('/', '')}"),
    min_size=1,
    max_size=4,
).map(lambda names: f"/{'/'.join(names)}")
names = lines.map(
    lambda line: f"n{line.replace('/', '')}".strip().encode()[:64]
).map(lambda name: name.decode(errors="ignore").strip())
env_values = st.text(
    st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]),
    min_size=1,
).map(lambda text: text.translate(str.maketrans("<&>", "_;'")))


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


@st.composite
def _init(draw: st.DrawFn) -> domain.Init:
    # Guest IDs below 6 are in all maps of id_maps.
    owner = words | st.integers(0, 5)
    owners = draw(st.none() | st.tuples(owner, owner))
    user, group = owners or (None, None)
    return domain.Init(
        draw(paths),
        args=draw(st.lists(texts, max_size=3)),
        env=draw(st.dictionaries(words, env_values, max_size=3)),
        cwd=draw(st.none() | paths),
        user=user,
        group=group,
    )


_volumes = st.one_of(
    st.builds(domain.Filesystem.mount, paths, paths),
    st.builds(domain.Filesystem.bind, paths, paths),
    st.builds(
        domain.Filesystem.ram,
        paths,
        size_kib=st.integers(1, 2**40),
        readonly=st.booleans(),
    ),
)
_roots = st.builds(
    domain.Filesystem.mount, paths, st.just("/"), readonly=st.booleans()
)


@st.composite
def _filesystems(draw: st.DrawFn) -> list[domain.Filesystem]:
    volumes = draw(
        st.lists(_volumes, max_size=3, unique_by=lambda one: one.target)
    )
    return [draw(_roots), *volumes]


_macs = st.binary(min_size=5, max_size=5).map(lambda b: f"52:{b.hex(':')}")
_addresses = st.ip_addresses().map(
    lambda address: f"{address}/{8 * address.version}"
)
_gateways = st.tuples(
    st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)
)


@st.composite
def _interfaces(draw: st.DrawFn) -> list[domain.Interface]:
    interfaces = []
    for number in range(draw(st.integers(0, 3))):
        options: domain.InterfaceOptions = {
            "mac": draw(_macs),
            "host_device": draw(st.none() | st.just(f"veth{number}")),
            "guest_device": draw(st.none() | st.just(f"n{number}")),
            "addresses": draw(st.lists(_addresses, max_size=2)),
            "gateways": draw(st.just(()) | _gateways),
            "up": draw(st.booleans()),
        }
        kind = draw(st.sampled_from(["network", "bridge", "direct"]))
        make = getattr(domain.Interface, kind)
        interfaces.append(make(draw(words), **options))
    return interfaces


_cpus = st.sampled_from(["0", "0-1", "0-1,3", "1"])
_tuning = st.builds(
    domain.Tuning,
    hard_limit_mib=st.none() | st.integers(1, 2**40),
    soft_limit_mib=st.none() | st.integers(1, 2**40),
    cpu_shares=st.none() | st.integers(2, 262144),
    cpu_period_us=st.none() | st.integers(1000, 1000000),
    cpu_quota_us=st.sampled_from([None, -1]) | st.integers(1000, 2**44 - 1),
    cpus=st.none() | _cpus,
    disk_weight=st.none() | st.integers(100, 1000),
    disks=st.just(())
    | st.tuples(st.builds(domain.BlockDevice, paths, st.integers(100, 1000))),
    partition=st.none() | paths,
)


@st.composite
def _capabilities(draw: st.DrawFn) -> domain.Capabilities:
    names = draw(st.permutations(["chown", "mknod", "net_raw", "sys_time"]))
    kept = draw(st.integers(0, 2))
    dropped = draw(st.integers(0, 2))
    return domain.Capabilities(
        draw(st.sampled_from(["default", "allow", "deny"])),
        keep=names[:kept],
        drop=names[2 : 2 + dropped],
    )


domains = st.builds(
    domain.Domain,
    name=names,
    uuid=st.uuids().map(str),
    memory_mib=st.integers(1, 2**40),
    vcpus=st.integers(1, 2**16 - 1),
    init=_init(),
    filesystems=_filesystems(),
    id_maps=st.none() | id_maps,
    interfaces=_interfaces(),
    features=st.builds(domain.Features, capabilities=_capabilities()),
    consoles=st.integers(1, 3),
    tuning=_tuning,
    metadata=st.dictionaries(words, st.just("") | lines, max_size=3),
)
