"""The embedded digits: ours, exact, without TensorFlow, safe to share."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds

from robust_info import data
from robust_info.data import digits

_LOAD = """
import sys
from robust_info import data
source = data.load("digits", cache_dir=sys.argv[1], progress=False)
print(source.train.images.sum(), source.validation.labels.tolist())
heavy = {"tensorflow", "tensorflow_datasets", "sklearn"}
print(*sorted(heavy & {*sys.modules}))
"""


def start_loading(cache):
  return subprocess.Popen(
    [sys.executable, "-W", "error", "-c", _LOAD, str(cache)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def source(cache):
  return data.load("digits", cache_dir=cache)


def parts(source):
  return {
    "train": source.train,
    "validation": source.validation,
    "test": source.test,
  }


def test_the_description_of_the_data(source):
  assert source.name == "digits"
  assert source.version == "1.0.0"
  assert source.num_classes == 10
  assert source.image_shape == (8, 8, 1)
  assert source.label_names == tuple("0123456789")


def test_splits_have_the_documented_sizes_and_dtypes(source):
  assert {name: len(split) for name, split in parts(source).items()} == {
    "train": 1167,
    "validation": 130,
    "test": 500,
  }
  for split in parts(source).values():
    assert split.images.shape == (len(split), 8, 8, 1)
    assert split.images.dtype == np.uint8
    assert split.labels.dtype == np.int32
    assert not split.images.flags.writeable


def test_splits_are_a_partition_of_what_scikit_learn_ships(source):
  reference = sklearn.datasets.load_digits()
  rows = np.concatenate(
    [
      np.column_stack(
        [
          digits.to_levels(split.images).reshape(len(split), 64),
          split.labels,
        ]
      )
      for split in parts(source).values()
    ]
  )
  expected = np.column_stack([reference.data, reference.target]).astype(int)
  np.testing.assert_array_equal(
    np.array(sorted(map(tuple, rows))), np.array(sorted(map(tuple, expected)))
  )


def test_splits_are_stratified(source):
  reference = sklearn.datasets.load_digits()
  whole = np.bincount(reference.target) / len(reference.target)
  for split in parts(source).values():
    counts = np.bincount(split.labels, minlength=10)
    # Within one of proportional at each of the two cuts.
    assert np.all(np.abs(counts - whole * len(split)) < 2)


def test_grey_levels_are_stored_losslessly():
  levels = np.arange(17)
  stored = digits.to_bytes(levels)
  np.testing.assert_array_equal(digits.to_levels(stored), levels)
  assert stored.dtype == np.uint8
  assert stored[0] == 0
  assert stored[16] == 255


def test_preparing_twice_gives_the_same_data(source, tmp_path):
  again = data.load("digits", cache_dir=tmp_path)
  for name, split in parts(again).items():
    np.testing.assert_array_equal(split.images, parts(source)[name].images)
    np.testing.assert_array_equal(split.labels, parts(source)[name].labels)


def test_it_is_a_tfds_data_set_on_disk(source, cache):
  builder = tfds.builder("digits", data_dir=cache / "tfds")
  assert builder.info.splits["train"].num_examples == 1297
  assert builder.info.splits["test"].num_examples == 500
  records = tfds.data_source(
    "digits",
    split="test",
    data_dir=cache / "tfds",
    decoders={"image": tfds.decode.SkipDecoding()},
  )
  assert [r["label"] for r in records] == source.test.labels.tolist()


def test_a_given_data_dir_is_where_it_is_prepared(tmp_path):
  (tmp_path / "tfds").mkdir()
  data.load("digits", data_dir=tmp_path / "tfds", cache_dir=tmp_path / "cache")
  assert sorted(path.name for path in (tmp_path / "tfds").iterdir()) == [
    "digits"
  ]
  assert not (tmp_path / "cache" / "tfds").exists()


def test_a_data_dir_that_cannot_be_written_gives_way_to_the_cache(tmp_path):
  # A file where the data set would be; root may write everywhere else.
  (tmp_path / "digits").write_text("not a directory")
  source = data.load("digits", data_dir=tmp_path, cache_dir=tmp_path / "cache")
  assert len(source.test) == 500
  assert (tmp_path / "cache" / "tfds" / "digits" / "1.0.0").is_dir()


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_a_data_dir_that_does_not_exist_is_refused_and_not_made(name, tmp_path):
  mistyped = tmp_path / "no" / "where"
  with pytest.raises(
    ValueError, match="Expected data_dir to be a directory th"
  ):
    data.load(name, data_dir=mistyped, cache_dir=tmp_path / "cache")
  assert [*tmp_path.iterdir()] == []


def test_nowhere_to_prepare_it_is_one_line(tmp_path):
  blocker = tmp_path / "file"
  blocker.write_text("not a directory")
  with pytest.raises(data.UnavailableError) as error:
    data.load("digits", cache_dir=blocker)
  assert "\n" not in str(error.value)
  assert "ROBUST_INFO_CACHE" in str(error.value)


def test_another_version_is_refused(tmp_path):
  with pytest.raises(data.UnavailableError, match=r"no version 2\.0\.0"):
    data.load("digits:2.0.0", cache_dir=tmp_path)


def test_digits_of_another_release_are_not_used(tmp_path):
  later = shutil.copytree(
    digits.prepare(tmp_path), tmp_path / "digits" / "9.0.0"
  )
  assert (later / "features.json").is_file()
  source = data.load("digits", data_dir=tmp_path, cache_dir=tmp_path / "cache")
  assert source.version == "1.0.0"


def test_the_environment_names_the_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("ROBUST_INFO_CACHE", str(tmp_path / "elsewhere"))
  data.load("digits")
  assert (tmp_path / "elsewhere" / "arrays" / "digits").is_dir()


def test_processes_at_once_share_a_cold_cache_and_a_warm_one_needs_no_tfds(
  tmp_path, source
):
  racers = [start_loading(tmp_path) for _ in range(2)]
  outputs = [racer.communicate(timeout=120) for racer in racers]
  warm = start_loading(tmp_path)
  outputs.append(warm.communicate(timeout=120))
  assert [p.returncode for p in (*racers, warm)] == [0, 0, 0], outputs
  expected = f"{source.train.images.sum()} {source.validation.labels.tolist()}"
  for stdout, stderr in outputs:
    assert stdout.splitlines()[0] == expected
    assert stderr == ""
  assert "sklearn" in outputs[0][0] or "sklearn" in outputs[1][0]
  for stdout, _ in outputs[:2]:
    assert "tensorflow_datasets" in stdout.splitlines()[1]
    assert "tensorflow" not in stdout.splitlines()[1].split()
  assert outputs[2][0].splitlines()[1] == ""
  leftovers = [*tmp_path.rglob("*.tmp"), *tmp_path.rglob(".digits-*")]
  assert leftovers == []
