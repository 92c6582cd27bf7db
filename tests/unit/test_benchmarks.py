# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' arithmetic and their tree, on paper."""

import stat
from collections.abc import Callable
from itertools import chain
from pathlib import PurePosixPath

import pytest

from benchmarks import report, trees
from benchmarks.contenders import CHOWN, CONTENDERS
from benchmarks.measure import Result, Size, Spread, compare

PACKAGES = 1000


def contents() -> list[trees.Inode]:
    packages = map(trees.package, range(PACKAGES))
    return [*trees.top_directories(), *chain.from_iterable(packages)]


def test_tree_is_the_same_each_time() -> None:
    assert contents() == contents()


def test_tree_names_each_inode_once() -> None:
    paths = [path for each in contents() for path in (each.path, *each.links)]
    assert len(set(paths)) == len(paths)


def test_tree_makes_a_directory_before_what_is_in_it() -> None:
    made = {PurePosixPath(".")}
    for inode in contents():
        path = PurePosixPath(inode.path)
        assert path.parent in made
        if stat.S_ISDIR(inode.mode):
            made.add(path)
        for link in inode.links:
            assert PurePosixPath(link).parent in made


@pytest.mark.parametrize(
    ("what", "least", "most"),
    [
        (lambda each: stat.S_ISDIR(each.mode), 0.05, 0.3),
        (lambda each: stat.S_ISLNK(each.mode), 0.05, 0.3),
        (lambda each: each.uid != 0, 0.005, 0.1),
        (lambda each: bool(each.links), 0.001, 0.02),
        (lambda each: each.needs_more_than_owner, 0.0005, 0.01),
    ],
    ids=["directories", "symlinks", "other owners", "hard links", "special"],
)
def test_tree_has_the_mixture_of_a_distribution(
    what: Callable[[trees.Inode], bool], least: float, most: float
) -> None:
    inodes = contents()
    share = sum(map(what, inodes)) / len(inodes)
    assert least < share < most


def test_tree_has_each_thing_that_a_chown_destroys() -> None:
    inodes = contents()
    assert any(each.mode & stat.S_ISUID for each in inodes)
    assert any(each.mode & stat.S_ISGID for each in inodes)
    assert any(trees.CAPABILITY in each.xattrs for each in inodes)
    assert any(trees.ACL in each.xattrs for each in inodes)


def test_owners_are_all_mapped() -> None:
    guest, _, count = trees.ENTRY
    for each in contents():
        assert each.uid in range(guest, guest + count)
        assert each.gid in range(guest, guest + count)


def test_others_are_compared_with_chown() -> None:
    assert CONTENDERS[0] is CHOWN
    assert len({each.name for each in CONTENDERS}) == len(CONTENDERS)


def test_what_is_not_installed_is_not_there() -> None:
    missing = trees.__name__ + "-is-no-program"
    one, other = (
        type(CHOWN)("missing", (), inside, missing) for inside in (False, True)
    )
    assert CHOWN.is_there
    assert not one.is_there
    assert not other.is_there


def test_ratios_are_taken_round_by_round() -> None:
    times = {"one": [1.0, 10.0, 2.0], "two": [2.0, 5.0, 6.0]}
    one, two = compare(times, times["one"])
    assert one.ratios == (1.0, 1.0, 1.0)
    assert two.ratios == (2.0, 0.5, 3.0)


def test_rounds_that_are_missing_are_noticed() -> None:
    with pytest.raises(ValueError, match="longer"):
        compare({"one": [1.0]}, [1.0, 2.0])


def test_spread_is_median_and_extremes() -> None:
    assert Spread.of([3.0, 9.0, 1.0]) == Spread(3.0, 1.0, 9.0)


def test_json_has_raw_numbers_and_spreads() -> None:
    found = Result("one", (1.0, 3.0), (1.0, 2.0)).to_json()
    assert found["seconds"] == (1.0, 3.0)
    assert found["ratio_spread"] == {"median": 1.5, "least": 1.0, "most": 2.0}


def test_table_of_races() -> None:
    results = [
        Result("chown -hR", (1.0, 2.0), (1.0, 1.0)),
        Result("shift", (0.5, 2.0), (0.5, 1.0)),
    ]
    assert list(report.races(results)) == [
        "========= ======= ========= ===== =========",
        "tool      seconds   min-max ratio   min-max",
        "========= ======= ========= ===== =========",
        "chown -hR    1.50 1.00-2.00  1.00 1.00-1.00",
        "shift        1.25 0.50-2.00  0.75 0.50-1.00",
        "========= ======= ========= ===== =========",
    ]


def test_table_of_sizes() -> None:
    (*_, row, _) = report.sizes([Size(1000, 2048, 4096, 2, 0.0015)])
    assert row.split() == ["1000", "2.0", "4.0", "2", "1.50"]


def test_table_of_commands() -> None:
    (*_, row, _) = report.commands({"pass": Spread(0.03, 0.02, 0.04)})
    assert row.split() == ["pass", "30", "20-40"]
