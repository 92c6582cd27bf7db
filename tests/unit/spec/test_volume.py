# SPDX-License-Identifier: Apache-2.0
"""Volumes as values: what they may be, and their texts."""

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.exceptions import LxcUsernsError, VolumeError
from lxc_userns.spec.volume import Volume

_NAMES = st.text(
    st.characters(
        exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="/"
    ),
    min_size=1,
).filter(lambda name: name not in (".", ".."))
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map(
    lambda names: f"/{'/'.join(names)}"
)
volumes = st.builds(
    Volume,
    st.just("/") | _PATHS,
    _PATHS,
    st.sampled_from(["idmap", "none", "chown"]),
    readonly=st.booleans(),
    nosuid=st.booleans(),
    nodev=st.booleans(),
)


@given(volumes)
def test_its_text_gives_it_back(volume: Volume) -> None:
    assert Volume.parse(str(volume)) == volume


@given(volumes)
def test_its_record_gives_it_back(volume: Volume) -> None:
    record = json.loads(json.dumps(volume.to_dict()))
    assert Volume.from_dict(record) == volume
    assert pickle.loads(pickle.dumps(volume)) == volume  # noqa: S301 - ours


@given(st.text(":\\,/.ab"))
def test_any_text_is_a_volume_or_an_error(text: str) -> None:
    try:
        volume = Volume.parse(text)
    except VolumeError:
        return
    assert Volume.parse(str(volume)) == volume


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("/a:/b", Volume("/a", "/b")),
        ("/a:/b:idmap", Volume("/a", "/b")),
        ("/a:/b:rw,idmap", Volume("/a", "/b")),
        ("/:/host:none,ro", Volume("/", "/host", "none", readonly=True)),
        ("/a b/c:/d:chown", Volume("/a b/c", "/d", "chown")),
        ("/a:/b:suid", Volume("/a", "/b", nosuid=False)),
        ("/a:/b:dev", Volume("/a", "/b", nodev=False)),
        ("/a:/b:image", Volume("/a", "/b", image=True)),
        ("/a:/b:none,image", Volume("/a", "/b", "none", image=True)),
        (r"/a\:b:/c\\d:ro", Volume("/a:b", "/c\\d", readonly=True)),
        ("/a,b:/c", Volume("/a,b", "/c")),
        ("/...:/..a", Volume("/...", "/..a")),
    ],
)
def test_texts(text: str, volume: Volume) -> None:
    assert Volume.parse(text) == volume


def test_its_text_says_whose_its_files_are() -> None:
    assert str(Volume("/a", "/b")) == "/a:/b:idmap"
    weak = Volume(
        "/a:b", "/c\\d", "none", readonly=True, nosuid=False, nodev=False
    )
    assert str(weak) == r"/a\:b:/c\\d:none,ro,suid,dev"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected SOURCE:TARGET"),
        ("/a", "expected SOURCE:TARGET"),
        ("/a:/b:ro:rw", "expected SOURCE:TARGET"),
        (r"/a\b:/c", "expected SOURCE:TARGET"),
        ("/a:/b\\", "expected SOURCE:TARGET"),
        (":", "source is not an absolute path"),
        ("a:/b", "source is not an absolute path"),
        ("/a:", "target is not an absolute path"),
        ("/a:b", "target is not an absolute path"),
        ("/a:/", "target is that of the root filesystem"),
        ("/a/:/b", "source has an empty"),
        ("/a//b:/c", "source has an empty"),
        ("//:/c", "source has an empty"),
        ("/a/./b:/c", "source has an empty"),
        ("/a:/b/..", "target has an empty"),
        ("/a:/b/", "target has an empty"),
        ("/a\n:/b", "source has a control character"),
        ("/a:/b\x9f", "target has a control character"),
        ("/a:/b\u2028", "target has a control character"),
        ("/a\udcff:/b", "bytes that are no text"),
        ("/a:/b:", "option '' is not one of idmap, none, chown, host"),
        ("/a:/b:ro,", "option '' is not one of"),
        ("/a:/b:RO", "option 'RO' is not one of"),
        ("/a:/b: ro", "option ' ro' is not one of"),
        ("/a:/b:shift", "option 'shift' is not one of"),
        ("/a:/b:ro,ro", "option ro is repeated"),
        ("/a:/b:dev,suid,dev", "option dev is repeated"),
        ("/a:/b:ro,rw", "options ro and rw contradict each other"),
        ("/a:/b:none,ro,idmap", "options none and idmap contradict"),
        ("/a:/b:idmap,chown", "options idmap and chown contradict"),
        ("/a:/b:image,chown", "an image cannot be chown; give idmap or none"),
        ("/a:/b:host,image", "an image cannot be host; give idmap or none"),
        ("/a:/b:image,dev", "an image has no device nodes; leave out dev"),
    ],
)
def test_texts_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(VolumeError) as raised:
        Volume.parse(text)
    assert reason in str(raised.value)
    assert isinstance(raised.value, LxcUsernsError)


