# SPDX-License-Identifier: Apache-2.0
"""Files of subordinate IDs, and what getsubids prints."""

from hypothesis import given

from lxc_userns.idmap import ID_LIMIT
from lxc_userns.subid import files as subid
from tests.fuzz.mutation import mutated

_FILES = [
    b"root:100000:65536\n# none\n\nalice:165536:65536\n1000:1:1\n",
    b"bob:0x100:010\ncarol: 12:4\n",
    b"0: root 100000 65536\n1: root 200000 1\n",
    b"passwd: files\nsubid: sss files\n",
]
_TOKENS = [
    b":", b"\n", b"\r", b"#", b" ", b"\0", b"0x", b"-1", b"+1", b"1_0",
    b"4294967295", b"4294967294", b"9" * 30, b"\xc2\x85", b"\xe2\x80\xa8",
    b"\xd9\xa1", b"\xff",
]  # fmt: skip


@given(mutated(_FILES, _TOKENS))
def files(data: bytes) -> None:
    """Each line is a range of IDs or malformed, and none is passed over."""
    text = data.decode(errors="surrogateescape")
    lines = [
        number
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    for parse in (subid.parse, subid.parse_listed):
        ranges, malformed = parse(text)
        found = [each.line for each in ranges]
        found += [each.line for each in malformed]
        assert sorted(found) == lines
        for each in ranges:
            assert 0 <= each.start < each.ids.stop <= ID_LIMIT
            assert each.owner == each.owner.strip() != ""
            # What getsubids prints may have an owner that no file can have.
            if parse is subid.parse:
                written = f"{each.owner}:{each.start}:{each.count}"
                assert subid.parse(written)[0][0].ids == each.ids
        for line in malformed:
            assert line.reason
            assert line.owner in line.text
            assert not line.ids or line.ids.start >= 0
        for one, other in subid.find_overlaps(ranges, str):
            assert max(one.start, other.start) in one.ids
            assert max(one.start, other.start) in other.ids
    assert subid.parse_source(text).split() != []
