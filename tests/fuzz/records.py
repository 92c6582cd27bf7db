# SPDX-License-Identifier: Apache-2.0
"""Notes of ours that others may have written: marks of trees, records."""

import json
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.exceptions import LxcUsernsError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances import codec
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.rootfs.shifting.state import State, Work
from lxc_userns.spec.requirements import Device, Requirements
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume
from tests.fuzz.mutation import changed, mutated

_MAPS = IdMaps(IdMap.parse("0:100000:65536"), IdMap.parse("0:100000:65536"))
_STATES = [
    State(_MAPS, None, 10, 1, (100000, 100000)),
    State(None, Work(_MAPS, "keep"), 10, 1, None),
    State(_MAPS, Work(None, "nobody", 4294000000, 1)),
]
_UUID = "3e3fce45-4f53-4fa7-bb32-11f34168b82b"
_RECORDS = [
    InstanceRecord(
        name="web1", uuid=_UUID, rootfs="/srv/a", id_maps=_MAPS,
        strategy=Strategy.IDMAPPED, view="/run/a",
    ),
    InstanceRecord(
        name="web1", uuid=_UUID, rootfs="/srv/a", id_maps=None,
        strategy=Strategy.BIND, view="/run/a", ready=12,
        reason="asked for", archive="/srv/a.tar",
        volumes=(Volume("/srv/v", "/v"),),
        needs=Requirements("host", ("network",), ("sys_time",), ("/dev/kvm",)),
        devices=(Device("/dev/kvm", "char"),), mode_reasons=("asked",),
    ),
]  # fmt: skip
_TOKENS = [b"null", b"NaN", b"1e999", b"[" * 50, b"{", b'"', b"\\ud800", b"-1"]

#: What the store reports as a damaged record.
_DAMAGED = (ValueError, TypeError, KeyError, LxcUsernsError)


def _text(value: object) -> bytes:
    return json.dumps(value).encode()


_state_texts = st.sampled_from(_STATES).flatmap(
    lambda state: changed(json.loads(state.encode())).map(_text)
)
_record_values = st.sampled_from(_RECORDS).flatmap(
    lambda record: changed(codec.encode(record))
)


@given(_state_texts | mutated([each.encode() for each in _STATES], _TOKENS))
def states(data: bytes) -> None:
    """A mark is good and is written as it was read, or is refused."""
    with suppress(ValueError):
        state = State.decode(data)
        assert State.decode(state.encode()) == state


@given(_record_values)
def records(value: object) -> None:
    """A record is good and is written as it was read, or is refused."""
    # As read from a file.
    data = json.loads(json.dumps(value))
    with suppress(*_DAMAGED):
        record = codec.decode("web1", data)
        again = json.loads(json.dumps(codec.encode(record)))
        assert codec.decode("web1", again) == record
