# SPDX-License-Identifier: Apache-2.0
"""Commands on several containers, or on all of them."""

from pathlib import Path

import libvirt
import pytest

from tests.functional import foreign, images
from tests.functional.command_line import BASE, COUNT, CommandLine, Result
from tests.functional.containers import SLEEP, pid_of, run
from tests.functional.containers import cli as cli

pytestmark = pytest.mark.needs("containers")

NOW = ("--timeout", "0")


@pytest.fixture
def pair(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> CommandLine:
    """The program, with the containers ``one`` and ``two``."""
    run(cli, "one", busybox_rootfs)
    other = tmp_path / "other"
    images.make_busybox(other)
    run(cli, "two", other)
    return cli


def states(cli: CommandLine) -> dict[str, str]:
    return {
        each["name"]: each["state"] for each in cli.json("container", "list")
    }


def errors(done: Result) -> list[str]:
    assert "Traceback" not in done.err
    return [line.removeprefix("error: ") for line in done.err.splitlines()]


def test_a_life_of_several(pair: CommandLine) -> None:
    assert pair("container", "stop", "one", "two", *NOW).code == 0
    assert states(pair) == {"one": "stopped", "two": "stopped"}
    started = pair.json("container", "start", "one", "two")
    assert [each["name"] for each in started] == ["one", "two"]
    assert {each["state"] for each in started} == {"running"}
    # Keys are those of one, which is no list.
    assert [*pair.json("container", "show", "one")] == [*started[0]]
    verified = pair.json("container", "verify", "--all")
    assert [(each["name"], each["init_pid"]) for each in verified] == [
        (each["name"], each["init_pid"]) for each in started
    ]
    # Options may stand between names; a name twice is once.
    again = pair.json("container", "restart", "two", *NOW, "one", "two")
    assert [each["name"] for each in again] == ["two", "one"]
    assert {each["init_pid"] for each in again}.isdisjoint(
        {each["init_pid"] for each in started}
    )
    for each in again:
        uid_map = Path(f"/proc/{each['init_pid']}/uid_map").read_text()
        assert [*map(int, uid_map.split())] == [0, BASE, COUNT]
    assert pair("container", "destroy", "--all").code == 0
    assert states(pair) == {}
    assert pair.json("container", "verify", "--all") == []


def test_all_are_those_that_it_is_about(
    pair: CommandLine,
    shared_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """Containers of others are never among them."""
    with foreign.running(libvirt_connection, "theirs", shared_rootfs):
        assert pair("container", "stop", "two", *NOW).code == 0
        one = pid_of(pair, "one")
        (started,) = pair.json("container", "start", "--all")
        assert started["name"] == "two"
        assert pid_of(pair, "one") == one
        assert pair("container", "stop", "two", *NOW).code == 0
        (restarted,) = pair.json("container", "restart", "--all", *NOW)
        assert restarted["name"] == "one"
        (verified,) = pair.json("container", "verify", "--all")
        assert verified["name"] == "one"
        assert pair("container", "stop", "--all", *NOW).code == 0
        assert pair("container", "destroy", "--all").code == 0
        assert states(pair) == {"theirs": "running"}


def test_one_failure_keeps_no_other_from_its_turn(pair: CommandLine) -> None:
    done = pair("container", "stop", "absent", "one", "also", "two", *NOW)
    assert done.code == 5
    assert [each.split(":")[0] for each in errors(done)] == ["absent", "also"]
    assert states(pair) == {"one": "stopped", "two": "stopped"}
    # What failed is worse than what is not there.
    pair.json("container", "start", "two")
    done = pair("container", "start", "absent", "two", "one", "-f", "json")
    assert done.code == 1
    assert [each.split(": ")[0] for each in errors(done)] == ["absent", "two"]
    assert states(pair) == {"one": "running", "two": "running"}
    # So is what cannot be looked at.
    assert pair("container", "stop", "one", *NOW).code == 0
    done = pair("container", "verify", "absent", "one", "two", "-f", "json")
    assert done.code == 4
    assert errors(done)[1] == "one: is not running"
    # A damaged record is told of by name.
    record = pair.state / "instances/one.json"
    text = record.read_text()
    record.write_text("{")
    try:
        done = pair("container", "stop", "--all", *NOW)
        assert (done.code, len(errors(done))) == (1, 1)
        assert errors(done)[0].startswith("one: ")
        assert pair("container", "show", "two").code == 0
    finally:
        record.write_text(text)


def test_what_is_so_already_is_ignored(
    pair: CommandLine, busybox_rootfs: Path
) -> None:
    one = pid_of(pair, "one")
    assert "is running already" in pair("container", "start", "one").error()
    shown = pair.json("container", "start", "--ignore", "one")
    assert shown["init_pid"] == one
    assert pair("container", "start", "--ignore", "absent").error(5)
    for verb in ("stop", "destroy"):
        assert pair("container", verb, "absent").error(5)
        assert pair("container", verb, "--ignore", "absent").code == 0
    assert pair("container", "destroy", "--ignore", "one", "one").code == 0
    assert states(pair) == {"two": "running"}


def test_one_is_replaced(pair: CommandLine, busybox_rootfs: Path) -> None:
    before = pair.json("container", "show", "one")
    options = ("--rootfs", busybox_rootfs, "--init", SLEEP)
    taken = pair("container", "run", "one", *options).error()
    assert "the name is taken" in taken
    # What can be seen to fail leaves the old one.
    bad = ("--rootfs", busybox_rootfs / "absent", "--init", SLEEP)
    assert pair("container", "run", "one", "--replace", *bad).code == 1
    absent = ("--network", "bridge:absent0")
    replaced = ("container", "run", "one", "--replace", *options)
    assert pair(*replaced, *absent).code == 1
    assert pid_of(pair, "one") == before["init_pid"]
    shown = pair.json(*replaced, "--memory", "64")
    assert shown["uuid"] != before["uuid"]
    assert not Path(f"/proc/{before['init_pid']}").exists()
    assert states(pair) == {"one": "running", "two": "running"}
    # Nothing need be there to be replaced.
    assert pair("container", "destroy", "one").code == 0
    pair.json(*replaced)


def test_bad_input(cli: CommandLine) -> None:
    for verb in ("start", "stop", "restart", "destroy", "verify"):
        for arguments in ((), ("--all", "one")):
            error = cli("container", verb, *arguments).error(2)
            assert "expected either NAME or --all" in error
    domain_of_others = cli("container", "destroy", "--ignore", "a/b").error()
    assert "not a name" in domain_of_others
