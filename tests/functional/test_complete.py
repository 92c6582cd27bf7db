# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns complete``, sourced by a bash that has nothing else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.functional.command_line import call

#: Of containers; other domains of libvirt can have any.
NAMES = "web1 web2 db-1 '$(touch evil)' 'a b' '*' --all -x .y"

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None, reason="no bash is installed"
)


@pytest.fixture(scope="module")
def script() -> str:
    """Output of the command."""
    done = call("complete")
    assert (done.code, done.err) == (0, "")
    return done.out


def complete(script: str, *words: str) -> list[str]:
    """Return what bash would offer for the last word."""
    line = " ".join(f"'{word}'" for word in ("lxc-userns", *words))
    asked = (
        "lxc-userns() { [[ $* == 'container list -f value -c name' ]] && "
        f"printf '%s\\n' {NAMES}; }}; "
        f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; "
        "complete -p lxc-userns >&2; _lxc_userns; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", f"{script}\n{asked}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.stderr == "complete -F _lxc_userns lxc-userns\n"
    return done.stdout.splitlines()


def test_commands_are_completed(script: str) -> None:
    assert "container" in complete(script, "")
    assert complete(script, "cont") == ["container"]
    assert set(complete(script, "container", "")) >= {
        "run", "exec", "logs", "restart", "verify",
    }  # fmt: skip
    assert complete(script, "container", "re") == ["restart"]
    assert complete(script, "host", "hook", "") == ["install", "remove"]


def test_options_are_completed(script: str) -> None:
    assert complete(script, "container", "stop", "--ti") == ["--timeout"]
    options = complete(script, "container", "run", "--")
    assert {"--rootfs", "--dry-run", "--hostname"} <= set(options)
    # Which is only there to be refused.
    assert "--vcpus" not in options
    assert complete(script, "rootfs", "shift", "--dry") == ["--dry-run"]
    assert "--follow" in complete(script, "container", "logs", "-")


@pytest.mark.parametrize(
    "option",
    ["-a[$(echo evil >&2)]", "--a[`echo evil >&2`]", "-[0$(echo evil >&2)]"],
)
@pytest.mark.parametrize("rest", [("=", ""), ("",), ("x", "")])
def test_what_is_typed_is_not_evaluated(
    option: str, rest: tuple[str, ...], script: str
) -> None:
    """It may have been copied from somewhere, and is not entered yet."""
    for before in (("container", "stop"), ("container",), ()):
        complete(script, *before, option, *rest)
        complete(script, *before, "--timeout", option, *rest)


def test_files_are_completed(script: str) -> None:
    assert "/etc/passwd" in complete(script, "rootfs", "shift", "/etc/passw")


def type_in(script: str, place: Path, *lines: str) -> None:
    """Type into a bash on a terminal, which has the script, and end it."""
    rc = place / "rc"
    rc.write_text(f"{script}\nlxc-userns() {{ :; }}\nPS1=READY\n")
    master, slave = os.openpty()
    with subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", rc, "-i"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={"PATH": "/usr/bin:/bin", "TERM": "dumb"},
        start_new_session=True,
    ) as shell:
        os.close(slave)
        try:
            for line in (*lines, "exit"):
                # What is typed before belongs to no one yet.
                said = b""
                while b"READY" not in said:
                    said += os.read(master, 4096)
                os.write(master, f"{line}\n".encode())
            shell.wait(30)
        finally:
            shell.kill()
            os.close(master)


@pytest.mark.parametrize(
    "name", ["$(>evil).tar", "a`>evil`", "a;>evil", "a b"]
)
def test_a_file_of_somebody_else(
    name: str, script: str, tmp_path: Path
) -> None:
    """It is completed as a name; the shell does not do what it says."""
    place = tmp_path / "files"
    place.mkdir()
    (place / name).touch()
    type_in(
        script, tmp_path, f"cd {place}", "lxc-userns rootfs unpack \t; >done"
    )
    assert {each.name for each in place.iterdir()} == {name, "done"}
    words = ("rootfs", "unpack", f"{place}/{name[0]}")
    assert complete(script, *words) == [f"{place}/{name}"]


def test_names_of_containers_are_completed(script: str) -> None:
    names = ["web1", "web2", "db-1"]
    for command in ("logs", "show", "exec", "stop", "wait", "autostart"):
        assert complete(script, "container", command, "") == names
        assert complete(script, "container", command, "w") == names[:2]
    assert complete(script, "container", "stop", "web1", "d") == ["db-1"]
    # Of these there is one, and of one that is run none yet.
    for command in ("logs", "run"):
        assert "web1" not in complete(script, "container", command, "x", "w")
    assert "web1" not in complete(script, "container", "run", "w")


@pytest.mark.parametrize(
    "option", [("--lines", "5"), ("--lines", "=", "5"), ("--follow",)]
)
def test_names_after_an_option(script: str, option: tuple[str, ...]) -> None:
    found = complete(script, "container", "logs", *option, "w")
    assert found == ["web1", "web2"]
    before = ("-v", "--config-file", "/x", "container", "logs", *option)
    assert complete(script, *before, "d") == ["db-1"]
    assert complete(script, *before, "--fo") == ["--follow"]


def test_values_of_options_are_completed(script: str) -> None:
    run = ("container", "run", "web", "--strategy")
    assert complete(script, *run, "") == [
        "auto", "idmapped", "overlay", "chown",
    ]  # fmt: skip
    assert complete(script, *run, "=", "c") == ["chown"]
    assert complete(script, *run, "chown", "--rootf") == ["--rootfs"]
    assert "chown" in complete(script, *run, "=")
    found = complete(script, "container", "run", "--rootfs", "/etc/passw")
    assert "/etc/passwd" in found
