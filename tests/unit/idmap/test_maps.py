# SPDX-License-Identifier: Apache-2.0
"""ID maps: every rule with its own text, and what mapping means."""

import copy
import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.exceptions import IdMapError
from lxc_userns.idmap import ID_LIMIT, IdMap, IdMapEntry, IdMaps, advisories
from lxc_userns.text import shorten
from tests.unit.id_map_strategies import TOO_LONG, host_id_maps

TOP = ID_LIMIT - 1

GOOD = [
    "0:100000:65536",
    "0:1:1",
    # The end of the 32-bit range, which the kernel takes up to 4294967294.
    "0:4294901760:65535",
    "0:4294967294:1",
    "0:1:4294967294",
    "0:1000:1,4294967294:2000:1",
    # Adjacent on one axis, and on both.
    "0:100000:5,5:200000:5",
    "0:100000:5,10:100005:5",
    "0:100000:5,5:100005:5",
    # Root not in the first entry, entries in any order.
    "100:200000:10,0:300000:10",
    "0:1000:1,1:2000:1,2:3000:1,3:4000:1,4:5000:1",
    # Guest and host ranges may overlap each other.
    "0:1000:65536",
]


@pytest.mark.parametrize("text", GOOD)
def test_good(text: str) -> None:
    id_map = IdMap.parse(text)
    assert str(id_map) == text
    assert IdMap.parse(text.split(",")) == id_map
    assert len(id_map) == len(list(id_map)) == text.count(",") + 1


BAD_ENTRIES = [
    ("", "syntax", "three decimal integers"),
    ("0", "syntax", "three decimal integers"),
    ("0:100000", "syntax", "three decimal integers"),
    ("0:100000:65536:1", "syntax", "three decimal integers"),
    ("0:100000:", "syntax", "three decimal integers"),
    (":100000:1", "syntax", "three decimal integers"),
    ("0::1", "syntax", "three decimal integers"),
    ("a:100000:1", "syntax", "three decimal integers"),
    ("0:0x186a0:1", "syntax", "three decimal integers"),
    ("0:1e5:1", "syntax", "three decimal integers"),
    ("0:100_000:1", "syntax", "three decimal integers"),
    ("0:100000.0:1", "syntax", "three decimal integers"),
    ("-1:100000:1", "syntax", "without sign"),
    ("+0:100000:1", "syntax", "without sign"),
    ("0:+100000:1", "syntax", "without sign"),
    ("0:-100000:1", "syntax", "without sign"),
    (" 0:100000:1", "syntax", "without sign, blanks"),
    ("0:100000:1 ", "syntax", "without sign, blanks"),
    ("0: 100000:1", "syntax", "without sign, blanks"),
    ("0:100000:1\n", "syntax", "without sign, blanks"),
    ("0:100000:1\0", "syntax", "three decimal integers"),
    ("00:100000:1", "syntax", "leading zeros"),
    ("0:0100000:1", "syntax", "leading zeros"),
    ("0:100000:01", "syntax", "leading zeros"),
    ("٠:100000:1", "syntax", "three decimal integers"),  # noqa: RUF001
    ("0:１00000:1", "syntax", "three decimal integers"),  # noqa: RUF001
    ("0:100000:²", "syntax", "three decimal integers"),
    ("0:100000:0", "count", "count is 0"),
    ("0:4294901760:65536", "limit", "host IDs end at 4294967295"),
    ("0:4294967295:1", "limit", "host IDs end at 4294967295"),
    ("4294967295:1000:1", "limit", "guest IDs end at 4294967295"),
    ("4294967294:1000:2", "limit", "guest IDs end at 4294967295"),
    ("0:1:4294967295", "limit", "host IDs end at 4294967295"),
    ("0:100000:4294967296", "limit", "the highest ID is 4294967294"),
    (f"0:100000:{10**30}", "limit", "the highest ID is 4294967294"),
    (f"{10**30}:100000:1", "limit", "the highest ID is 4294967294"),
    (f"0:1{'0' * 5000}:1", "limit", "the highest ID is 4294967294"),
]


