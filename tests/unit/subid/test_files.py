# SPDX-License-Identifier: Apache-2.0
"""The text of /etc/subuid: ranges, and lines that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.idmap import ID_LIMIT
from lxc_userns.subid import files
from lxc_userns.subid.files import SubordinateRange

GOOD = [
    ("alice:100000:65536", ("alice", 100000, 65536)),
    ("1000:100000:1", ("1000", 100000, 1)),
    ("user@example.org:5:1", ("user@example.org", 5, 1)),
    ("zero:0:1", ("zero", 0, 1)),
    ("top:4294967294:1", ("top", 4294967294, 1)),
    ("all:0:4294967295", ("all", 0, 4294967295)),
]


@pytest.mark.parametrize(("line", "fields"), GOOD)
def test_range(line: str, fields: tuple[str, int, int]) -> None:
    found = SubordinateRange(*fields, line=1)
    assert files.parse(line) == ((found,), ())
    assert found.ids == range(fields[1], fields[1] + fields[2])


BAD = [
    ("alice", "expected owner:start:count"),
    ("alice:100000", "expected owner:start:count"),
    ("alice:100000:1:1", "expected owner:start:count"),
    (":100000:1", "expected owner:start:count"),
    ("alice::1", "decimal"),
    ("alice:100000:", "decimal"),
    ("alice:0x186a0:1", "decimal"),
    ("alice:100000:0x10", "decimal"),
    ("alice:-1:1", "decimal"),
    ("alice:+1:1", "decimal"),
    ("alice: 1:1", "decimal"),
    ("alice:1:1 ", "decimal"),
    ("alice:1:1\r", "carriage return"),
    ("alice:٣:1", "decimal"),
    ("alice:0100000:1", "no leading zero"),
    ("alice:00:1", "leading zero"),
    ("alice:100000:010", "leading zero"),
    ("alice:100000:0", "count is 0"),
    (" alice:100000:1", "blanks around"),
    ("alice :100000:1", "blanks around"),
    ("al\0ice:100000:1", "a byte that is zero"),
    ("alice:4294967295:1", "have to lie in"),
    ("alice:4294967294:2", "have to lie in"),
    ("alice:1:4294967295", "have to lie in"),
    (f"alice:1:{'9' * 5000}", "decimal"),
    ("\ufeffalice:1:1", r"byte-order mark (U+FEFF)"),
    ("al\u200bice:1:1", r"invisible character U+200B"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_malformed(line: str, reason: str) -> None:
    good = "bob:200000:10"
    ranges, malformed = files.parse(f"{good}\n{line}\n{good}\n")
    assert [each.line for each in ranges] == [1, 3]
    assert [(each.line, each.text) for each in malformed] == [(2, line)]
    assert reason in malformed[0].reason


def test_comments_and_blank_lines_count_as_lines() -> None:
    text = "# shadow\n\n  \t\n  # more\nalice:1:2\nalice:1:2"
    ranges, malformed = files.parse(text)
    assert [each.line for each in ranges] == [5, 6]
    assert malformed == ()
    assert files.parse("") == ((), ())


def test_only_newlines_end_lines() -> None:
    # Other readers do not see a second line here either.
    ranges, malformed = files.parse("alice:1:2\u2028bob:3:4\n")
    assert ranges == ()
    assert len(malformed) == 1


@given(
    st.lists(
        st.builds(
            SubordinateRange,
            st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,8}", fullmatch=True),
            st.integers(0, ID_LIMIT - 1),
            st.just(1),
            st.just(0),
        )
    )
)
def test_round_trip(ranges: list[SubordinateRange]) -> None:
    text = "".join(f"{e.owner}:{e.start}:{e.count}\n" for e in ranges)
    found, malformed = files.parse(text)
    assert malformed == ()
    assert [(e.owner, e.ids) for e in found] == [
        (e.owner, e.ids) for e in ranges
    ]


@given(st.text())
def test_every_line_is_accounted_for(text: str) -> None:
    ranges, malformed = files.parse(text)
    lines = [
        number
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    found = [each.line for each in ranges]
    found += [each.line for each in malformed]
    assert sorted(found) == lines


@pytest.mark.parametrize(
    ("text", "ranges", "malformed"),
    [
        ("", [], []),
        ("0: lxc 100000 65536\n", [("lxc", 100000, 65536)], []),
        (
            "0: lxc 5 1\n1: 1000 4294967294 1\n",
            [("lxc", 5, 1), ("1000", 4294967294, 1)],
            [],
        ),
        ("0: lxc 5\n", [], ["expected INDEX: OWNER START COUNT"]),
        ("Error fetching ranges\n", [], ["expected INDEX"]),
        ("0: lxc 0x5 1\n", [], ["expected INDEX"]),
        ("0: lxc -5 1\n", [], ["expected INDEX"]),
        ("0: lxc 5 0\n", [], ["count is 0"]),
        ("0: lxc 4294967290 10\n", [], ["have to lie in"]),
        ("0: lxc 18446744073709551615 1\n", [], ["decimal"]),
        ("0: lxc 05 1\n1: lxc 7 1\n", [("lxc", 7, 1)], ["leading zero"]),
    ],
)
def test_what_getsubids_prints(
    text: str, ranges: list[tuple[str, int, int]], malformed: list[str]
) -> None:
    found, bad = files.parse_listed(text)
    assert [(each.owner, each.start, each.count) for each in found] == ranges
    assert len(bad) == len(malformed)
    for line, reason in zip(bad, malformed, strict=True):
        assert reason in line.reason
        assert line.text in text.splitlines()


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("", "files"),
        ("passwd: files sss\n", "files"),
        ("subid: files\n", "files"),
        ("subid:\tsss\n", "sss"),
        ("subid: sss files\n", "sss"),
        # As getsubids has it.
        ("  subid: sss files\n", "files"),
        ("#subid: sss\n", "files"),
        ("subid:\npasswd: files\n", "files"),
        ("shadow: files\nsubid: zzz\nsubid: sss\n", "zzz"),
        ("gsubid: sss\n", "files"),
        ("SubID: sss\n", "sss"),
    ],
)
def test_source(text: str, source: str) -> None:
    assert files.parse_source(text) == source


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a:0:10\nb:10:10\n", []),
        ("a:0:10\na:5:10\n", []),
        ("a:0:10\nb:9:10\n", [(1, 2)]),
        ("b:9:10\na:0:10\n", [(2, 1)]),
        # One within another, with one more between them.
        ("a:0:100\na:10:5\nb:50:1\n", [(1, 3)]),
        ("a:0:100\nb:0:100\nc:99:1\n", [(1, 2), (1, 3), (2, 3)]),
        # The same owner by name and by number.
        ("alice:0:10\n1000:5:10\nb:14:1\n", [(2, 3)]),
    ],
)
def test_overlaps(text: str, pairs: list[tuple[int, int]]) -> None:
    ranges, _ = files.parse(text)
    numbers = {"alice": "1000"}
    found = files.find_overlaps(ranges, lambda name: numbers.get(name, name))
    assert [(one.line, other.line) for one, other in found] == pairs


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        ("alice:0x10:0x20", range(16, 48)),
        ("alice:010: 5", range(8, 13)),
        ("alice:10:5 ", range(10, 15)),
        ("alice:10:0", range(10, 10)),
        ("alice:10:x", None),
        ("alice:09:5", None),
        ("alice:-5:10", None),
        ("alice:10:-5", None),
        ("alice:+10:5", range(10, 15)),
        ("alice:1_0:5", None),
        ("alice:0x-1:5", None),
        ("alice:\u0663:5", None),
        ("alice:10", None),
        ("alice", None),
        (f"alice:1:{'9' * 5000}", range(1, 1 + int("9" * 20))),
    ],
)
def test_what_others_may_take_a_malformed_line_for(
    line: str, ids: range | None
) -> None:
    _, (malformed,) = files.parse(line)
    assert (malformed.ids, malformed.owner) == (ids, "alice")
