import functools
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from robust_info.runtime import files
from robust_info.training import (
  _manifest,
  checkpoint_directory,
  checkpoints,
)

# If several reads or writes fail, Orbax raises one error, and the others end in
# callbacks of threads.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)

# Each directory holds the checkpoint that `old_state` describes, written before
# files and manifests had checksums, by the version of Orbax in its name.
OLD = sorted(
  (pathlib.Path(__file__).parents[1] / "support" / "old_checkpoints").iterdir()
)


def make_state(value, hidden=3):
  params = {
    "kernel": jnp.full((4, hidden), float(value)),
    "bias": jnp.zeros(hidden),
  }
  return {
    "step": jnp.asarray(int(value), jnp.int32),
    "params": params,
    "opt_state": optax.adam(0.1).init(params),
    "empty": {},
    "key": jax.random.key(int(value)),
  }


def metrics(robust, accuracy=0.5):
  return {"robust_accuracy": robust, "accuracy": accuracy, "cckl": 3.0}


def save(path, scores, **kwargs):
  """Saves checkpoints at steps 1, 2, ...; score None: one without metrics."""
  with checkpoints.Store(path, **kwargs) as store:
    for step, score in enumerate(scores, start=1):
      store.save(
        step,
        make_state(step),
        progress={"step": step},
        metrics=None if score is None else metrics(score),
      )


def restore(path, **kwargs):
  return open_and_restore(path, read_only=True, **kwargs)


def open_and_restore(path, *, read_only, **kwargs):
  with checkpoints.Store(path, read_only=read_only) as store:
    return store.restore(make_state(0), **kwargs)


