# SPDX-License-Identifier: Apache-2.0
"""Volumes, needs and prepared instances of every valid form."""

from dataclasses import replace

from hypothesis import strategies as st

from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.spec.requirements import CAPABILITIES, Device, Requirements
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume
from tests.unit.domain.strategies import id_maps

texts = st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.integers(0, 2**64 - 1)
paths = st.text("ab\N{BLACK STAR}", min_size=1).map("/srv/{}".format)
volumes = st.builds(
    Volume,
    source=paths,
    target=paths,
    owners=st.sampled_from(["idmap", "none", "chown", "host"]),
    readonly=st.booleans(),
    nosuid=st.booleans(),
    nodev=st.booleans(),
    owned=st.booleans(),
)
needs = st.builds(
    Requirements,
    mode=st.sampled_from([None, "private", "host"]),
    host_namespaces=st.sets(st.sampled_from(["network", "ipc", "uts"])),
    capabilities=st.sets(st.sampled_from(CAPABILITIES)),
    devices=st.sets(
        st.sampled_from(["/dev/fuse", "/dev/sda", "/dev/net/tun"])
    ),
)
RECORD = InstanceRecord(
    name="web",
    uuid="0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c",
    rootfs="/srv/web",
    id_maps=None,
    strategy=Strategy.BIND,
    view="/run/lxc-userns/web/root",
)
_LINES = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=20)
_DEVICES = st.sets(
    st.builds(
        Device,
        st.sampled_from(["/dev/fuse", "/dev/sda", "/dev/net/tun"]),
        st.sampled_from(["char", "block"]),
    )
)


@st.composite
def _prepared(draw: st.DrawFn) -> PreparedInstance:
    """Draw what a request can have led to, in either mode."""
    record = replace(
        RECORD,
        rootfs=draw(paths),
        archive=draw(st.none() | paths),
        rootfs_kind=draw(st.sampled_from([None, "directory", "image"])),
        volumes=tuple(
            draw(st.lists(volumes, max_size=3, unique_by=lambda it: it.target))
        ),
        devices=tuple(draw(_DEVICES)),
        mode_reasons=tuple(draw(st.lists(_LINES, max_size=2))),
        max_processes=draw(st.integers(0, 2**22)),
        security_model=draw(st.sampled_from([None, "apparmor", "selinux"])),
        dropped=tuple(draw(st.sets(st.sampled_from(CAPABILITIES)))),
    )
    if draw(st.booleans()):
        kept = draw(st.sets(st.sampled_from(CAPABILITIES)))
        return PreparedInstance(
            replace(
                record,
                id_maps=draw(id_maps),
                strategy=draw(st.sampled_from(Strategy)),
                needs=Requirements(capabilities=tuple(kept)),
                dropped=tuple({*record.dropped} - kept),
            )
        )
    return PreparedInstance(replace(record, needs=draw(needs)))


prepared = _prepared()
