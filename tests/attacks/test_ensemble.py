"""Properties of auto_attack: the protocol, the pool, the progress on disk."""

import json

import counted_passes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import attacks
from robust_info.attacks import projections
from robust_info.attacks.autoattack import cost, flags, journal, standing

KEY = jax.random.key(0)
# Five classes are fewer than the targets of the protocol.
pytestmark = pytest.mark.filterwarnings(
  "ignore::robust_info.attacks.AttackWarning"
)
# Short runs; all tests below share the compiled programs.
SHORT = {"epsilon": 0.08, "num_steps": 4, "num_queries": 15}


def run(logits_fn, x, y, key=KEY, **options):
  return attacks.auto_attack(
    logits_fn, x, y, key, **{"batch_size": 16, **SHORT, **options}
  )


@pytest.fixture(scope="module")
def whole_and_compiled(mlp, batch):
  compiled = []

  def listen(event, duration, **_):
    del duration
    if event.endswith("backend_compile_duration"):
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  result = run(mlp, *batch)
  jax.monitoring.unregister_event_duration_listener(listen)
  return result, len(compiled)


@pytest.fixture(scope="module")
def whole(whole_and_compiled):
  return whole_and_compiled[0]


def test_compiles_at_most_fourteen_programs_in_all(whole_and_compiled):
  # Fewer if another test has compiled one of them before.
  assert whole_and_compiled[1] <= 14


def test_each_attack_only_lowers_the_accuracy(mlp, batch, whole):
  x, y = batch
  assert tuple(whole.accuracies) == ("clean", *attacks.VERSIONS["standard"])
  values = list(whole.accuracies.values())
  assert values == sorted(values, reverse=True)
  assert values[0] == pytest.approx(7 / 8)
  assert whole.robust_accuracy == 1 - np.mean(whole.success)
  logits = np.asarray(mlp(whole.x_adv))
  np.testing.assert_array_equal(whole.success, np.argmax(logits, 1) != y)
  np.testing.assert_allclose(whole.logits, logits, atol=1e-5)
  assert np.abs(whole.x_adv - x).max() <= SHORT["epsilon"] + 1e-6
  assert whole.x_adv.min() >= 0
  assert whole.x_adv.max() <= 1


def test_broken_by_names_the_attack_that_broke_each_example(whole):
  for place, name in enumerate(whole.attacks):
    before = list(whole.accuracies.values())[place]
    broken = np.sum(whole.broken_by == place)
    assert before - whole.accuracies[name] == pytest.approx(broken / 64)
  assert np.sum(whole.broken_by == -1) == 8
  np.testing.assert_array_equal(whole.broken_by == 4, ~whole.success)


def test_does_not_depend_on_batch_size(mlp, batch):
  options = {"attacks": ("square", "apgd-ce", "pgd"), "restarts": 4}
  one, other = (
    run(mlp, *batch, **options, batch_size=size) for size in (16, 7)
  )
  assert {0, 1, len(one.attacks)} <= set(one.broken_by)
  np.testing.assert_array_equal(other.broken_by, one.broken_by)
  np.testing.assert_allclose(other.x_adv, one.x_adv, atol=1e-5)


def test_does_not_depend_on_the_order_of_examples(mlp, batch, whole):
  x, y = batch
  order = np.random.default_rng(0).permutation(64)
  other = run(mlp, x[order], y[order], example_ids=order)
  np.testing.assert_array_equal(other.broken_by, whole.broken_by[order])
  np.testing.assert_allclose(other.x_adv, whole.x_adv[order], atol=1e-5)


def test_epsilon_zero_is_the_clean_accuracy(mlp, batch):
  result = run(mlp, *batch, epsilon=0.0)
  np.testing.assert_array_equal(result.x_adv, batch[0])
  assert set(result.accuracies.values()) == {7 / 8}


def test_masked_rows_are_left_out(mlp, batch, whole):
  x, y = batch
  where = np.arange(64) % 2 == 0
  other = run(mlp, x, np.where(where, y, np.int64(2**40)), where=where)
  np.testing.assert_array_equal(other.success, whole.success & where)
  np.testing.assert_array_equal(other.x_adv[~where], x[~where])
  expected = 1 - np.mean(whole.success[where])
  assert other.robust_accuracy == pytest.approx(expected)
  assert np.isnan(run(mlp, x, y, where=np.zeros(64, bool)).robust_accuracy)