def damage(path, how):
  """Damages every data file of a checkpoint."""
  files = [
    file
    for file in (path / "state").rglob("*")
    if file.is_file() and file.stat().st_size > 100
  ]
  assert files
  for file in files:
    content = bytearray(file.read_bytes())
    if how == "truncated":
      content = content[: len(content) // 2]
    else:
      content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def contents(path):
  """Every name below a directory, with its bytes or the target of its link."""
  return {
    p: os.readlink(p) if p.is_symlink() else p.is_file() and p.read_bytes()
    for p in path.rglob("*")
  }


def unreadable(path, how):
  """Makes reading a file fail as a broken disk does, for any user."""
  path.unlink()
  # A link to itself: ELOOP. Page 0 of the process cannot be read: EIO.
  os.symlink({"ELOOP": path.name, "EIO": "/proc/self/mem"}[how], path)


def flip_leaf(path, old, new):
  """Changes the manifest of a checkpoint without its checksum."""
  manifest = path / "manifest" / "metadata"
  text = manifest.read_text()
  assert old in text
  manifest.write_text(text.replace(old, new, 1))


def assert_same(one, two):
  assert jax.tree.structure(one) == jax.tree.structure(two)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    assert a.dtype == b.dtype
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(a, b)


def test_state_comes_back_bit_for_bit_in_its_own_types(tmp_path):
  state = make_state(5)
  state["params"]["kernel"] = jax.random.normal(jax.random.key(0), (4, 3))
  with checkpoints.Store(tmp_path) as store:
    store.save(7, state, progress={"sums": {"loss": 0.1 + 0.2}})
  restored = restore(tmp_path)
  assert restored.step == 7
  assert restored.progress == {"sums": {"loss": 0.1 + 0.2}}
  assert_same(restored.state, state)


def test_abstract_tree_is_enough_to_restore(tmp_path):
  save(tmp_path, [0.5])
  like = jax.eval_shape(lambda: make_state(0))
  with checkpoints.Store(tmp_path, read_only=True) as store:
    assert_same(store.restore(like).state, make_state(1))


def test_state_may_be_donated_while_it_is_saved(tmp_path):
  step = jax.jit(lambda x: x + 1.0, donate_argnums=0)
  state = jnp.zeros((500, 500))
  with checkpoints.Store(tmp_path, keep_last=20) as store:
    for number in range(1, 11):
      store.save(number, {"x": state})
      for _ in range(5):
        state = step(state)
  with checkpoints.Store(tmp_path, read_only=True) as store:
    restored = store.restore({"x": state})
    np.testing.assert_array_equal(restored.state["x"], 45.0)


def test_progress_may_change_while_it_is_saved(tmp_path):
  progress = {"sums": {"loss": 1.0}}
  with checkpoints.Store(tmp_path) as store:
    store.save(1, make_state(1), progress=progress)
    progress["sums"].clear()
  assert restore(tmp_path).progress == {"sums": {"loss": 1.0}}


def test_restored_arrays_may_be_donated(tmp_path):
  save(tmp_path, [0.5])
  state = restore(tmp_path).state
  step = jax.jit(lambda p: jax.tree.map(lambda x: x + 1, p), donate_argnums=0)
  for _ in range(3):
    state["params"] = step(state["params"])
  np.testing.assert_array_equal(state["params"]["kernel"], 4.0)


def test_newest_and_best_are_kept_over_restarts(tmp_path):
  scores = [0.1, 0.9, 0.3, 0.2, 0.4]
  save(tmp_path, scores[:3])
  with checkpoints.Store(tmp_path, keep_last=2) as store:
    for step in (4, 5, 6):
      score = 0.2 if step < 6 else None
      store.save(step, make_state(step), metrics=score and metrics(score))
    store.wait()
    assert store.steps() == [2, 5, 6]
    assert store.best_steps() == [2, 5]
  assert restore(tmp_path).step == 6
  assert restore(tmp_path, which="best").step == 2


def test_best_is_by_robust_then_clean_accuracy_then_newest(tmp_path):
  with checkpoints.Store(tmp_path, keep_last=9) as store:
    for step, (robust, clean) in enumerate(
      [(0.5, 0.9), (0.6, 0.7), (0.6, 0.8), (0.6, 0.8), (float("nan"), 1.0)],
      start=1,
    ):
      store.save(step, make_state(step), metrics=metrics(robust, clean))
    store.wait()
    assert store.best_steps() == [4, 3, 2, 1, 5]


def test_interim_checkpoint_lasts_until_the_next_and_takes_nobody_s_place(
  tmp_path,
):
  with checkpoints.Store(tmp_path, keep_last=1) as store:
    store.save(1, make_state(1))
    store.save(2, make_state(2), interim=True)
  assert restore(tmp_path).step == 2
  with checkpoints.Store(tmp_path, keep_last=1) as store:
    assert store.steps() == [1, 2]
    store.save(3, make_state(3))
    store.wait()
    assert store.steps() == [3]


def test_dropped_interim_checkpoint_can_be_saved_again(tmp_path):
  with checkpoints.Store(tmp_path) as store:
    store.save(1, make_state(1))
    store.save(3, make_state(3), interim=True)
    store.drop_interim()
    assert store.steps() == [1]
    store.save(2, make_state(2))
    store.save(3, make_state(4))
  assert int(restore(tmp_path).state["step"]) == 4


def test_no_directory_has_no_checkpoint_and_is_not_made(tmp_path):
  assert restore(tmp_path / "none") is None
  assert not (tmp_path / "none").exists()


def test_empty_directory_has_no_checkpoint(tmp_path):
  with checkpoints.Store(tmp_path) as store:
    assert store.restore(make_state(0)) is None


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_damaged_newest_costs_a_line_and_the_one_before_counts(
  tmp_path, capsys, how
):
  path = tmp_path / "checkpoints"
  save(path, [0.1, 0.2, 0.3], keep_last=3)
  damage(path / "3", how)
  with checkpoints.Store(path) as store:
    restored = store.restore(make_state(0))
    assert_same(restored.state, make_state(2))
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"checkpoint {path / '3'} is damaged" in error
    assert "taking checkpoint 2 instead" in error
    # Training continues and reaches the step again.
    store.save(3, make_state(3), metrics=metrics(0.5))
  assert restore(path).step == 3
  assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_damaged_best_gives_the_next_best(tmp_path, capsys):
  save(tmp_path, [0.1, 0.9, 0.3], keep_last=3)
  damage(tmp_path / "2", "truncated")
  assert restore(tmp_path, which="best").step == 3
  assert "damaged" in capsys.readouterr().err


def test_read_only_store_leaves_a_damaged_checkpoint_where_it_is(
  tmp_path, capsys
):
  path = tmp_path / "checkpoints"
  save(path, [0.1, 0.2])
  damage(path / "2", "truncated")
  before = sorted(tmp_path.rglob("*"))
  assert restore(path).step == 1
  assert sorted(tmp_path.rglob("*")) == before


def test_damaged_manifest_is_a_damaged_checkpoint(tmp_path, capsys):
  save(tmp_path, [0.1, 0.2])
  (tmp_path / "2" / "manifest" / "metadata").write_text("{")
  assert restore(tmp_path).step == 1
  assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize("read_only", [True, False])
def test_only_damaged_checkpoints_are_an_error_and_stay_where_they_are(
  tmp_path, which, read_only
):
  path = tmp_path / "checkpoints"
  save(path, [0.1, 0.2])
  damage(path / "1", "truncated")
  flip_leaf(path / "2", '"step": 2', '"step": 3')
  before = contents(tmp_path)
  with checkpoints.Store(path, read_only=read_only) as store:
    # A second start must not find an empty directory.
    for _ in range(2):
      with pytest.raises(checkpoints.CheckpointError) as error:
        store.restore(make_state(0), which=which)
      assert "Every checkpoint" in str(error.value)
      assert "(step 1: " in str(error.value)
      assert "step 2: of its manifest: its checksum is wrong" in str(
        error.value
      )
      assert "\n" not in str(error.value)
  assert contents(tmp_path) == before


@pytest.mark.parametrize("how", ["ELOOP", "EIO"])
@pytest.mark.parametrize("name", ["manifest", "index", "data"])
@pytest.mark.parametrize("listed", [True, False])
def test_what_cannot_be_read_is_not_damaged_and_nothing_is_touched(
  tmp_path, capsys, how, name, listed
):
  path = tmp_path / "checkpoints"
  save(path, [0.1, 0.3, 0.2], keep_last=3)
  if not listed:  # As in older versions.
    for step in "123":
      (path / step / "state" / "checksums.json").unlink()
  file = {
    "manifest": path / "3" / "manifest" / "metadata",
    "index": path / "3" / "state" / "_METADATA",
    "data": next((path / "3" / "state" / "d").iterdir()),
  }[name]
  good = file.read_bytes()
  unreadable(file, how)
  before = contents(tmp_path)
  reason = {"ELOOP": "Too many levels", "EIO": "Input/output error"}[how]
  for read_only in (True, False):
    with pytest.raises(checkpoints.CheckpointError) as error:
      open_and_restore(path, read_only=read_only)
    assert f"Could not read checkpoint {path / '3'}: " in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before
  assert not capsys.readouterr().err
  file.unlink()
  file.write_bytes(good)
  assert restore(path).step == 3


def test_checkpoint_that_cannot_be_looked_up_is_not_passed_over(tmp_path):
  save(tmp_path, [0.1, 0.2])
  (tmp_path / "2").rename(tmp_path / "away")
  os.symlink("2", tmp_path / "2")
  before = contents(tmp_path)
  for read_only in (True, False):
    with pytest.raises(checkpoints.CheckpointError, match=f"{tmp_path}/2:"):
      open_and_restore(tmp_path, read_only=read_only)
  assert contents(tmp_path) == before


# Orbax leaves coroutines behind when it can start no event loop.
@pytest.mark.filterwarnings(
  "ignore:.*(BaseEventLoop|coroutine):pytest.PytestUnraisableExceptionWarning"
)
def test_too_many_open_files_are_not_damage(tmp_path):
  path = tmp_path / "checkpoints"
  save(path, [0.1, 0.2])
  before = contents(tmp_path)
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  with checkpoints.Store(path) as store:
    store.restore(make_state(0))  # Opens files that are opened only once.
    # Of standard input, output and error only, whatever else is open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
      with pytest.raises(checkpoints.CheckpointError, match="Too many open"):
        store.restore(make_state(0))
    finally:
      resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert contents(tmp_path) == before
    assert store.restore(make_state(0)).step == 2


@pytest.mark.parametrize(
  "error",
  [
    MemoryError("out of memory"),
    OSError(116, "Stale file handle"),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    ValueError("UNAVAILABLE: Error reading [os_error_code='5']"),
    TypeError("restore() got an unexpected keyword"),
  ],
  ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("listed", [True, False])
def test_no_other_error_makes_a_good_checkpoint_damaged(
  tmp_path, monkeypatch, error, listed
):
  path = tmp_path / "checkpoints"
  save(path, [0.1, 0.2])
  if not listed:
    (path / "2" / "state" / "checksums.json").unlink()
  before = contents(tmp_path)

  def fail(*args, **kwargs):
    raise error

  with checkpoints.Store(path) as store:
    with monkeypatch.context() as patch:
      patch.setattr(ocp.CheckpointManager, "restore", fail)
      with pytest.raises(checkpoints.CheckpointError) as found:
        store.restore(make_state(0))
    assert str(error) in str(found.value)
    assert "\n" not in str(found.value)
    assert contents(tmp_path) == before
    assert store.restore(make_state(0)).step == 2


def test_damaged_one_stays_until_the_one_before_it_is_known_to_be_whole(
  tmp_path, capsys
):
  path = tmp_path / "checkpoints"
  save(path, [0.1, 0.2])
  damage(path / "2", "truncated")
  unreadable(path / "1" / "state" / "_METADATA", "EIO")
  before = contents(tmp_path)
  with (
    checkpoints.Store(path) as store,
    pytest.raises(checkpoints.CheckpointError, match="Input/output error"),
  ):
    store.restore(make_state(0))
  assert contents(tmp_path) == before
  assert not capsys.readouterr().err


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ("['params']['kernel']", "['params']['kernem']"),
    ('"float32"', '"float33"'),
    ("[4, 3]", "[4, 2]"),
    ('"interim": false', '"interim": true '),
    ('"robust_accuracy": 0.9', '"robust_accuracy": 0.1'),
    ('"step": 2', '"step": 6'),
    ('"crc32": ', '"crc33": '),
    ("{", "["),
  ],
  ids=["name", "dtype", "shape", "kind", "metrics", "progress", "seal", "form"],
)
def test_flipped_bit_in_a_manifest_falls_back_in_a_line_that_names_both(
  tmp_path, capsys, old, new
):
  path = tmp_path / "checkpoints"
  save(path, [0.3, 0.9, 0.1], keep_last=3)
  flip_leaf(path / "2", old, new)
  before = contents(tmp_path)
  # The damaged checkpoint may have been the best, so the line names it.
  assert restore(path, which="best").step == 1
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert f"checkpoint {path / '2'} is damaged" in error
  assert "taking checkpoint 1 instead" in error
  # No line if another checkpoint was asked for.
  assert restore(path).step == 3
  assert not capsys.readouterr().err
  assert contents(tmp_path) == before
  # Moved away first: training would remove it as one without merit.
  with checkpoints.Store(path) as store:
    assert store.restore(make_state(0)).step == 3
    assert store.steps() == [1, 3]
  assert "taking checkpoint 3 instead" in capsys.readouterr().err
  assert os.listdir(tmp_path / "damaged") == ["2-0"]


