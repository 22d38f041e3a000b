"""From a configuration to a `DataSource`, here or on another machine."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping

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
  flags: Mapping[str, str] | None = None,
) -> source.DataSource:
  """Loads the data of a configuration.

  Args:
    config: data configuration: the data set, its location and how to read it.
    progress: whether decoding reports to stderr.
    flags: names of fields in errors, where they are not `config.data.FIELD`:
      those of the flags of a program that set the fields.

  Raises:
    ValueError: a field is invalid; the message has its name.
    source.UnavailableError: as for `load`; or data of one's own have another
      version than the configuration.
  """
  flags = flags or {}

  def shown(field: str) -> str:
    return flags.get(field, f"config.data.{field}")

  try:
    found = loading.load(
      config.name,
      data_dir=config.data_dir,
      path=config.path,
      image_size=config.image_size,
      label_column=config.label_column,
      validation_fraction=config.validation_fraction,
      validation_seed=config.validation_seed,
      cache_dir=config.cache_dir,
      streaming=config.streaming,
      progress=progress,
    )
  except (ValueError, source.UnavailableError) as error:
    text = _ARGUMENT.sub(lambda match: shown(match[0]), str(error))
    raise type(error)(text) from error
  if config.version not in (None, found.version):
    raise source.UnavailableError(
      f"Expected {shown('version')}={config.version}, got version "
      f"{found.version} in {shown('path')}={config.path}: the data have "
      "changed; give the place of the data of that version, or start a new run."
    )
  return found


def relocated(
  config: config_lib.DataConfig,
  *,
  data_dir: str | None = None,
  path: str | None = None,
  cache_dir: str | None = None,
  streaming: bool | None = None,
) -> config_lib.DataConfig:
  """The data configuration of a run, with locations on this machine.

  The locations that a run has stored are those of the machine it was trained
  on. On this machine the first of these applies: the argument; the environment
  (ROBUST_INFO_CACHE; TFDS_DATA_DIR, where it holds the data set); the stored
  location, if there is such a directory; the default of `load`. Data of one's
  own lie in `path`, or in the stored path; they must be the same data.

  Args:
    config: data configuration of the run.
    data_dir: directory of prepared data.
    path: file or folder with data of one's own.
    cache_dir: directory of decoded arrays.
    streaming: whether training images stay encoded.

  Raises:
    ValueError: an argument has no effect on data of this name.
  """
  is_own = config.name in config_lib.OWN
  for name, value in (
    ("path", None if is_own else path),
    ("data_dir", data_dir if is_own else None),
    ("streaming", streaming if is_own else None),
  ):
    if value:
      flag = "data_path" if name == "path" else name
      hint = "--data_path" if is_own else "--data_dir"
      raise ValueError(
        f"Expected no --{flag} for a run on data {config.name!r}, got "
        f"{value!r}; their place is {hint}."
      )
  stored = {
    name: path if path is not None and _is_directory(path) else None
    for name, path in (
      ("data_dir", config.data_dir),
      ("cache_dir", config.cache_dir),
    )
  }
  if is_own:
    config = dataclasses.replace(config, path=path or config.path)
  elif os.environ.get("TFDS_DATA_DIR") and prepared.find(
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