@pytest.mark.parametrize(("text", "rule", "reason"), BAD_ENTRIES)
def test_bad_entry(text: str, rule: str, reason: str) -> None:
    with pytest.raises(IdMapError, match=reason) as caught:
        IdMapEntry.parse(text)
    assert (caught.value.rule, caught.value.value) == (rule, text)
    assert repr(shorten(text)) in str(caught.value)
    # A bad entry is never dropped from a map.
    with pytest.raises(IdMapError, match=reason):
        IdMap.parse(["0:500000:10", text])


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize(
    ("number", "rule", "reason"),
    [
        (-1, "syntax", "without sign"),
        (True, "syntax", "three decimal integers"),
        (1.5, "syntax", "three decimal integers"),
        ("7", "syntax", "three decimal integers"),
        (None, "syntax", "three decimal integers"),
        (2**70, "limit", "the highest ID is 4294967294"),
        # Python writes no number of more than 4300 digits.
        (10**5000, "limit", f"{TOO_LONG}, the highest ID is"),
        (-(10**5000), "syntax", "without sign"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_number(
    position: int, number: object, rule: str, reason: str
) -> None:
    numbers: list[object] = [0, 100000, 1]
    numbers[position] = number
    with pytest.raises(IdMapError, match=reason) as caught:
        IdMapEntry(*numbers)  # type: ignore[arg-type]
    assert caught.value.rule == rule


BAD_MAPS = [
    ("0:100000:1,", "syntax", "three decimal integers"),
    (",", "syntax", "three decimal integers"),
    ("0:100000:1;1:200000:1", "syntax", "three decimal integers"),
    ("0:100000:1, 1:200000:1", "syntax", "blanks"),
    (
        "0:10:1,1:20:1,2:30:1,3:40:1,4:50:1,5:60:1",
        "number",
        "6 entries, 1 to 5 are allowed",
    ),
    (
        "0:100000:10,9:200000:1",
        "guest-overlap",
        "guest IDs of 0:100000:10 and 9:200000:1 overlap",
    ),
    (
        "0:100000:10,10:100009:1",
        "host-overlap",
        "host IDs of 0:100000:10 and 10:100009:1 overlap",
    ),
    (
        "0:100000:1,7:200000:9,5:300000:3",
        "guest-overlap",
        "guest IDs of 7:200000:9 and 5:300000:3 overlap",
    ),
    ("0:100000:9,0:100000:9", "guest-overlap", "overlap"),
    ("0:100000:9,3:500000:2", "guest-overlap", "overlap"),
    ("0:0:1", "host-root", "0:0:1 maps to host ID 0"),
    ("0:100000:1,5:0:10", "host-root", "5:0:10 maps to host ID 0"),
    ("1:100000:65536", "guest-root", "guest ID 0 is not mapped"),
]


@pytest.mark.parametrize(("text", "rule", "reason"), BAD_MAPS)
def test_bad_map(text: str, rule: str, reason: str) -> None:
    with pytest.raises(IdMapError, match=reason) as caught:
        IdMap.parse(text)
    assert caught.value.rule == rule


def test_no_entries() -> None:
    with pytest.raises(IdMapError, match=r"0 entries, 1 to 5") as caught:
        IdMap.parse([])
    assert caught.value.rule == "number"


@pytest.mark.parametrize("bad", [True, 0.0, "0", None, -1])
def test_entry_of_other_types(bad: object) -> None:
    for place in range(3):
        numbers: list[object] = [0, 100000, 1]
        numbers[place] = bad
        with pytest.raises(IdMapError, match="three decimal integers"):
            IdMapEntry(*numbers)  # type: ignore[arg-type]


def test_tty_group() -> None:
    uid = IdMap.parse("0:100000:1")
    for text, rule, reason in (
        ("0:100000:5", "tty-unmapped", "group 5 .tty. is not mapped"),
        ("0:100000:1,6:100006:9", "tty-unmapped", "host's group 5"),
        ("0:100000:5,5:200000:5", "tty-start", "5:200000:5 starts at guest"),
        ("5:200000:1,0:100000:5", "tty-start", "5:200000:1 starts at guest"),
    ):
        with pytest.raises(IdMapError, match=reason) as caught:
            IdMaps(uid, IdMap.parse(text))
        assert (caught.value.rule, caught.value.value) == (rule, text)
    # User 5 is no one special.
    gid = IdMap.parse("0:100000:6")
    IdMaps(IdMap.parse("0:100000:5,5:200000:5"), gid)
    IdMaps(uid, IdMap.parse("4:200000:2,0:100000:4"))


def test_edges() -> None:
    id_map = IdMap.parse("0:4294901760:65535")
    assert id_map.to_host(65534) == TOP
    assert id_map.to_host(65535) is None
    assert id_map.to_guest(TOP) == 65534
    assert id_map.to_guest(TOP + 1) is None
    assert id_map.to_guest(4294901759) is None


def test_kinds_are_not_mixed() -> None:
    maps = IdMaps(IdMap.parse("0:100000:10"), IdMap.parse("0:200000:20"))
    assert (maps.shift_uid(0), maps.shift_gid(0)) == (100000, 200000)
    assert (maps.shift_uid(15), maps.shift_gid(15)) == (None, 200015)
    assert (maps.unshift_uid(100009), maps.unshift_uid(200009)) == (9, None)
    assert (maps.unshift_gid(100009), maps.unshift_gid(200009)) == (None, 9)


def test_immutable_and_hashable() -> None:
    id_map = IdMap.parse("0:100000:10")
    maps = IdMaps(id_map, id_map)
    for value, name in (
        (id_map.entries[0], "host"),
        (id_map, "entries"),
        (maps, "uid"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 0)
        with pytest.raises((AttributeError, TypeError)):
            value.extra = 0  # type: ignore[union-attr]
        twin = pickle.loads(pickle.dumps(value))  # noqa: S301 - ours
        assert twin == value == copy.deepcopy(value)
        assert len({twin, value}) == 1


def test_entries_become_a_tuple() -> None:
    entries = [IdMapEntry(0, 100000, 10)]
    id_map = IdMap(entries)  # type: ignore[arg-type]
    entries.clear()
    assert id_map.entries == (IdMapEntry(0, 100000, 10),)


@given(host_id_maps(), st.integers(0, TOP))
def test_unshift_undoes_shift(id_map: IdMap, number: int) -> None:
    covering = [e for e in id_map if number - e.guest in range(e.count)]
    host = id_map.to_host(number)
    if not covering:
        assert host is None
        return
    assert host == covering[0].host + number - covering[0].guest
    assert id_map.to_guest(host) == number


@given(host_id_maps())
def test_ends_of_ranges(id_map: IdMap) -> None:
    for entry in id_map:
        for number in (entry.guest, entry.guest + entry.count - 1):
            host = id_map.to_host(number)
            assert host is not None
            assert host in entry.host_ids
            assert id_map.to_guest(host) == number


@given(host_id_maps())
def test_text_round_trip(id_map: IdMap) -> None:
    assert IdMap.parse(str(id_map)) == id_map
    assert IdMap.parse([str(entry) for entry in id_map]) == id_map


@given(st.text())
def test_no_text_crashes_the_parser(text: str) -> None:
    try:
        id_map = IdMap.parse(text)
    except IdMapError as err:
        assert err.rule and err.reason  # noqa: PT017, PT018
    else:
        assert str(id_map) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0:2147483648:65535", "fewer than 65536 IDs"),
        ("0:65535:65536", "below 65536"),
        ("0:458753:65536", "524288-1879048191"),
        ("0:1879048191:65536", "524288-1879048191"),
        ("0:2147418113:65536", "above 2147483647"),
    ],
)
def test_advisory(text: str, reason: str) -> None:
    assert any(reason in each for each in advisories(IdMap.parse(text)))


@pytest.mark.parametrize(
    "text",
    ["0:65536:65536", "0:458752:65536", "0:1879048192:65536"],
)
def test_no_advisory(text: str) -> None:
    assert list(advisories(IdMap.parse(text))) == []


def test_root_is_what_guest_id_0_becomes() -> None:
    maps = IdMaps(IdMap.parse("9:7:2,0:100000:9"), IdMap.parse("0:300000:9"))
    assert maps.root == (100000, 300000)