def test_no_flipped_bit_gives_another_manifest(tmp_path):
  save(tmp_path, [0.25])
  path = tmp_path / "1" / "manifest" / "metadata"
  whole = path.read_bytes()
  expected = _manifest.read(path)
  for place in range(0, len(whole), 3):
    content = bytearray(whole)
    content[place] ^= 1 << (place % 7)
    path.write_bytes(content)
    try:
      assert _manifest.read(path) == expected
    except files.DamageError:
      continue


@pytest.mark.parametrize("name", ["manifest", "state", "state/_METADATA"])
def test_missing_part_of_a_checkpoint_is_damage(tmp_path, capsys, name):
  path = tmp_path / "checkpoints"
  save(path, [0.1, 0.2])
  part = path / "2" / name
  shutil.rmtree(part) if part.is_dir() else part.unlink()
  with checkpoints.Store(path) as store:
    assert store.restore(make_state(0)).step == 1
  assert "taking checkpoint 1 instead" in capsys.readouterr().err


def test_checkpoint_that_training_removes_meanwhile_is_passed_over(
  tmp_path, capsys
):
  save(tmp_path, [0.1, 0.2])
  with checkpoints.Store(tmp_path, read_only=True) as store:
    shutil.rmtree(tmp_path / "2")
    assert store.restore(make_state(0)).step == 1
    shutil.rmtree(tmp_path / "1")
    with pytest.raises(checkpoints.CheckpointError, match="try again"):
      store.restore(make_state(0))
  assert not capsys.readouterr().err


