"""The array cache: written once, always checked, never half written."""

import json
import os
import time

import numpy as np
import pytest

from robust_info.data import array_cache
from robust_info.data import source as source_lib

PIXELS = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
LABELS = np.array([3, 1, 4, 1, 5], np.int32)


class Builder:
  """Builds two arrays and counts the builds."""

  def __init__(self):
    self.calls = 0

  def __call__(self, writer):
    self.calls += 1
    writer.write(
      "pixels", [PIXELS[:2], PIXELS[2:]], shape=(5, 3, 4), dtype=np.uint8
    )
    writer.write("labels", [LABELS], shape=(5,), dtype=np.int32)
    return {"answer": 42}


def load(directory, builder):
  return array_cache.load_or_build(
    directory, lambda info: ["pixels", "labels"], builder
  )


@pytest.fixture
def entry(tmp_path):
  return tmp_path / "entry"


@pytest.fixture
def builder(entry):
  builder = Builder()
  load(entry, builder)
  assert builder.calls == 1
  return builder


def check(found):
  info, arrays = found
  assert info == {"answer": 42}
  np.testing.assert_array_equal(arrays["pixels"], PIXELS)
  np.testing.assert_array_equal(arrays["labels"], LABELS)


def test_a_second_load_builds_nothing(entry, builder):
  check(load(entry, builder))
  assert builder.calls == 1


def test_arrays_are_read_only_maps(entry, builder):
  _, arrays = load(entry, builder)
  assert type(arrays["pixels"]) is np.ndarray
  assert isinstance(arrays["pixels"].base, np.memmap)
  with pytest.raises(ValueError, match="read-only"):
    arrays["pixels"][0] = 0


def test_files_are_plain_npy(entry, builder):
  np.testing.assert_array_equal(np.load(entry / "pixels.npy"), PIXELS)


@pytest.mark.parametrize("name", ["pixels.npy", "labels.npy", "index.json"])
@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_truncated_files_are_rebuilt(entry, builder, name, keep):
  path = entry / name
  path.write_bytes(path.read_bytes()[:keep])
  check(load(entry, builder))
  assert builder.calls == 2


@pytest.mark.parametrize("name", ["pixels.npy", "labels.npy", "index.json"])
@pytest.mark.parametrize("where", [0.0, 0.4, 0.8, 1.0])
def test_a_flipped_bit_is_noticed_anywhere(entry, builder, name, where):
  path = entry / name
  content = bytearray(path.read_bytes())
  content[int(where * (len(content) - 1))] ^= 1
  path.write_bytes(content)
  check(load(entry, builder))
  assert builder.calls == 2


@pytest.mark.parametrize("name", ["pixels.npy", "labels.npy", "index.json"])
def test_missing_files_are_rebuilt(entry, builder, name):
  (entry / name).unlink()
  check(load(entry, builder))
  assert builder.calls == 2


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}", '{"info": 1}'])
def test_an_index_of_something_else_is_rebuilt(entry, builder, content):
  (entry / "index.json").write_text(content)
  check(load(entry, builder))
  assert builder.calls == 2


def test_a_map_outlives_a_rebuild(entry, builder):
  _, arrays = load(entry, builder)
  (entry / "index.json").unlink()
  load(entry, builder)
  np.testing.assert_array_equal(arrays["pixels"], PIXELS)


def test_a_build_that_fails_leaves_nothing_that_counts(entry):
  def fail(writer):
    def chunks():
      yield PIXELS[:2]
      raise KeyboardInterrupt

    writer.write("labels", [LABELS], shape=(5,), dtype=np.int32)
    writer.write("pixels", chunks(), shape=(5, 3, 4), dtype=np.uint8)

  with pytest.raises(KeyboardInterrupt):
    load(entry, fail)
  assert [path.name for path in entry.iterdir()] == ["labels.npy"]
  builder = Builder()
  check(load(entry, builder))
  assert builder.calls == 1


@pytest.mark.parametrize(
  ("chunks", "match"),
  [
    ([PIXELS[:2]], "Expected 5 rows of pixels, got 2"),
    ([PIXELS, PIXELS], "Expected 5 rows of pixels, got 10"),
    ([PIXELS.astype(np.int32)], "got int32"),
    ([PIXELS[:, :2]], r"got uint8 \(2, 4\)"),
  ],
)
def test_chunks_must_be_the_rows_they_are_said_to_be(entry, chunks, match):
  entry.mkdir()
  writer = array_cache.ArrayWriter(entry)
  with pytest.raises(ValueError, match=match):
    writer.write("pixels", chunks, shape=(5, 3, 4), dtype=np.uint8)
  assert list(entry.iterdir()) == []


def test_leftovers_of_killed_builds_are_removed_after_a_day(entry):
  entry.mkdir()
  old, new = entry / "pixels.npy.1-a.tmp", entry / "pixels.npy.2-b.tmp"
  old.write_bytes(b"x")
  new.write_bytes(b"x")
  yesterday = time.time() - 25 * 3600
  os.utime(old, (yesterday, yesterday))
  load(entry, Builder())
  assert not old.exists()
  assert new.exists()  # Another process may be writing it.


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
  blocker = tmp_path / "file"
  blocker.write_text("not a directory")
  with pytest.raises(source_lib.UnavailableError) as error:
    load(blocker / "entry", Builder())
  assert "\n" not in str(error.value)
  assert "pass cache_dir= or set ROBUST_INFO_CACHE" in str(error.value)
  assert str(blocker / "entry") in str(error.value)


def test_reading_writes_nothing(entry, builder):
  before = {p.name: p.stat().st_mtime_ns for p in [entry, *entry.iterdir()]}
  load(entry, builder)
  after = {p.name: p.stat().st_mtime_ns for p in [entry, *entry.iterdir()]}
  assert before == after


def test_only_the_wanted_arrays_are_read(entry, builder):
  (entry / "pixels.npy").unlink()
  _, arrays = array_cache.load_or_build(entry, lambda info: ["labels"], builder)
  assert list(arrays) == ["labels"]
  assert builder.calls == 1


def test_a_disk_that_does_not_keep_what_is_written_is_reported(
  entry, monkeypatch
):
  monkeypatch.setattr(json, "dumps", lambda *args, **kwargs: "{")
  with pytest.raises(source_lib.UnavailableError, match="read back"):
    load(entry, Builder())
