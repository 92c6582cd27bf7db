# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' arithmetic and their tree, on paper."""

import json
import stat
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from benchmarks import child, document, plot, report, scratch, trees
from benchmarks.contenders import CHOWN, CONTENDERS
from benchmarks.debian import alternatives
from benchmarks.debian.alternatives import (
    ALTERNATIVES,
    CONTAINER,
    CREATOR,
    IMAGE,
    Account,
    Cost,
)
from benchmarks.debian.sharing import Sharing
from benchmarks.debian.starting import Start, Stopwatch
from benchmarks.leases import database, holding
from benchmarks.leases.crowd import Crowd
from benchmarks.leases.database import SIZE, Database
from benchmarks.leases.holding import Holding, Shelf
from benchmarks.leases.neighbours import Neighbours
from benchmarks.measure import Result, Spread, compare, take_turns
from benchmarks.race import Race, Size
from lxc_userns.leases.host_pool import HostPool
from lxc_userns.leases.running import ProcessTable

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


def test_what_is_timed_inside_is_known_there() -> None:
    names = {each.argv[0] for each in CONTENDERS if each.timed_inside}
    assert names == set(child.WORKS)


def test_what_is_not_installed_is_not_there() -> None:
    missing = trees.__name__ + "-is-no-program"
    one, other = (
        type(CHOWN)("missing", (), inside, missing) for inside in (False, True)
    )
    assert CHOWN.is_there
    assert not one.is_there
    assert not other.is_there


def test_turns_are_taken_round_by_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []

    def taker(name: str, *seconds: float) -> Callable[[], float]:
        left = iter(seconds)

        def take() -> float:
            taken.append(name)
            return next(left)

        return take

    monkeypatch.setattr("os.sync", lambda: taken.append("sync"))
    takers = {"one": taker("one", 1.0, 2.0), "two": taker("two", 3.0, 8.0)}
    one, two = take_turns(takers, 2, "unit", lambda _: None)
    assert taken == ["sync", "one", "sync", "two"] * 2
    assert (one.seconds, one.ratios) == ((1.0, 2.0), (1.0, 1.0))
    assert (two.seconds, two.ratios) == ((3.0, 8.0), (3.0, 4.0))


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


RESULTS = (
    Result("chown -hR", (1.0, 2.0), (1.0, 1.0)),
    Result("rootfs.mount_idmapped", (0.002, 0.003), (0.002, 0.0015)),
)
RACES = [Race(1009, RESULTS), Race(300004, RESULTS)]
SHARING = Sharing(
    views=(0.004, 0.002, 0.003),
    views_disk=3 << 14,
    views_used=3 << 15,
    copies=(1.0, 3.0),
    shifts=(0.5, 0.25),
    copies_disk=2 << 28,
    copies_used=2 << 29,
)
START = Start(
    "overlay",
    (1.0, 2.0),
    {
        "prepare": (0.1, 0.3),
        "define": (0.01, 0.01),
        "start": (0.8, 1.5),
        "verify": (0.05, 0.1),
    },
)
ACCOUNT = Account(
    "at boot",
    (
        Cost(IMAGE, "tar --extract", (2.0, 3.0)),
        Cost(CONTAINER, "cp -a", (1.0, 2.0)),
        Cost(CONTAINER, "lxc-userns container run", (10.0, 20.0)),
    ),
    disk=3 << 20,
)
HOLDINGS = [
    Holding(
        held,
        70,
        tuple(
            Result(name, (0.004, 0.003, 0.009), (1.0, 1.0, 1.0))
            for name in holding.OPERATIONS
        ),
    )
    for held in (0, 10_000)
]
NEIGHBOURS = Neighbours(10_000, 370, 300, (0.04, 0.05))
CROWD = Crowd(10_000, 2, (0.5, 0.25), (0.004, 0.1, 0.006, 0.006))