def test_checkpoint_of_another_model_names_the_first_leaf_and_shapes(tmp_path):
  save(tmp_path, [0.1])
  with (
    checkpoints.Store(tmp_path, read_only=True) as store,
    pytest.raises(checkpoints.MismatchError) as error,
  ):
    store.restore(make_state(0, hidden=5))
  message = str(error.value)
  assert "another model" in message
  assert "float32[3], this model's is float32[5]" in message
  assert "\n" not in message


@pytest.mark.parametrize("change", ["fewer", "more"])
def test_checkpoint_of_another_structure_names_the_leaf(tmp_path, change):
  save(tmp_path, [0.1])
  like = make_state(0)
  if change == "fewer":
    del like["params"]["bias"]
  else:
    like["params"]["scale"] = jnp.ones(3)
  name = {"fewer": "bias", "more": "scale"}[change]
  with (
    checkpoints.Store(tmp_path) as store,
    pytest.raises(checkpoints.MismatchError, match=name),
  ):
    store.restore(like)
  assert not (tmp_path.parent / "damaged").exists()


def test_failed_save_is_one_line_and_what_was_saved_survives(tmp_path):
  path = tmp_path / "checkpoints"
  large = {"x": jax.random.normal(jax.random.key(0), (300, 300))}
  with checkpoints.Store(path) as store:
    store.save(1, large)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  store = checkpoints.Store(path)
  # Files larger than this cannot be written, as on a full disk.
  resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
  try:
    store.save(2, large)
    with pytest.raises(checkpoints.CheckpointError) as error:
      store.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert f"Could not save checkpoint {path / '2'}: " in str(error.value)
  assert "File too large" in str(error.value)
  assert str(error.value).endswith("the size of files (ulimit -f).")
  assert "\n" not in str(error.value)
  with checkpoints.Store(path, read_only=True) as other:
    assert other.steps() == [1]
    restored = other.restore(large)
  np.testing.assert_array_equal(restored.state["x"], large["x"])
  # The same process continues, with the same step or a later one.
  for step in (2, 3):
    store.save(step, {"x": step * large["x"]})
    store.wait()
    assert store.steps()[-1] == step
  store.close()
  with checkpoints.Store(path) as store:
    restored = store.restore(large)
  np.testing.assert_array_equal(restored.state["x"], 3 * large["x"])


