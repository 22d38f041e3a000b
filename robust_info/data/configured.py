"""From a configuration to a `DataSource`, here or on another machine."""

import dataclasses
import os
import pathlib
import re

from robust_info import config as config_lib
from robust_info.data import loading, prepared, source

_FIELDS = "|".join(
  field.name for field in dataclasses.fields(config_lib.DataConfig)
)
# The arguments of `load` are named as the fields.
_ARGUMENT = re.compile(
  rf"(?<=Expected )({_FIELDS})\b|(?<![\w.-])({_FIELDS})(?==)"
)


def from_config(
  config: config_lib.DataConfig,
  *,
  progress: bool = True,
  prefix: str = "config.data.",
) -> source.DataSource:
  """Loads the data of a configuration.

  Args:
    config: which data, where they lie and how they are read.
    progress: whether decoding reports to stderr.
    prefix: what errors put before the names of fields.

  Raises:
    ValueError: a field that does not hold, by its name.
    source.UnavailableError: as `load`.
  """
  try:
    return loading.load(
      config.name,
      data_dir=config.data_dir,
      validation_fraction=config.validation_fraction,
      validation_seed=config.validation_seed,
      cache_dir=config.cache_dir,
      streaming=config.streaming,
      progress=progress,
    )
  except (ValueError, source.UnavailableError) as error:
    text = _ARGUMENT.sub(rf"{prefix}\g<0>", str(error))
    raise type(error)(text) from error


def relocated(
  config: config_lib.DataConfig,
  *,
  data_dir: str | None = None,
  cache_dir: str | None = None,
  streaming: bool | None = None,
) -> config_lib.DataConfig:
  """The data of a run, found on this machine.

  The places that a run has stored are those of the machine it was trained on.
  Here counts, in this order: the argument; the environment (ROBUST_INFO_CACHE;
  TFDS_DATA_DIR, where it holds the data set); the stored place, if there is
  such a directory; the default of `load`.

  Args:
    config: of a run.
    data_dir: where prepared data lie.
    cache_dir: where decoded arrays go.
    streaming: whether training images stay encoded.
  """
  stored = {
    name: path if path is not None and _is_directory(path) else None
    for name, path in (
      ("data_dir", config.data_dir),
      ("cache_dir", config.cache_dir),
    )
  }
  if os.environ.get("TFDS_DATA_DIR") and prepared.find(
    prepared.parse(config.name), prepared.default_data_dir()
  ):
    stored["data_dir"] = None
  if os.environ.get("ROBUST_INFO_CACHE"):
    stored["cache_dir"] = None
  return dataclasses.replace(
    config,
    data_dir=data_dir or stored["data_dir"],
    cache_dir=cache_dir or stored["cache_dir"],
    streaming=config.streaming if streaming is None else streaming,
  )


def _is_directory(path: str) -> bool:
  return pathlib.Path(path).expanduser().is_dir()