def test_an_error_in_the_options_shows_the_whole_text() -> None:
    with pytest.raises(VolumeError) as raised:
        Volume.parse("/a:/b:ro,x")
    assert raised.value.value == "/a:/b:ro,x"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"source": None}, "source is no text"),
        ({"source": b"/a"}, "source is no text"),
        ({"target": 1}, "target is no text"),
        ({"owners": "shift"}, "owners are not one of idmap, none, chown"),
        ({"owners": ["idmap"]}, "owners are not one of"),
        ({"owners": None}, "owners are not one of"),
        ({"readonly": 1}, "readonly is no truth value"),
        ({"readonly": "false"}, "readonly is no truth value"),
        ({"nosuid": None}, "nosuid is no truth value"),
        ({"nodev": 0}, "nodev is no truth value"),
        ({"image": 1}, "image is no truth value"),
        ({"more": True}, "the fields are not"),
    ],
)
def test_records_that_are_refused(values: dict[str, Any], reason: str) -> None:
    record = Volume("/a", "/b").to_dict() | values
    with pytest.raises(ValueError, match=reason):
        Volume.from_dict(record)


@pytest.mark.parametrize("name", ["source", "owners", "nodev"])
def test_a_record_with_a_field_missing_is_refused(name: str) -> None:
    record = Volume("/a", "/b").to_dict()
    del record[name]
    with pytest.raises(ValueError, match="the fields are not"):
        Volume.from_dict(record)


@pytest.mark.parametrize("data", [None, [], "/a:/b", 1])
def test_what_is_no_record(data: object) -> None:
    with pytest.raises(ValueError, match="the fields are not"):
        Volume.from_dict(data)


def test_it_is_a_value() -> None:
    volume = Volume("/a", "/b")
    assert volume == Volume("/a", "/b", "idmap")
    assert len({volume, Volume("/a", "/b")}) == 1
    with pytest.raises(AttributeError):
        volume.source = "/c"  # type: ignore[misc]


def test_volume_with_device_nodes_says_so() -> None:
    volume = Volume.parse("/srv/x:/x:dev,suid,owned")
    assert not volume.nodev
    assert str(volume) == "/srv/x:/x:idmap,suid,dev,owned"
    assert Volume.parse(str(volume)) == volume


def test_volume_of_an_image_says_so() -> None:
    volume = Volume.parse("/srv/x:/x:image,ro")
    assert str(volume) == "/srv/x:/x:idmap,ro,image"
    assert Volume.parse(str(volume)) == volume
    assert Volume.from_dict(volume.to_dict()) == volume


def test_a_record_of_before_has_no_image() -> None:
    record = Volume("/a", "/b").to_dict()
    del record["image"]
    assert Volume.from_dict(record) == Volume("/a", "/b")