def test_killed_and_resumed_gives_the_same_result(mlp, batch, whole, tmp_path):
  class KilledError(Exception):
    pass

  for seen_before in (1, 9, 17):
    events = []

    def die(progress, events=events, limit=seen_before):
      events.append(progress)
      if len(events) > limit:
        raise KilledError

    with pytest.raises(KilledError):
      run(mlp, *batch, state_dir=tmp_path, progress=die)
  assert list(tmp_path.glob("part-*.npz"))
  # Numbers of NumPy are the same settings.
  counts = {
    name: np.int64(SHORT[name]) for name in ("num_steps", "num_queries")
  }
  resumed = run(mlp, *batch, state_dir=tmp_path, **counts)
  np.testing.assert_array_equal(resumed.broken_by, whole.broken_by)
  np.testing.assert_array_equal(resumed.x_adv, whole.x_adv)
  assert resumed.accuracies == whole.accuracies
  # The attack is finished: nothing is left to run.
  late = []
  again = run(mlp, *batch, state_dir=tmp_path, progress=late.append)
  assert not late
  np.testing.assert_array_equal(again.x_adv, whole.x_adv)


def test_half_written_parts_are_ignored(mlp, batch, whole, tmp_path):
  run(mlp, *batch, state_dir=tmp_path)
  last = sorted(tmp_path.glob("part-*.npz"))[-1]
  last.rename(last.with_name(last.name + ".tmp"))
  resumed = run(mlp, *batch, state_dir=tmp_path)
  np.testing.assert_array_equal(resumed.broken_by, whole.broken_by)


def test_state_of_another_evaluation_is_refused(mlp, batch, tmp_path):
  run(mlp, *batch, state_dir=tmp_path, attacks=("apgd-ce",))
  header = json.loads((tmp_path / "header.json").read_text())
  assert header["epsilon"] == SHORT["epsilon"]
  with pytest.raises(ValueError, match="another epsilon") as caught:
    run(mlp, *batch, state_dir=tmp_path, attacks=("apgd-ce",), epsilon=0.3)
  assert "\n" not in str(caught.value)


def test_state_of_another_network_is_refused(mlp, batch, tmp_path):
  options = {"attacks": ("apgd-ce",), "state_dir": tmp_path / "leaves"}
  first = run(mlp, *batch, **options)

  def scaled(params, x):
    return mlp.func(params, 1.01 * x)

  first_weights, biases, weights = mlp.args[0]
  # All predictions stay the same.
  nearly = (first_weights, biases, weights * (1 + 1e-6))
  others = {
    "another network": jax.tree_util.Partial(mlp.func, nearly),
    "other clean logits": jax.tree_util.Partial(scaled, *mlp.args),
  }
  for message, other in others.items():
    with pytest.raises(ValueError, match=message) as caught:
      run(other, *batch, **options)
    assert "\n" not in str(caught.value)
  # A batch of another size rounds differently; nothing is left to attack.
  again = run(mlp, *batch, **options, batch_size=13)
  np.testing.assert_array_equal(again.broken_by, first.broken_by)
  np.testing.assert_allclose(again.logits, first.logits, atol=1e-5)


def test_state_of_a_plain_function_asks_for_its_logits_to_the_last_bit(
  tmp_path,
):
  x, ids = np.zeros((3, 2), np.float32), np.arange(3)
  data = standing.Data(x, ids, ids >= 0, ids, np.ones(3))
  clean = np.arange(9, dtype=np.float32).reshape(3, 3)
  nearly = clean * np.float32(1 + 1e-6)
  leaf = jax.tree_util.Partial(jnp.dot, np.eye(2))
  for function, refused in (
    (jax.tree_util.Partial(jnp.sin), True),
    (leaf, False),
  ):
    headers = [
      journal.header(function, logits, data, KEY, {})
      for logits in (clean, nearly)
    ]
    assert (headers[0] != headers[1]) is refused
    folder = tmp_path / str(refused)
    journal.Journal(folder, headers[0], clean)
    if refused:
      with pytest.raises(ValueError, match="another network"):
        journal.Journal(folder, headers[1], nearly)
    else:
      # The journal continues with the logits that it started with.
      book = journal.Journal(folder, headers[1], nearly)
      np.testing.assert_array_equal(book.clean, clean)


