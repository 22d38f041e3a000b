"""Data from a configuration: names of fields, and other machines."""

import dataclasses

import pytest

from robust_info import config as config_lib
from robust_info import data
from robust_info.data import prepared


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"name": "x y"}, "Expected config.data.name to be a TFDS name"),
    ({"name": "x y"}, "got config.data.name='x y'."),
    ({"name": "digits:2.0.0"}, "Data set digits has no version 2.0.0"),
    ({"data_dir": "gs://bucket"}, "Expected config.data.data_dir to be local"),
    ({"data_dir": "/no/such"}, "got config.data.data_dir=/no/such; make it"),
    (
      {"validation_fraction": 1e-5},
      "got config.data.validation_fraction=1e-05: 0 of 1297",
    ),
  ],
)
def test_errors_name_fields_not_arguments(tmp_path, fields, message):
  config = config_lib.DataConfig(cache_dir=str(tmp_path), **fields)
  with pytest.raises((ValueError, data.UnavailableError)) as error:
    data.from_config(config, progress=False)
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_errors_name_the_flags_of_a_program(tmp_path):
  (tmp_path / "file").touch()
  for fields, message in (
    ({"data_dir": "/no/such"}, "Expected --data_dir to be a directory that"),
    ({"name": "arrays", "path": "/no/such"}, "Expected --data_path to exist"),
    ({"cache_dir": str(tmp_path / "file")}, "; pass --cache_dir= or set"),
    ({"name": "x y"}, "Expected config.data.name to be a TFDS name"),
  ):
    with pytest.raises((ValueError, data.UnavailableError)) as error:
      data.from_config(
        config_lib.DataConfig(**({"cache_dir": str(tmp_path)} | fields)),
        progress=False,
        flags={
          "data_dir": "--data_dir",
          "path": "--data_path",
          "cache_dir": "--cache_dir",
        },
      )
    assert message in str(error.value)


@pytest.fixture
def places(tmp_path, monkeypatch):
  """Directories by name; without environment variables or prepared data."""
  monkeypatch.delenv("ROBUST_INFO_CACHE", raising=False)
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  for name in ("stored", "named", "environment"):
    (tmp_path / name).mkdir()
  return tmp_path


def stored(places, where="stored"):
  path = str(places / where)
  return config_lib.DataConfig(data_dir=path, cache_dir=path, streaming=True)


def test_place_that_a_run_has_stored_counts_where_it_exists(places):
  assert data.relocated(stored(places)) == stored(places)
  gone = stored(places, "gone")
  expected = dataclasses.replace(gone, data_dir=None, cache_dir=None)
  assert data.relocated(gone) == expected
  assert not (places / "gone").exists()


def test_environment_beats_the_stored_place(places, monkeypatch):
  monkeypatch.setenv("ROBUST_INFO_CACHE", str(places / "environment"))
  monkeypatch.setenv("TFDS_DATA_DIR", str(places / "environment"))
  found = data.relocated(stored(places))
  assert found.cache_dir is None
  # The directory of the environment has no prepared data.
  assert found.data_dir == str(places / "stored")
  directory = places / "environment" / "digits" / prepared.DIGITS_VERSION
  directory.mkdir(parents=True)
  for name in ("dataset_info.json", "features.json"):
    (directory / name).write_text("{}")
  assert data.relocated(stored(places)).data_dir is None


def test_explicit_place_beats_all_others(places, monkeypatch):
  monkeypatch.setenv("ROBUST_INFO_CACHE", str(places / "environment"))
  monkeypatch.setenv("TFDS_DATA_DIR", str(places / "environment"))
  named = str(places / "named")
  found = data.relocated(
    stored(places), data_dir=named, cache_dir=named, streaming=False
  )
  assert found == dataclasses.replace(
    stored(places, "named"), data_dir=named, cache_dir=named, streaming=False
  )
