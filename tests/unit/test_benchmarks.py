# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' arithmetic and their tree, on paper."""

import shlex
import stat
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

import pytest

from benchmarks import (
    contenders,
    debian,
    leases,
    measure,
    plot,
    scratch,
    tables,
    trees,
)
from benchmarks.tables import PLAN, cell, ratios, single
from lxc_userns.leases.running import ProcessTable
from lxc_userns.ports import Ports
from tests.functional.rootfs import golden

CONTENTS = [*chain.from_iterable(map(trees.package, range(1000)))]


def test_tree_names_each_inode_once_and_a_directory_first() -> None:
    made = {PurePosixPath(".")}
    names: list[str] = []
    for inode in CONTENTS:
        path = PurePosixPath(inode.path)
        assert path.parent in made
        if stat.S_ISDIR(inode.mode):
            made.add(path)
        names += filter(None, (inode.path, inode.link))
    assert len(set(names)) == len(names)
    assert [*trees.package(7)] == [*trees.package(7)]


@pytest.mark.parametrize(
    ("what", "least", "most"),
    [
        (lambda each: stat.S_ISDIR(each.mode), 0.05, 0.3),
        (lambda each: stat.S_ISLNK(each.mode), 0.05, 0.3),
        (lambda each: each.owner != 0, 0.005, 0.1),
        (lambda each: bool(each.link), 0.001, 0.02),
        (lambda each: each.mode & stat.S_ISUID, 0.0001, 0.01),
        (lambda each: each.mode & stat.S_ISGID, 0.0001, 0.01),
        (lambda each: golden.CAPABILITY in (each.xattr or ()), 0.0001, 0.01),
        (lambda each: golden.ACCESS in (each.xattr or ()), 0.0001, 0.01),
    ],
    ids=["directories", "symlinks", "owners", "hard links", "set-user-ID",
         "set-group-ID", "capabilities", "ACLs"],
)  # fmt: skip
def test_tree_has_the_mixture_of_a_distribution(
    what: Callable[[trees.Inode], bool], least: float, most: float
) -> None:
    share = sum(map(bool, map(what, CONTENTS))) / len(CONTENTS)
    assert least < share < most


def test_owners_are_all_mapped() -> None:
    guest, _, count = scratch.ENTRY
    assert all(each.owner in range(guest, guest + count) for each in CONTENTS)


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

    def takers() -> dict[str, Callable[[], float]]:
        return {"one": taker("one", 1.0, 2.0), "two": taker("two", 3.0, 8.0)}

    times = measure.take_turns(takers(), 2, "unit")
    assert taken == ["sync", "one", "sync", "two"] * 2
    assert times == {"one": [1.0, 2.0], "two": [3.0, 8.0]}
    # What is taken before the first round does not count.
    times = measure.take_turns(takers(), 1, "unit", warm_up=True)
    assert times == {"one": [2.0], "two": [8.0]}


def test_ratios_are_taken_round_by_round() -> None:
    times = {"one": [1.0, 10.0, 2.0], "two": [2.0, 5.0, 6.0]}
    one, two = ratios("unpacking", times)
    assert one[3:] == ("3", "1.00", "1.00", "1.00")
    assert two == ("unpacking", "two", "ratio", "3", "2.00", "0.500", "3.00")
    with pytest.raises(ValueError, match="shorter"):
        [*ratios("unpacking", {"one": [1.0], "two": [1.0, 2.0]})]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1234"), (99.5, "99.5"), (12.34, "12.3"), (1.234, "1.23"),
     (0.1234, "0.123"), (0.01234, "0.0123"), (0.001234, "0.00123"),
     (0.0, "0"), (1234, "1234")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    (found,) = single("image", "sysvinit", MiB_on_disk=value)
    assert found == ("image", "sysvinit", "MiB on disk", "1", text, "", "")


READY = [
    cell("ready", name, column, values=values, by=1000)
    for name, values in (
        ("rootfs.mount_idmapped", (0.002, 0.003)),
        ("chown -hR", (1.0, 2.0)),
    )
    for column in ("1009", "300004")
]


def test_table_has_medians_and_extremes() -> None:
    once = single("ready", "chown -hR", again=2.0)
    assert [*tables.lines_of([*READY[::2], *once])] == [
        "",
        "Milliseconds to make a root filesystem ready",
        "",
        "===================== ==== ========= =====",
        "inodes                1009   min-max again",
        "===================== ==== ========= =====",
        "rootfs.mount_idmapped 2.50 2.00-3.00",
        "chown -hR             1500 1000-2000  2.00",
        "===================== ==== ========= =====",
    ]


def test_pages_and_numbers_are_renewed_by_table(tmp_path: Path) -> None:
    assert tables.read(tmp_path) == []
    step = cell("step: at boot", "image: ``tar``", "seconds", values=[2.0])
    earlier = tables.renewed([], [*READY, step], "Linux 6.18")
    tables.write(earlier, tmp_path)
    assert tables.read(tmp_path) == earlier
    steps = (tmp_path / tables.STEPS).read_text()
    assert "On Linux 6.18:\n\nAt boot\n" in steps
    assert "image: ``tar``" in steps
    commands = cell("commands", "pass", "ms", values=[20.0, 30.0])
    both = tables.renewed(earlier, [commands], "Linux 7.0")
    tables.write(both, tmp_path)
    page = (tmp_path / tables.PAGE).read_text()
    here, there = "\nOn Linux 6.18:\n\nMilli", "\nOn Linux 7.0:\n\nCommand"
    assert 0 < page.index(here) < page.index(there)
    assert {*earlier, commands} < {*both}
    # Until it is measured here again.
    again = tables.renewed(both, [commands], "Linux 6.18")
    assert {m.column for m in again if m.table == "machine"} == {"Linux 6.18"}