@pytest.mark.parametrize(
    "found",
    [
        *(RESULTS[0], RACES[0], SHARING, START, ACCOUNT),
        *(HOLDINGS[0], NEIGHBOURS, CROWD),
    ],
)
def test_json_keeps_all_numbers(
    found: Result
    | Race
    | Sharing
    | Start
    | Account
    | Holding
    | Neighbours
    | Crowd,
) -> None:
    plain: dict[str, Any] = json.loads(json.dumps(found.to_json()))
    assert type(found).from_json(plain) == found


def test_libvirts_part_is_told_from_ours() -> None:
    assert START.ours == pytest.approx((0.2, 0.5))
    assert START.ratios == pytest.approx((0.25, 1 / 3))
    assert START.rest == pytest.approx((0.04, 0.09))


def test_stopwatch_takes_the_time_and_gives_the_result() -> None:
    class Service:
        def start(self, name: str, *, times: int) -> str:
            return name * times

    service, stopwatch = Service(), Stopwatch()
    stopwatch.watch(service, "start", "begin")
    assert service.start("web", times=2) == "webweb"
    assert stopwatch.read()["begin"] > 0
    assert stopwatch.read() == {}


def test_account_sums_up_by_round() -> None:
    assert ACCOUNT.total(CONTAINER) == (11.0, 22.0)
    assert ACCOUNT.total(IMAGE) == (2.0, 3.0)
    assert ACCOUNT.total(CREATOR) == ()