def test_data_stay_on_the_host(mlp, batch):
  x, y = (np.asarray(part) for part in batch)
  known = {id(array) for array in jax.live_arrays()}
  largest = []

  def look(event):
    del event
    sizes = [a.nbytes for a in jax.live_arrays() if id(a) not in known]
    largest.append(max(sizes, default=0))

  run(mlp, x, y, attacks=("apgd-ce",), progress=look)
  # Sixteen slots of inputs, and [N] ints.
  assert 0 < max(largest) <= x.nbytes / 4


def test_each_example_has_its_own_radius(mlp, batch, whole):
  x, y = batch
  radii = np.where(np.arange(64) % 2, SHORT["epsilon"], 0.0)
  result = run(mlp, x, y, epsilon=radii)
  np.testing.assert_array_equal(result.x_adv[::2], x[::2])
  np.testing.assert_array_equal(result.broken_by[1::2], whole.broken_by[1::2])
  np.testing.assert_allclose(result.x_adv[1::2], whole.x_adv[1::2], atol=1e-5)


def test_what_makes_the_number_doubtful_is_said_once(batch):
  x, y = batch

  def faulty(scale, x):
    # Flat, so nothing to ascend; and no prediction for the first two rows.
    classes = jnp.round(4 * x[:, 0, 0, 0]).astype(jnp.int32)
    logits = scale * jax.nn.one_hot(classes, 5)
    bad = jnp.any(x[:, -1, -1] == 2, axis=-1)
    return jax.nn.softmax(logits) * jnp.where(bad, jnp.nan, 1)[:, None]

  x = x.copy()
  x[:2, -1, -1] = 2.0
  y = np.argmax(faulty(9.0, x), -1)
  with pytest.warns(attacks.AttackWarning) as caught:
    result = run(
      jax.tree_util.Partial(faulty, 9.0),
      x,
      y,
      attacks=("pgd",),
      bounds=(0, 2),
      num_steps=2,
    )
  lines = [str(warning.message) for warning in caught]
  assert lines == list(result.warnings)
  logits, zero = (f"{word} of 6" for word in ("2", "62"))
  assert any(logits in line and "NaN" in line for line in lines)
  assert any(zero in line and "zero gradient" in line for line in lines)
  assert not any("\n" in line for line in lines)
  # Class 0 would be correct, and argmax of NaN is 0.
  assert result.accuracies["clean"] == 62 / 64
  np.testing.assert_array_equal(result.nonfinite_logits, np.arange(64) < 2)
  assert np.isfinite(result.x_adv).all()


def test_probabilities_and_host_randomness_are_flagged(mlp, batch):
  def noisy(fn, x):
    noise = np.random.default_rng().normal(size=5).astype(np.float32)
    return jax.nn.softmax(fn(x) + noise[None])

  def plain(x):
    return noisy(mlp, x)

  lines = run(plain, *batch, attacks=("pgd",), num_steps=1).warnings
  assert [line.split(":")[0] for line in lines] == [
    "the outputs look like probabilities (in [0, 1] with sum 1), whose "
    "gradients vanish",
    "the outputs change from call to call (between programs)",
  ]
  rows = jax.ShapeDtypeStruct(batch[0].shape, jnp.float32)
  assert flags.kept_redrawn(jax.tree_util.Partial(noisy, mlp), rows)
  assert not flags.kept_redrawn(mlp, rows)


def test_flags_of_the_protocol():
  assert not flags.of_outputs(np.array([[0.2, 0.7], [0.5, 0.5]]))
  first = np.array([[1.0, 2.0], [np.nan, 1.0]])
  assert not flags.of_repeats(first, first + 0, redrawn=False)
  [line] = flags.of_repeats(first, first + 0.1, redrawn=False)
  assert "version='rand'" in line
  assert flags.of_repeats(first, first[::-1], redrawn=False)
  names, left = ("apgd-ce", "square"), {"clean": 1.0, "apgd-ce": 0.5}
  assert not flags.of_accuracies(names, {**left, "square": 0.4985})
  [line] = flags.of_accuracies(names, {**left, "square": 0.497})
  assert "0.3 points" in line
  assert not flags.of_accuracies(names[1:], {"clean": 1.0, "square": 0.1})
  assert not flags.of_targets(("apgd-t", "square"), 9, 9)
  assert not flags.of_targets(("apgd-ce",), 1, 9)
  [line] = flags.of_targets(("apgd-t", "fab-t"), 4, 9)
  assert "4 targets" in line
  assert not flags.of_gradients({"square": 0}, {"square": 0}, {"square": 3})
  lines = flags.of_gradients(
    {"a": 2, "b": 0}, {"a": 0, "b": 1}, {"a": 9, "b": 7}
  )
  assert "1 of 7 examples in b" in lines[0]
  assert "2 of 9 examples in a" in lines[1]


