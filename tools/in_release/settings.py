# SPDX-License-Identifier: Apache-2.0
"""The host's way to packages: settings of its resolver, of apt and of pip."""

import configparser
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from in_release.releases import Distribution

#: Files that name servers and authorities.
FILES = ["/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"]
#: Credentials of apt.
APT_AUTH = ["/etc/apt/auth.conf", "/etc/apt/auth.conf.d"]
#: Options of apt that tell how to fetch, not what, and name no program.
APT_OPTION = re.compile(
    r"Acquire::(http|https|Check-\w|Force|Retries)(?!.*Proxy-Auto-?Detect)"
)
#: Files of pip's settings, the last of which counts.
PIP_FILES = [
    "/etc/xdg/pip/pip.conf",
    "/etc/pip.conf",
    "~/.pip/pip.conf",
    "~/.config/pip/pip.conf",
]
#: Variables that tell how to fetch, how to speak, and who asks.
VARIABLE = re.compile(
    r"CI|TERM|LANG|LANGUAGE|LC_\w+|PIP_(?!FIND_LINKS|CONFIG_FILE)\w+"
    r"|(https?|ftp|all|no)_proxy"
    r"|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE",
    re.IGNORECASE,
)
#: Variables that name a file of authorities.
AUTHORITIES = [
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_settings(
    root: Path,
    apt_auth: Sequence[str] = APT_AUTH,
    pip_files: Sequence[str] = PIP_FILES,
) -> None:
    """Write the host's settings into a root filesystem.

    :param apt_auth: files and directories of apt's credentials.
    :param pip_files: as for :func:`read_pip_settings`.
    """
    pip = read_pip_settings(pip_files)
    authorities = [os.environ.get(name) for name in AUTHORITIES]
    authorities += [options.get("cert") for options in pip.values()]
    for name in {*FILES, *filter(None, authorities)}:
        copy_file(Path(name), root)
    for name in apt_auth:
        copy_file(Path(name), root)
    options = root / "etc/apt/apt.conf.d/99host"
    options.parent.mkdir(parents=True, exist_ok=True)
    options.write_text("".join(list_apt_options()))
    with (root / "etc/pip.conf").open("w") as file:
        pip.write(file)


def copy_file(path: Path, root: Path) -> None:
    """Copy a file or directory of the host, if there is one."""
    copy = root / path.relative_to("/")
    if path.is_dir():
        shutil.copytree(path, copy, dirs_exist_ok=True)
    elif path.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Perhaps a link to somewhere outside.
        copy.unlink(missing_ok=True)
        shutil.copy(path, copy)


def list_apt_options() -> Iterator[str]:
    """List the host's options of apt that a release's apt is to have too."""
    argv = ["apt-config", "dump"]
    dump = subprocess.run(argv, capture_output=True, text=True, check=True)
    for line in dump.stdout.splitlines(keepends=True):
        if APT_OPTION.match(line):
            yield line


def read_pip_settings(
    pip_files: Sequence[str] = PIP_FILES,
) -> configparser.RawConfigParser:
    """Read pip's files of settings, without directories of the host.

    :param pip_files: those beside the one that the environment names.
    """
    files = [Path(name).expanduser() for name in pip_files]
    files.append(Path(os.environ.get("PIP_CONFIG_FILE", os.devnull)))
    settings = configparser.RawConfigParser()
    settings.read(files)
    for options in settings.values():
        for name, value in list(options.items()):
            kept = [word for word in value.split() if not is_local(word)]
            if name == "cert" or kept == value.split():
                continue
            options[name] = " ".join(kept)
            if not kept:
                del options[name]
    return settings


def is_local(location: str) -> bool:
    """Tell whether a value names a file or directory."""
    return location.startswith(("/", "file:", "~"))


def make_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Choose of the caller's environment what means something in a release."""
    kept = {
        name: value
        for name, value in environment.items()
        if VARIABLE.fullmatch(name)
    }
    return kept | {"HOME": "/root", "PATH": PATH}


def find_mirror(distribution: Distribution) -> str:
    """Return the mirror that the host has of a distribution.

    :returns: empty if it has none: then debootstrap knows one.
    """
    argv = ["apt-get", "indextargets", "Created-By: Packages"]
    argv += ["--format", "$(LABEL) $(COMPONENT) $(REPO_URI)"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=False)
    for line in listed.stdout.splitlines():
        label, component, uri = line.rsplit(" ", 2)
        if (label.lower(), component) == (distribution.name, "main"):
            return uri.rstrip("/")
    return ""
