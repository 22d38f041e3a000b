"""Stored measurements: never measured twice, never taken for others."""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info.evaluation import cache as measurement_cache


class Measurement:
  """Counts how often it is computed."""

  def __init__(self, value):
    self.value, self.times = value, 0

  def __call__(self):
    self.times += 1
    return self.value


@pytest.fixture
def cache(tmp_path):
  return measurement_cache.MeasurementCache(tmp_path / "new" / "place", "f")


def only_file(tmp_path):
  [path] = [p for p in tmp_path.rglob("*") if p.is_file()]
  return path


def test_a_measurement_is_made_once(cache, tmp_path):
  measurement = Measurement({"mean": 0.1, "rows": (1, 2)})
  first = cache.get("a", measurement)
  again = measurement_cache.MeasurementCache(tmp_path / "new" / "place", "f")
  # The first answer already has the types that JSON gives back.
  assert first == again.get("a", measurement) == {"mean": 0.1, "rows": [1, 2]}
  assert measurement.times == 1


def test_the_state_of_a_measurement_has_a_place_of_its_own(cache):
  folder = cache.folder("a/b")
  folder.mkdir()
  (folder / "part").write_text("1")
  assert cache.get("a/b", Measurement(3)) == 3
  assert cache.get("a/b", Measurement(4)) == 3
  assert (folder / "part").exists()
  assert cache.folder("a") != folder


def test_numbers_that_are_not_finite_come_back(cache):
  values = [math.nan, math.inf, -math.inf, 0.1 + 0.2]
  cache.get("a", Measurement(values))
  np.testing.assert_array_equal(cache.get("a", Measurement(None)), values)


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b'{"mean": 0.',
    b"\xff\xfe\x00garbage",
    b"null",
    b"[]",
    b"3",
    b"{}",
    b'{"value": 1}',
    b'{"value": 1, "crc32": 1}',
    b"[" * 10**5,
  ],
)
def test_a_damaged_file_is_measured_again(cache, tmp_path, content):
  cache.get("a", Measurement(1))
  only_file(tmp_path).write_bytes(content)
  again = Measurement(2)
  assert cache.get("a", again) == 2
  assert again.times == 1
  assert cache.get("a", Measurement(3)) == 2


def test_a_flipped_digit_is_measured_again(cache, tmp_path):
  value = {"robust": 0.4375, "counts": [12, 340]}
  cache.get("a", Measurement(value))
  path = only_file(tmp_path)
  whole = path.read_text()
  places = [i for i, letter in enumerate(whole) if letter.isdigit()]
  for place in places:
    other = chr(ord(whole[place]) ^ 1)
    path.write_text(whole[:place] + other + whole[place + 1 :])
    again = Measurement(value)
    assert cache.get("a", again) == value
    assert again.times == 1
    assert path.read_text() == whole


def test_a_file_that_cannot_be_read_is_an_error(cache, tmp_path):
  cache.get("a", Measurement(1))
  path = only_file(tmp_path)
  path.unlink()
  path.symlink_to(path.name)
  with pytest.raises(OSError, match="symbolic links"):
    cache.get("a", Measurement(2))


def test_other_fingerprints_and_names_have_values_of_their_own(tmp_path):
  names = ["a", "a b", "a_b", "a/b", "A", "../a", "", ".", "pgd-0.1", "é"]
  caches = [
    measurement_cache.MeasurementCache(tmp_path, mark) for mark in ("f", "g")
  ]
  expected = {
    (number, name): cache.get(name, Measurement([number, name]))
    for number, cache in enumerate(caches)
    for name in names
  }
  for (number, name), value in expected.items():
    assert value == [number, name]
    assert caches[number].get(name, Measurement(None)) == value
  files = [p for p in tmp_path.rglob("*") if p.is_file()]
  assert len(files) == 2 * len(names)


def test_a_failed_measurement_leaves_nothing(cache, tmp_path):
  def fail():
    raise RuntimeError("out of memory")

  with pytest.raises(RuntimeError, match="out of memory"):
    cache.get("a", fail)
  with pytest.raises(TypeError):
    cache.get("a", Measurement(object()))
  assert not [p for p in tmp_path.rglob("*") if p.is_file()]
  assert cache.get("a", Measurement(1)) == 1


def test_a_file_is_there_whole_or_not_at_all(cache, monkeypatch):
  replace = os.replace

  def killed(source, target):
    # A kill leaves the scratch file, written in full or in part.
    with open(source, "r+b") as file:
      file.truncate(3)
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", killed)
  with pytest.raises(KeyboardInterrupt):
    cache.get("a", Measurement({"mean": 1.0}))
  monkeypatch.setattr(os, "replace", replace)
  again = Measurement({"mean": 2.0})
  assert cache.get("a", again) == {"mean": 2.0}
  assert cache.get("a", again) == {"mean": 2.0}
  assert again.times == 1


def variables(scale=1.0, dtype=np.float32):
  return {"params": {"w": scale * np.arange(6, dtype=dtype), "b": np.ones(2)}}


@pytest.mark.parametrize(
  ("one", "other"),
  [
    ((variables(),), (variables(2.0),)),
    ((variables(),), (variables(dtype=np.float64),)),
    ((variables(),), (variables()["params"],)),
    ((np.zeros((2, 3)),), (np.zeros((3, 2)),)),
    ((np.ones(()),), (np.ones((1,)),)),
    (([1, 23],), ([12, 3],)),
    ((1, 2), ([1, 2],)),
    (("ab", "c"), ("a", "bc")),
    ((1,), ("1",)),
    ((0.1,), (0.1 + 1e-16 * 2,)),
    ((jax.random.key(0),), (jax.random.key(1),)),
    ((jax.random.key(0),), (jax.random.key_data(jax.random.key(0)),)),
    ((None,), ()),
    ((True,), (1,)),
  ],
)
def test_fingerprints_tell_values_apart(one, other):
  assert measurement_cache.fingerprint(*one) != measurement_cache.fingerprint(
    *other
  )


def test_fingerprints_know_equal_values_again():
  marks = {
    measurement_cache.fingerprint(content, "x", 3)
    for content in (
      variables(),
      {"params": dict(reversed(variables()["params"].items()))},
      {"params": {"w": jnp.arange(6.0), "b": np.ones(4)[::2]}},
    )
  }
  assert len(marks) == 1


def test_fingerprints_read_every_dtype_of_a_network():
  for dtype in (jnp.bfloat16, jnp.float16, jnp.int32, jnp.bool_):
    zeros, ones = jnp.zeros(3, dtype), jnp.ones(3, dtype)
    assert measurement_cache.fingerprint(
      zeros
    ) != measurement_cache.fingerprint(ones)
  assert measurement_cache.fingerprint(np.zeros(0))