def test_progress_reports_a_falling_accuracy(mlp, batch, whole):
  events = []
  run(mlp, *batch, progress=events.append)
  values = [event.robust_accuracy for event in events]
  assert values == sorted(values, reverse=True)
  assert values[-1] == whole.robust_accuracy
  assert all(event.finished <= event.total for event in events)
  done = [event.finished + event.under_way for event in events]
  assert all(d <= e.total for d, e in zip(done, events, strict=True))
  # Progress counts partial work on examples that are not finished.
  assert any(event.under_way > 0 for event in events)
  assert {event.attack for event in events} == set(whole.attacks)


def test_few_compilations_and_none_for_new_parameters(mlp, batch):
  traces = []

  def counted(fn, x):
    traces.append(x.shape)
    return fn(x)

  def again(scale):
    params = jax.tree.map(lambda leaf: scale * leaf, mlp)
    run(jax.tree_util.Partial(counted, params), *batch, epsilon=0.1 * scale)

  again(1.0)
  # Forward, two of APGD, two of FAB-T (gradient, check), Square, and the shape
  # of the logits for the validation of arguments.
  assert len(traces) <= 12
  before = len(traces)
  again(0.5)
  assert len(traces) == before


def test_plain_function_is_never_stale(mlp, batch):
  scale = [1.0]

  def changing(x):
    return scale[0] * mlp(x)

  first = run(changing, *batch, attacks=("pgd",))
  scale[0] = -1.0
  second = run(changing, *batch, attacks=("pgd",))
  assert second.accuracies["clean"] < first.accuracies["clean"]


def test_first_lucky_draw_does_not_end_the_attack():
  # A start near the boundary is misclassified in some draws and not in the next
  # ones; the corner of the ball, four standard deviations beyond it, in all.
  slope = np.random.default_rng(0).normal(size=16).astype(np.float32)
  epsilon = 2.5 / np.abs(slope).sum()
  x = np.tile(0.5 + 0.5 * slope / (slope @ slope), (64, 1))
  # The second attack gets the rows that cannot be broken.
  broken = np.arange(64) % 2 == 0

  def noisy(slope, x, key):
    margin = (x - 0.5) @ slope + jax.random.normal(key, (len(x),))
    return jnp.stack([margin, jnp.zeros_like(margin)], axis=-1)

  result = run(
    jax.tree_util.Partial(noisy, slope),
    x,
    np.zeros(64, np.int32),
    version="rand",
    eot_samples=4,
    num_steps=10,
    epsilon=np.where(broken, epsilon, 0),
    bounds=(-9.0, 9.0),
  )
  assert result.attacks == ("apgd-ce", "apgd-dlr")
  assert result.accuracies["clean"] > 0.7
  assert result.success[broken].all()
  assert result.robust_accuracy < result.accuracies["clean"]


def test_state_of_a_randomised_network_keeps_its_batch_size(tmp_path):
  def noisy(x, key):
    noise = jax.random.normal(key, (3,), x.dtype)
    return x @ jnp.eye(4, 3, dtype=x.dtype) + noise[None]

  x = np.random.default_rng(0).random((8, 4), np.float32)
  options = {"version": "rand", "eot_samples": 2, "state_dir": tmp_path}
  attacked = run(noisy, x, np.zeros(8, int), **options, batch_size=8)
  again = run(noisy, x, np.zeros(8, int), **options, batch_size=8)
  assert again.accuracies == attacked.accuracies
  with pytest.raises(ValueError, match=r"another batch_size \(8, not 4\)"):
    run(noisy, x, np.zeros(8, int), **options, batch_size=4)


def test_two_classes(batch):
  x = batch[0].reshape(64, -1)
  weights = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
  y = np.argmax(x @ weights, -1).astype(np.int32)
  # Targeted attacks only; untargeted ones are tested on two classes below.
  result = run(
    jax.tree_util.Partial(lambda w, v: v @ w, weights),
    x,
    y,
    attacks=("apgd-t", "fab-t"),
    epsilon=0.5,
  )
  assert result.accuracies["clean"] == 1
  assert result.robust_accuracy < 0.2