def test_pages_of_the_documentation_are_those_of_its_numbers(
    tmp_path: Path,
) -> None:
    place = Path(__file__).parents[2] / "doc/source/performance"
    tables.write(tables.read(place), tmp_path)
    for name in (tables.PAGE, tables.STEPS, tables.CSV):
        assert (tmp_path / name).read_text() == (place / name).read_text()


def test_plot_shows_the_slowest_first() -> None:
    slow, quick = plot.rows(READY, "ready").items()
    assert (slow[0], quick[0]) == ("chown -hR", "rootfs.mount_idmapped")
    assert [each.column for each in slow[1]] == ["1009", "300004"]


def test_plots_have_a_style_for_each_row() -> None:
    place = Path(__file__).parents[2] / "doc/source/performance"
    found = tables.read(place)
    for table, styles in PLAN["styles"].items():
        assert set(plot.rows(found, table)) == set(styles)
        assert len(set(styles.values())) == len(styles)


def test_others_are_compared_with_chown(tmp_path: Path) -> None:
    place = scratch.Scratch(tmp_path)
    made = [*contenders.contenders(str(tmp_path), place)]
    assert made[0].name == "chown -hR"
    names = [each.name for each in made]
    assert {*names} <= {*PLAN["styles"]["ready"]}
    assert len({*names}) == len(names) >= 6


def test_watch_takes_the_time_and_gives_the_result() -> None:
    class Service:
        def start(self, name: str, *, times: int) -> str:
            return name * times

    service, parts = Service(), debian.Parts()
    debian.watch(service, "start", parts)
    assert service.start("web", times=2) == "webweb"
    assert parts["start"] > 0.0


def test_libvirts_part_is_told_from_ours() -> None:
    turns = [
        {"prepare": 0.1, "define": 0.01, "start": 0.8, "verify": 0.05,
         "total": 1.0},
        {"prepare": 0.3, "define": 0.01, "start": 1.5, "verify": 0.1,
         "total": 2.0},
    ]  # fmt: skip
    *_, row, _ = tables.lines_of([*debian.sum_up("overlay", turns)])
    told = ["200", "10.0", "1150", "75.0", "65.0"]
    ours = ["350", "200-500", "0.292", "0.250-0.333"]
    assert row.split() == ["overlay", *told, *ours]


def test_alternatives_sum_up_their_steps() -> None:
    rounds = {"at boot": [[2.0, 1.0, 10.0], [3.0, 2.0, 20.0]]}
    cells = [*debian.account(rounds, {"at boot": 3 << 20})]
    found = {each.column: each.median for each in cells[:3]}
    assert found == {
        "once per image": "2.50",
        "once per container": "16.5",
        "MiB per container": "3.00",
    }
    assert [each.median for each in cells[3:]] == ["2.50", "1.50", "15.0"]


@pytest.mark.parametrize("name", debian.ALTERNATIVES)
def test_alternatives_end_with_a_running_container(name: str) -> None:
    *before, last = debian.ALTERNATIVES[name]
    assert last.startswith("container: {program} container run {name} ")
    order = ["creator:", "image:", "container:"]
    times = [order.index(each.split()[0]) for each in (*before, last)]
    assert times == sorted(times)
    for step in before:
        assert "{" not in debian.show(step)
        assert shlex.split(step)


def test_disk_of_several_trees_is_their_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[list[str]] = []

    def run(argv: list[str]) -> str:
        said.append(argv)
        return "9\ta\n8\ttotal\n"

    monkeypatch.setattr(scratch, "run", run)
    assert scratch.disk_bytes(tmp_path, tmp_path / "tree") == 8
    assert said[0][-2:] == [str(tmp_path), str(tmp_path / "tree")]


@pytest.fixture
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no process be in a user namespace, so that libvirt is not asked."""
    processes = ProcessTable(find=lambda: ())
    ports = partial(Ports, processes=processes)
    monkeypatch.setattr(leases, "Ports", ports)


def test_leases_are_removed_by_the_beginning_of_a_name(tmp_path: Path) -> None:
    made = leases.fill(leases.make_allocator(tmp_path / "made", 3), 3)
    for prefix, left in (("bench", 3), ("instance-", 0)):
        leases.remove(made, prefix)
        with made.leases.read() as held:
            assert len(held.all()) == left


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize("held", [0, 3])
def test_turns_with_leases_leave_as_many(tmp_path: Path, held: int) -> None:
    takers = leases.make_takers(tmp_path / "all", held, turns=2)
    assert {*takers} == {*PLAN["styles"]["leases"]}
    for _ in range(2):
        for taker in takers.values():
            assert taker() > 0


@pytest.mark.usefixtures("_nothing_runs")
def test_lease_that_was_left_is_noticed(tmp_path: Path) -> None:
    takers = leases.make_takers(tmp_path / "all", 3, turns=1)
    leases.acquire(leases.make_allocator(tmp_path / "all/roomy", 8), "another")
    with pytest.raises(RuntimeError, match="4 leases are left of 3"):
        takers["release"]()
