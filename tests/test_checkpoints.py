import json
import os
import resource
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robust_info import checkpoints


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
  """Checkpoints at steps 1, 2, ...; None means one without metrics."""
  with checkpoints.Store(path, **kwargs) as store:
    for step, score in enumerate(scores, start=1):
      store.save(
        step,
        make_state(step),
        progress={"step": step},
        metrics=None if score is None else metrics(score),
      )


def restore(path, **kwargs):
  with checkpoints.Store(path, read_only=True) as store:
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
    # Training goes on and reaches the step again.
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


def test_only_damaged_checkpoints_are_an_error_not_a_fresh_start(
  tmp_path, capsys
):
  save(tmp_path / "checkpoints", [0.1])
  damage(tmp_path / "checkpoints" / "1", "truncated")
  with pytest.raises(checkpoints.CheckpointError, match="Every checkpoint"):
    restore(tmp_path / "checkpoints")


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
  assert "Could not save" in str(error.value)
  assert "File too large" in str(error.value)
  assert "\n" not in str(error.value)
  with checkpoints.Store(path) as store:
    assert store.steps() == [1]
    restored = store.restore(large)
  np.testing.assert_array_equal(restored.state["x"], large["x"])


def test_kill_in_the_middle_of_a_save_leaves_the_one_before(tmp_path):
  program = textwrap.dedent("""
    import os, signal, sys
    import jax.numpy as jnp
    from robust_info import checkpoints
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