def test_pgd_alone_breaks_exactly_what_it_can(batch):
  x = batch[0].reshape(64, -1)
  weights = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
  logits_fn = jax.tree_util.Partial(lambda w, v: v @ w, weights)
  logits = np.asarray(logits_fn(x))
  y = np.argmax(logits, -1)
  slope = np.abs(weights[:, 0] - weights[:, 1]).sum()
  distance = np.abs(logits[:, 0] - logits[:, 1]) / slope
  epsilon = float(np.median(distance))
  result = run(
    logits_fn,
    x,
    y,
    attacks=("pgd",),
    num_steps=20,
    epsilon=epsilon,
    bounds=(-9.0, 9.0),
  )
  assert result.accuracies == {"clean": 1.0, "pgd": 0.5}
  np.testing.assert_array_equal(result.success, distance < epsilon)
  assert np.abs(result.x_adv - x).max() <= epsilon + 1e-6
  assert result.zero_gradients == {"pgd": 0}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_restarts_of_pgd_only_break_more(mlp, batch, norm, rounding):
  x, y = batch
  epsilon = {"linf": 0.05, "l2": 0.2, "l1": 0.5}[norm]
  options = {"attacks": ("pgd",), "norm": norm, "epsilon": epsilon}
  once, often = (
    run(mlp, x, y, **options, restarts=restarts) for restarts in (1, 4)
  )
  # Batches with different rows round differently.
  barely = np.asarray(attacks.losses.margin(once.logits, y)) < rounding
  assert np.all(often.success | ~once.success | barely)
  assert 0 < often.robust_accuracy <= once.robust_accuracy < 7 / 8
  distance = projections.norm(often.x_adv - x, norm)
  assert np.all(distance <= epsilon + 1e-5)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"version": "best"}, "version to be one of"),
    ({"norm": "l1"}, "norm to be one of"),
    ({"norm": "l1", "attacks": ("pgd", "square")}, "norm to be one of"),
    ({"attacks": ("fgsm",)}, "attacks to be one of"),
    ({"restarts": 0}, "restarts >= 1"),
    ({"attacks": ()}, "each attack once"),
    ({"attacks": ("square", "square")}, "each attack once"),
    ({"epsilon": -1.0}, "epsilon >= 0"),
    ({"epsilon": np.ones(16)}, r"number or of shape \(64,\)"),
    ({"epsilon": np.r_[np.ones(63), -1]}, r"epsilon\[63\]=-1"),
    ({"x": np.full((64, 4, 4, 1), np.nan)}, "x in bounds"),
    ({"x": np.full((64, 16), np.inf), "bounds": None}, "x to be finite"),
    ({"batch_size": 0}, "batch_size >= 1"),
    ({"y": np.full(64, 9, np.int32)}, r"y\[0\]=9"),
    ({"y": np.full(64, 2**32)}, "y that fit 32-bit integers"),
    ({"x": np.ones((0, 16)), "y": np.ones(0, int)}, "at least one example"),
  ],
)
def test_bad_arguments_give_one_clear_line(mlp, batch, change, message):
  x, y = batch
  options = {"logits_fn": mlp, "x": x, "y": y, **change}
  with pytest.raises(ValueError, match=message) as caught:
    run(**options)
  assert "\n" not in str(caught.value)


def test_the_stated_cost_is_that_of_examples_which_stay_robust():
  weights = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
  logits_fn, counts = counted_passes.watched(
    lambda x: x.reshape(x.shape[0], -1) @ weights
  )
  x = np.random.default_rng(1).random((1, 3, 3, 1), np.float32)
  y = np.argmax(logits_fn(x), -1)
  # The attacks share the forward pass of a Partial.
  logits_fn = jax.tree_util.Partial(logits_fn)
  sizes = {"version": "plus", "num_steps": 20, "num_queries": 100}
  for name, stated in cost.passes(4, **sizes).items():
    jax.effects_barrier()
    counts.clear()
    result = attacks.auto_attack(
      logits_fn,
      x,
      y,
      jax.random.key(0),
      epsilon=1e-6,
      attacks=(name,),
      **sizes,
    )
    jax.effects_barrier()
    assert result.robust_accuracy == 1
    assert counts.total() == pytest.approx(stated, rel=0.15), name