def test_save_after_one_that_failed_unnoticed_raises_then_saves(tmp_path):
  large = {"x": jax.random.normal(jax.random.key(0), (300, 300))}
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  with checkpoints.Store(tmp_path) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
      store.save(1, large)
      with pytest.raises(checkpoints.CheckpointError, match=f"{tmp_path}/1:"):
        store.save(2, large)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.save(2, large)
    store.wait()
    assert store.steps() == [2]


def test_checkpoint_whose_files_cannot_be_listed_is_not_saved(
  tmp_path, monkeypatch
):
  def full(directory):
    raise OSError(28, "No space left on device")

  with checkpoints.Store(tmp_path) as store:
    store.save(1, make_state(1))
    store.wait()
    with monkeypatch.context() as patch:
      patch.setattr(_manifest, "list_files", full)
      store.save(2, make_state(2))
      with pytest.raises(checkpoints.CheckpointError, match="No space left"):
        store.wait()
    assert store.steps() == [1]
    store.save(2, make_state(2))
  assert restore(tmp_path).step == 2


def test_error_at_the_close_names_the_checkpoints(tmp_path, monkeypatch):
  directory = checkpoint_directory.Directory(
    tmp_path, keep_last=1, read_only=False
  )

  def full():
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(directory._manager, "close", full)
    with pytest.raises(checkpoints.CheckpointError, match=f"{tmp_path}: OSErr"):
      directory.close()
  directory.close()


