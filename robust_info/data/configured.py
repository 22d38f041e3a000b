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
# The arguments of `load` have the names of the fields.
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
    config: data configuration: the data set, its location and how to read it.
    progress: whether decoding reports to stderr.
    prefix: prefix of the names of fields in errors.

  Raises:
    ValueError: a field is invalid; the message has its name.
    source.UnavailableError: as for `load`.
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
  """The data configuration of a run, with locations on this machine.

  The locations that a run has stored are those of the machine it was trained
  on. On this machine the first of these applies: the argument; the environment
  (ROBUST_INFO_CACHE; TFDS_DATA_DIR, where it holds the data set); the stored
  location, if there is such a directory; the default of `load`.

  Args:
    config: data configuration of the run.
    data_dir: directory of prepared data.
    cache_dir: directory of decoded arrays.
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
