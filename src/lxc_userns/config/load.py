# SPDX-License-Identifier: Apache-2.0
"""Configuration files, read as every program of this package reads them."""

from __future__ import annotations

from oslo_config import cfg

from lxc_userns.config.options import register_opts
from lxc_userns.exceptions import ConfigError

_PROJECT = "lxc-userns"


def load_conf(files: list[str] | None) -> cfg.ConfigOpts:
    """Read the configuration.

    :param files: files instead of the usual ones.
    :raises ConfigError: if a file is missing or malformed.
    """
    conf = cfg.ConfigOpts()
    register_opts(conf)
    try:
        conf([], project=_PROJECT, prog=_PROJECT, default_config_files=files)
    except (cfg.Error, OSError, UnicodeDecodeError) as err:
        names = ", ".join(files or conf.default_config_files or ())
        raise ConfigError("--config-file", names, str(err)) from err
    return conf