@pytest.mark.parametrize("reopened", [True, False])
@pytest.mark.parametrize("step", [5, 10])
def test_step_that_does_not_grow_is_an_error_that_names_both(
  tmp_path, reopened, step
):
  store = checkpoints.Store(tmp_path)
  store.save(10, make_state(10), metrics=metrics(0.5))
  if reopened:
    store.close()
    store = checkpoints.Store(tmp_path)
  with store:
    with pytest.raises(checkpoints.CheckpointError) as error:
      store.save(step, make_state(1), metrics=metrics(0.9))
    assert f"checkpoint {tmp_path / str(step)}: checkpoint 10 is there" in str(
      error.value
    )
    assert "\n" not in str(error.value)
    assert store.best_steps() == [10]
    store.save(11, make_state(11))
    store.wait()
    assert store.steps() == [10, 11]


@pytest.mark.parametrize("when", ["asked", "in the background"])
def test_save_that_orbax_skips_is_an_error(tmp_path, monkeypatch, when):
  with checkpoints.Store(tmp_path) as store:
    with monkeypatch.context() as patch:
      patch.setattr(
        ocp.CheckpointManager, "save", lambda *_, **__: when != "asked"
      )
      if when == "asked":
        call = functools.partial(store.save, 1, make_state(1))
      else:
        store.save(1, make_state(1))
        call = store.wait
      with pytest.raises(checkpoints.CheckpointError, match="Could not save"):
        call()
    store.save(1, make_state(1))
  assert restore(tmp_path).step == 1


def old_state():
  return {
    "step": jnp.asarray(7, jnp.int32),
    "params": {
      "kernel": jnp.arange(12, dtype=jnp.float32).reshape(4, 3) / 8,
      "bias": jnp.asarray([0.5, -0.0, 2.0], jnp.bfloat16),
    },
    "mask": jnp.asarray([True, False]),
    "empty": {},
    "key": jax.random.key(7),
  }


@pytest.mark.parametrize("archive", OLD, ids=[path.stem for path in OLD])
def test_checkpoints_of_older_versions_are_read_and_followed(
  tmp_path, archive, capsys
):
  with zipfile.ZipFile(archive) as file:
    file.extractall(tmp_path)
  path = tmp_path / "checkpoints"
  before = contents(tmp_path)
  state = old_state()
  with checkpoints.Store(path, read_only=True) as store:
    assert store.best_steps() == [7]
    restored = store.restore(state, which="best")
  assert restored.step == 7
  assert restored.progress == {"sums": {"loss": 0.1 + 0.2}, "seconds": 1.5}
  assert_same(restored.state, state)
  assert np.signbit(restored.state["params"]["bias"][1])
  assert contents(tmp_path) == before
  with checkpoints.Store(path) as store:
    store.save(8, state, metrics=metrics(0.1))
    store.wait()
    assert store.steps() == [7, 8]
  damage(path / "7", "flipped")
  with checkpoints.Store(path) as store:
    assert store.restore(state, which="best").step == 8
  assert "taking checkpoint 8 instead" in capsys.readouterr().err


def test_kill_in_the_middle_of_a_save_leaves_the_one_before(tmp_path):
  program = textwrap.dedent("""
    import os, signal, sys
    import jax.numpy as jnp
    from robust_info.training import checkpoints
    store = checkpoints.Store(sys.argv[1])
    store.save(1, {"x": jnp.ones(1000)})
    store.wait()
    store.save(2, {"x": jnp.ones((2000, 2000))})
    os.kill(os.getpid(), signal.SIGKILL)
  """)
  path = tmp_path / "checkpoints"
  result = subprocess.run(
    [sys.executable, "-c", program, str(path)],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    check=False,
  )
  assert result.returncode == -signal.SIGKILL
  assert any(not name.isdigit() for name in os.listdir(path))
  with checkpoints.Store(path) as store:
    assert store.steps() == [1]
    assert store.restore({"x": jnp.ones(1000)}).step == 1
    store.save(2, {"x": jnp.ones(1000)})
    store.wait()
    assert store.steps() == [1, 2]
  assert sorted(os.listdir(path)) == ["1", "2"]


def test_manifest_is_json_a_person_can_read(tmp_path):
  save(tmp_path, [0.25])
  text = (tmp_path / "1" / "manifest" / "metadata").read_text()
  manifest = json.loads(text)
  assert manifest["metrics"]["robust_accuracy"] == 0.25
  assert manifest["leaves"]["['params']['kernel']"]["shape"] == [4, 3]