@pytest.mark.parametrize("each", ALTERNATIVES, ids=lambda each: each.name)
def test_alternatives_end_with_a_running_container(
    each: alternatives.Alternative,
) -> None:
    *before, last = each.steps
    assert last.when == CONTAINER
    assert last.argv[1:3] == ("container", "run")
    order = [CREATOR, IMAGE, CONTAINER]
    times = [order.index(step.when) for step in each.steps]
    assert times == sorted(times)
    for step in before:
        assert "{" not in alternatives.show(step.argv)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1234"),
        (99.5, "99.5"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.1234, "0.123"),
        (0.01234, "0.0123"),
        (0.001234, "0.00123"),
        (0.0, "0"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_table_of_races() -> None:
    assert list(report.race_times(RACES[:1])) == [
        "===================== ==== =========",
        "inodes                1009   min-max",
        "===================== ==== =========",
        "chown -hR             1500 1000-2000",
        "rootfs.mount_idmapped 2.50 2.00-3.00",
        "===================== ==== =========",
    ]


def test_table_of_race_ratios_has_all_sizes() -> None:
    (_, head, *_, row, _) = report.race_ratios(RACES)
    assert head.split() == ["inodes", "1009", "min-max", "300004", "min-max"]
    same = ["0.00175", "0.00150-0.00200"]
    assert row.split() == ["rootfs.mount_idmapped", *same, *same]


def test_table_of_sizes() -> None:
    (*_, row, _) = report.sizes([Size(1000, 2048, 4096, 2, 0.0015)])
    assert row.split() == ["1000", "2.0", "4.0", "2", "1.50"]


def test_table_of_commands() -> None:
    (*_, row, _) = report.commands([Result("pass", (0.02, 0.04), (1.0, 1.0))])
    assert row.split() == ["pass", "30.0", "20.0-40.0"]


def test_table_of_unpacking() -> None:
    (*_, row, _) = report.unpacking([Result("ours", (1.0, 3.0), (0.9, 1.1))])
    assert row.split() == ["ours", "2.00", "1.00-3.00", "1.00", "0.900-1.10"]


def test_table_of_sharing() -> None:
    (_, _, _, view, _, _, copy, _) = report.sharing(SHARING)
    numbers = ["3.00", "2.00-4.00", "4.00", "3.00", "0.0156", "0.0312"]
    assert view.split() == ["overlay", "view,", "of", "3", *numbers]
    assert copy.split()[-2:] == ["256", "512"]


def test_table_of_starts() -> None:
    (*_, row, _) = report.starts([START])
    parts = ["200", "10.0", "1150", "75.0"]
    ours = ["350", "200-500", "0.292", "0.250-0.333"]
    assert row.split() == ["overlay", *parts, "65.0", *ours]


def test_table_of_alternatives() -> None:
    (*_, row, _) = report.alternatives([ACCOUNT])
    assert row.split() == ["at", "boot", "2.50", "16.5", "3.00"]


def test_table_of_an_account_ends_with_commands_of_any_length() -> None:
    (rule, *_, row, _) = report.account(ACCOUNT)
    assert row == "container    15.0 10.0-20.0 ``lxc-userns container run``"
    assert len(rule) < len(row)


def test_table_of_leases() -> None:
    (_, head, *_, row, _) = report.leases(HOLDINGS)
    assert head.split() == ["held", "0", "min-max", "10000", "min-max"]
    assert row.split() == ["release", *["4.00", "3.00-9.00"] * 2]


def test_table_of_neighbours() -> None:
    (*_, row, _) = report.neighbours([NEIGHBOURS])
    assert row.split() == ["370", "300", "45.0", "40.0-50.0"]


def test_table_of_crowds() -> None:
    (*_, row, _) = report.crowds([CROWD])
    assert row.split() == ["2", "6.00", "4.00-8.00", "6.00", "4.00-100"]


def test_plot_has_a_style_for_all_that_is_done_with_a_lease() -> None:
    assert set(plot.LEASE_STYLES) == set(holding.OPERATIONS)
    assert len(set(plot.LEASE_STYLES.values())) == len(plot.LEASE_STYLES)


def test_plot_has_a_style_for_each_contender() -> None:
    assert set(plot.STYLES) == {each.name for each in CONTENDERS}
    assert len(set(plot.STYLES.values())) == len(plot.STYLES)


def test_plot_shows_medians_and_how_far_the_spread_goes() -> None:
    slow, quick = plot.lines(race.column for race in RACES)
    assert (slow.name, quick.name) == ("chown -hR", "rootfs.mount_idmapped")
    assert slow.sizes == (1009, 300004)
    assert slow.medians == [1.5, 1.5]
    assert slow.errors == [[0.5, 0.5], [0.5, 0.5]]


@pytest.fixture
def found() -> dict[str, Any]:
    plain: dict[str, Any] = {
        "machine": {"kernel": "Linux 6.18", "cpus": "2 CPUs"},
        "ready": [each.to_json() for each in RACES],
        "memory": [asdict(Size(1000, 2048, 4096, 2, 0.0015))],
        "commands": [RESULTS[0].to_json()],
        "image": {"archive_bytes": 3, "tree_bytes": 4, "inodes": 5},
        "unpacking": [RESULTS[0].to_json()],
        "sharing": SHARING.to_json(),
        "starts": [START.to_json()],
        "alternatives": [ACCOUNT.to_json()],
        "leases": [each.to_json() for each in HOLDINGS],
        "lease neighbours": [NEIGHBOURS.to_json()],
        "lease crowds": [CROWD.to_json()],
    }
    return plain


def test_pages_say_all_that_was_found(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[object] = []
    for name in ("draw", "draw_leases"):
        monkeypatch.setattr(plot, name, lambda *some: drawn.append(some))
    document.write(found, tmp_path)
    page = (tmp_path / document.PAGE).read_text()
    steps = (tmp_path / document.STEPS).read_text()
    assert "\nLinux 6.18, 2 CPUs\n" in page
    assert "\nLinux 6.18, 2 CPUs\n" in steps
    assert "``tar --extract``" in steps
    for name in found.keys() - {"alternatives"}:
        for title, rows in document.parts(name, found[name]):
            assert "\n".join([title, *document.spaced(rows)]) in page
    assert json.loads((tmp_path / document.JSON).read_text()) == json.loads(
        json.dumps(found)
    )
    assert drawn == [
        (RACES, tmp_path / document.PLOT),
        (HOLDINGS, tmp_path / document.LEASES_PLOT),
    ]


def test_sections_are_renewed_beside_others(found: dict[str, Any]) -> None:
    new = {"machine": {"kernel": "Linux 6.18"}, "commands": ["quicker"]}
    assert document.renewed(found, new) == {**found, "commands": ["quicker"]}


def test_first_run_renews_nothing(found: dict[str, Any]) -> None:
    assert document.renewed({}, found) == found


def test_sections_from_another_machine_say_so(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("draw", "draw_leases"):
        monkeypatch.setattr(plot, name, lambda *_: None)
    machine = {"kernel": "Linux 7.0"}
    kept = {name: found[name] for name in ("leases", "lease crowds")}
    both = document.renewed(found, {"machine": machine, **kept})
    document.write(both, tmp_path)
    page = (tmp_path / document.PAGE).read_text()
    here, there = "\nOn Linux 6.18, 2 CPUs:\n", "\nOn Linux 7.0:\n"
    assert (page.count(here), page.count(there)) == (1, 2)
    title, _ = next(document.parts("leases", found["leases"]))
    assert f"{there}\n{title}" in page
    assert document.read(tmp_path) == json.loads(json.dumps(both))
    # Until they are measured here again.
    back = {"machine": found["machine"], **kept}
    assert document.renewed(both, back) == found


def test_nothing_is_read_where_nothing_was_written(tmp_path: Path) -> None:
    assert document.read(tmp_path) == {}


def test_disk_of_a_hard_link_counts_once(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    file = tmp_path / "tree/file"
    file.write_bytes(b"x" * 100_000)
    before = scratch.disk_bytes(tmp_path)
    (tmp_path / "tree/link").hardlink_to(file)
    assert before > 100_000
    assert scratch.disk_bytes(tmp_path) == before
    assert scratch.disk_bytes(tmp_path, tmp_path / "tree") == before


def test_database_is_made_as_full_as_asked_for(tmp_path: Path) -> None:
    database = Database.made(tmp_path / "made", held=3, room=2)
    assert database.held == 3
    assert len(database.pool) == 5 * SIZE


def test_leases_are_removed_by_the_beginning_of_a_name(tmp_path: Path) -> None:
    database = Database.made(tmp_path / "made", held=3, room=0)
    database.remove("crowd-")
    assert database.held == 3
    database.remove("instance-0000000")
    assert database.held == 0


def test_exhausted_database_has_one_range_left(tmp_path: Path) -> None:
    database = Database.exhausted(tmp_path / "made", held=3)
    with database.store.read() as leases:
        held = [each.uid_start for each in leases.all()]
        (released,) = leases.released("uid")
    assert len(held) == 3
    assert released.start not in held
    assert len(database.pool) == 4 * SIZE


@pytest.fixture
def _nobody_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs in a user namespace, so that libvirt is not asked."""
    processes = ProcessTable(find=lambda: ())
    pool = partial(HostPool, processes=processes)
    monkeypatch.setattr(database, "HostPool", pool)


@pytest.mark.usefixtures("_nobody_runs")
@pytest.mark.parametrize("held", [0, 3])
def test_turns_with_leases_leave_as_many(tmp_path: Path, held: int) -> None:
    shelf = Shelf(tmp_path / "shelf", held, turns=2)
    assert [*shelf.takers] == [*holding.OPERATIONS]
    for _ in range(2):
        for taker in shelf.takers.values():
            assert taker() > 0
        shelf.check()


@pytest.mark.usefixtures("_nobody_runs")
def test_lease_that_was_left_is_noticed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", 3, turns=1)
    shelf.acquire()
    with pytest.raises(RuntimeError, match="4 leases are left of 3"):
        shelf.check()
