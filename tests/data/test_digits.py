"""The embedded digits: our own, exact, without TensorFlow, safe to share."""

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

# Two processes load into a cold cache at once, then a third into a warm one.
# The third is forked before anything but JAX and this package is imported.
_LOAD = """
import os, sys, warnings
from robust_info import data
warnings.filterwarnings("ignore", message="os.fork")

def start(number, *, wait=lambda: None):
  child = os.fork()
  if child:
    return child
  wait()
  for stream, name in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{sys.argv[2]}/{name}-{number}", os.O_CREAT | os.O_RDWR),
            stream)
  source = data.load("digits", cache_dir=sys.argv[1], progress=False)
  print(source.train.images.sum(), source.validation.labels.tolist())
  heavy = {"tensorflow", "tensorflow_datasets", "sklearn"}
  print(*sorted(heavy & {*sys.modules}))
  sys.exit()

waiting, go = os.pipe()
warm = start(2, wait=lambda: os.read(waiting, 1))
from robust_info.data import digits
racers = [start(0), start(1)]
codes = [os.waitpid(racer, 0)[1] for racer in racers]
os.write(go, b"!")
codes.append(os.waitpid(warm, 0)[1])
print(*codes)
"""


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
    # Each of the two cuts is within one example of proportional.
    assert np.all(np.abs(counts - whole * len(split)) < 2)


def test_grey_levels_are_stored_losslessly():
  levels = np.arange(17)
  stored = digits.to_bytes(levels)
  np.testing.assert_array_equal(digits.to_levels(stored), levels)
  assert stored.dtype == np.uint8
  assert stored[0] == 0
  assert stored[16] == 255


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
  # A file in place of the data set: permissions would not stop root.
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


def test_digits_of_another_release_are_not_used(tmp_path, source, cache):
  del source  # The fixture has prepared the data.
  prepared = cache / "tfds" / "digits" / "1.0.0"
  for version in ("1.0.0", "9.0.0"):
    later = shutil.copytree(prepared, tmp_path / "digits" / version)
  assert (later / "features.json").is_file()
  source = data.load("digits", data_dir=tmp_path, cache_dir=tmp_path / "cache")
  assert source.version == "1.0.0"


def test_the_environment_names_the_cache_and_its_data_is_the_same(
  source, tmp_path, monkeypatch
):
  monkeypatch.setenv("ROBUST_INFO_CACHE", str(tmp_path / "elsewhere"))
  again = data.load("digits")
  assert (tmp_path / "elsewhere" / "arrays" / "digits").is_dir()
  for name, split in parts(again).items():
    np.testing.assert_array_equal(split.images, parts(source)[name].images)
    np.testing.assert_array_equal(split.labels, parts(source)[name].labels)


def test_processes_at_once_share_a_cold_cache_and_a_warm_one_needs_no_tfds(
  tmp_path, source
):
  said, cache = tmp_path / "said", tmp_path / "cache"
  said.mkdir()
  result = subprocess.run(
    [sys.executable, "-W", "error", "-c", _LOAD, str(cache), str(said)],
    capture_output=True,
    text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    timeout=120,
    check=False,
  )
  outputs = [
    tuple((said / f"{name}-{k}").read_text() for name in ("out", "err"))
    for k in range(3)
  ]
  assert result.stdout == "0 0 0\n", (result, outputs)
  assert result.stderr == ""
  expected = f"{source.train.images.sum()} {source.validation.labels.tolist()}"
  for stdout, stderr in outputs:
    assert stdout.splitlines()[0] == expected
    assert stderr == ""
  for stdout, _ in outputs[:2]:
    assert "tensorflow" not in stdout.splitlines()[1].split()
  assert outputs[2][0].splitlines()[1] == ""
  leftovers = [*cache.rglob("*.tmp"), *cache.rglob(".digits-*")]
  assert leftovers == []
