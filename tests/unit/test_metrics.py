# SPDX-License-Identifier: Apache-2.0
"""Metrics in the text format of Prometheus."""

import os
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lxc_userns import metrics
from lxc_userns.cli import main
from lxc_userns.cli.metrics import Metrics
from lxc_userns.exceptions import (
    IsolationError,
    LibvirtError,
    LibvirtUnreachableError,
    RootfsError,
)
from lxc_userns.instances.failures import Failure, Failures
from tests.unit.manager.conftest import pool, tmp_path, world
from tests.unit.manager.world import World, failing, run

__all__ = ["pool", "tmp_path", "world"]

Samples = dict[tuple[str, ...], float]


def parse(text: str) -> Samples:
    return {
        (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))):
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }  # fmt: skip


def look(world: World) -> Samples:
    text, error = metrics.render(world.services)
    assert error is None
    return parse(text)


def test_of_a_running_container(world: World) -> None:
    run(world)
    world.guests.add("other", active=False, uuid="")
    store = world.services.store
    begin = store.last_written("web1")
    assert begin is not None
    world.reach(clock=lambda: begin + 90.0)
    found = look(world)
    containers = "lxc_userns_containers"
    assert found[containers, "mode=private", "state=running",
                 "strategy=chown"] == 1  # fmt: skip
    assert sum(v for k, v in found.items() if k[0] == containers) == 2
    seconds = "lxc_userns_container_seconds_since_verified", "name=web1"
    assert found[seconds] == pytest.approx(90)
    assert found[("lxc_userns_libvirt_up",)] == 1
    assert found[("lxc_userns_damaged_records",)] == 0
    # What is not running was not verified, as far as it matters.
    world.guests.destroy("web1")
    assert seconds not in look(world)


def test_each_verification_counts(world: World, tmp_path: Path) -> None:
    run(world)
    record = next(tmp_path.rglob("web1.json"))
    text = record.read_text()
    os.utime(record, (1000, 1000))
    world.reach(clock=lambda: 5000.0)
    seconds = "lxc_userns_container_seconds_since_verified", "name=web1"
    assert look(world)[seconds] == 4000
    world.report(started=False)
    assert look(world)[seconds] == 4000
    world.manager.verify("web1", started=False)
    assert record.stat().st_mtime > 5000
    assert look(world)[seconds] == 0  # Also if the clock was set back.
    assert record.read_text() == text


def test_leases(pool: World) -> None:
    pool.manager.prepare(pool.request)
    found = look(pool)
    states = {k[1]: v for k, v in found.items() if k[0] == "lxc_userns_leases"}
    assert states == {"state=held": 1, "state=free": 1, "state=waiting": 0}


def test_no_pool(world: World) -> None:
    found = look(world)
    assert found["lxc_userns_leases", "state=held"] == 0
    assert ("lxc_userns_leases", "state=free") not in found


def test_without_libvirt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world)
    error = LibvirtUnreachableError("connect to lxc:///", "it is not there")
    monkeypatch.setattr(world.guests, "list", failing(error))
    text, told = metrics.render(world.services)
    assert told is error
    found = parse(text)
    assert found[("lxc_userns_libvirt_up",)] == 0
    assert found["lxc_userns_containers", "mode=private", "state=unknown",
                 "strategy=chown"] == 1  # fmt: skip


def test_a_damaged_record(world: World, tmp_path: Path) -> None:
    run(world)
    next(tmp_path.rglob("web1.json")).write_text("{")
    assert look(world)[("lxc_userns_damaged_records",)] == 1


def test_failures(world: World) -> None:
    def counted() -> dict[str, float]:
        return {
            name[1].removeprefix("kind="): value
            for name, value in look(world).items()
            if name[0] == "lxc_userns_failures_total"
        }

    assert counted() == dict.fromkeys(Failure, 0)
    world.inspect(compare=lambda *_, **__: ["it is another"])
    with pytest.raises(IsolationError):
        run(world)
    assert counted() == {"preparation": 0, "difference": 1, "inspection": 0}
    world.strategy.prepare_tree = failing(RootfsError("/x", "no"))  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(RootfsError):
            run(world)
    assert counted() == {"preparation": 2, "difference": 1, "inspection": 0}


def test_failures_are_of_this_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chmod(tmp_path, 0o700)
    failures = Failures(str(tmp_path))
    failures.add(Failure.INSPECTION)
    assert failures.read() == {Failure.INSPECTION: 1}
    where = "lxc_userns.instances.failures.read_boot_id"
    with monkeypatch.context() as patch:
        patch.setattr(where, lambda: "another")
        assert failures.read() == {}
        failures.add(Failure.DIFFERENCE)
        assert failures.read() == {Failure.DIFFERENCE: 1}
    assert [each.name for each in tmp_path.iterdir()] == ["failures.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "{}", '{"boot_id": 1}', "\xff"]
)
def test_what_is_no_count(tmp_path: Path, text: str) -> None:
    os.chmod(tmp_path, 0o700)
    (tmp_path / "failures.json").write_text(text, encoding="latin-1")
    failures = Failures(str(tmp_path))
    assert failures.read() == {}
    failures.add(Failure.DIFFERENCE)
    assert failures.read() == {Failure.DIFFERENCE: 1}


def test_a_count_that_cannot_be_written_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    failures = Failures(f"{tmp_path}/file/state")
    with (
        pytest.raises(OSError, match="no"),
        failures.counting(Failure.PREPARATION),
    ):
        raise OSError("no")
    assert failures.read() == {}


def call(error: LibvirtError | None, *arguments: str) -> int:
    """Run the command, with metrics of one line and this error."""

    class Rendered(Metrics):
        def render(self) -> tuple[str, LibvirtError | None]:
            return "x 1\n", error

    def make() -> main.LxcUserns:
        program = main.LxcUserns()
        program.command_manager.add_command("metrics", Rendered)
        return program

    return main.main(["metrics", *arguments], make)


def test_the_command_replaces_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lxc.prom"
    file.write_text("of before")
    output = ("--output", str(file))
    umask = os.umask(0o077)
    try:
        assert call(None, *output) == 0
    finally:
        os.umask(umask)
    assert file.read_text() == "x 1\n"
    assert file.stat().st_mode & 0o7777 == 0o644
    assert [*tmp_path.iterdir()] == [file]
    error = LibvirtUnreachableError("connect to lxc:///", "not there")
    file.unlink()
    assert call(error, *output) == 4
    assert file.read_text() == "x 1\n"
    assert call(error) == 4
    out, err = capsys.readouterr()
    assert out == "x 1\n"
    assert err.count("error: libvirt: connect to lxc:///: not there\n") == 2
    assert call(error, "--output", f"{tmp_path}/no/x.prom") == 1


def test_without_prometheus_client(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delitem(sys.modules, "lxc_userns.metrics")
    monkeypatch.delattr("lxc_userns.metrics")
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    assert main.main(["metrics"]) == 1
    assert "prometheus-client" in capsys.readouterr().err
