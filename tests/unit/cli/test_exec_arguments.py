# SPDX-License-Identifier: Apache-2.0
"""Arguments of container exec: the place where the command begins."""

import pytest

from lxc_userns.cli.exec_arguments import split


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ("container exec web", None),
        ("container exec web id", "id"),
        ("container exec web id -u", "id -u"),
        ("container exec web -- id -u", "id -u"),
        ("container exec web -- id -- -u", "id -- -u"),
        ("container exec web id -- -u", "id -- -u"),
        ("container exec web -t id", "id"),
        ("container exec web -u alice id -u", "id -u"),
        ("container exec web -ualice id", "id"),
        ("container exec web -tu alice id", "id"),
        ("container exec web --user alice id", "id"),
        ("container exec web --us alice id", "id"),
        ("container exec web --user=alice id", "id"),
        ("container exec -t --env A=b web id --env", "id --env"),
        ("container exec web - x", "- x"),
        ("-v --config-file a.conf container exec web ls -v", "ls -v"),
        ("container exec web --config-file a.conf ls -v", "ls -v"),
        ("container exec --help", None),
        ("container exec", None),
    ],
)
def test_command(given: str, command: str | None) -> None:
    argv = given.split()
    own, found = split(argv)
    assert found == ([] if command is None else command.split())
    separator = ["--"] if "--" in argv and argv[len(own)] == "--" else []
    assert [*own, *separator, *found] == argv


@pytest.mark.parametrize(
    "given",
    ["container run web x y", "rootfs shift a -- b", "", "exec a b c d", "--"],
)
def test_other_commands_stay(given: str) -> None:
    assert split(given.split()) == (given.split(), [])
