"""AutoAttack (Croce & Hein 2020): the attacks one after another.

Each attack sees only the examples that no earlier attack has broken; the robust
accuracy is the accuracy left at the end. The host runs the attacks: see
`pool.py`. Shape letters: N examples, C classes.
"""

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import explicit_meshes
from robust_info.attacks import inputs, projections, radii, results
from robust_info.attacks.autoattack import (
  flags,
  journal,
  pool,
  programs,
  standing,
)

VERSIONS = {
  "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
  "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
  "rand": ("apgd-ce", "apgd-dlr"),
}
ATTACKS = tuple(programs.METHODS)

STEPS = 100
QUERIES = 5000
TARGETS = 9
PLUS_RESTARTS = 5
_EOT_SAMPLES = 20
_LOOK_EVERY = {"square": 50}
_LOOK_EVERY_OTHERWISE = 10


@dataclasses.dataclass(frozen=True)
class Progress:
  """Progress of an evaluation.

  Attributes:
    attack: name of the running attack.
    finished: number of examples that it has finished.
    under_way: work done on the others, in examples that take all steps.
    total: number of examples that it received.
    resumed: number of the finished examples that an earlier process attacked.
    robust_accuracy: robust accuracy so far; it only falls within an attack.
    seconds: time since the evaluation was started (or resumed).
  """

  attack: str
  finished: int
  under_way: float
  total: int
  resumed: int
  robust_accuracy: float
  seconds: float


@dataclasses.dataclass(frozen=True)
class EnsembleResult:
  """Result of `auto_attack`; NumPy arrays on the host.

  Attributes:
    x_adv: [N, ...] a misclassified point of the ball where `success`, otherwise
      the input. Misclassified inputs are returned unchanged.
    success: [N] bool; robust accuracy is `1 - mean(success)` over `where`.
      Logits that are not finite count as misclassified.
    logits: [N, C] logits at `x_adv`.
    broken_by: [N] int, the index in `attacks` of the attack that broke the
      example; -1 for misclassified inputs, `len(attacks)` for robust examples
      and masked rows.
    attacks: names of the attacks, in order.
    accuracies: accuracy left after each attack, by name; "clean" comes first.
      NaN if the mask leaves no row.
    seconds: time of each attack, compilation included; 0 for parts resumed.
    zero_gradients: number of examples with a zero gradient at a start, by
      attack; 0 for "square", which takes no gradient.
    nonfinite_gradients: number of examples with a gradient with NaN or infinite
      entries, which count as 0, by attack.
    nonfinite_logits: [N] bool, `logits` of an unmasked row has NaN or infinity.
    warnings: reasons to doubt the robust accuracy, one line per reason, those
      of AutoAttack among them: outputs that are probabilities or change from
      call to call, logits or gradients that are not finite, zero gradients, a
      random search that beats the gradient attacks, fewer wrong classes than
      targets. See docs/guide/attacks.md.
  """

  x_adv: np.ndarray
  success: np.ndarray
  logits: np.ndarray
  broken_by: np.ndarray
  attacks: tuple[str, ...]
  accuracies: dict[str, float]
  seconds: dict[str, float]
  zero_gradients: dict[str, int]
  nonfinite_gradients: dict[str, int] = dataclasses.field(default_factory=dict)
  nonfinite_logits: np.ndarray | None = None
  warnings: tuple[str, ...] = ()

  @property
  def robust_accuracy(self) -> float:
    """Accuracy left after the last attack."""
    return self.accuracies[self.attacks[-1]]


@explicit_meshes.accepted(rows=True)
def auto_attack(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  y: Integer[ArrayLike, " N"],
  key: PRNGKeyArray,
  *,
  epsilon: radii.Radius,
  norm: str = "linf",
  version: str = "standard",
  attacks: tuple[str, ...] | None = None,
  restarts: int | None = None,
  num_steps: int = STEPS,
  num_queries: int = QUERIES,
  eot_samples: int = _EOT_SAMPLES,
  batch_size: int = 256,
  bounds: tuple[float, float] = (0.0, 1.0),
  where: Bool[ArrayLike, " N"] | None = None,
  example_ids: Integer[ArrayLike, " N"] | None = None,
  state_dir: str | None = None,
  progress: Callable[[Progress], None] | None = None,
) -> EnsembleResult:
  """Robust accuracy under the AutoAttack protocol.

  - "standard": APGD-CE, APGD-T (9 targets), FAB-T (9 targets), Square (5000
    queries), one start each, 100 iterations.
  - "plus": APGD-CE and APGD-DLR with 5 restarts, FAB with 5 restarts, Square,
    APGD-T, FAB-T.
  - "rand", for randomised networks, called as `logits_fn(x, key)`: APGD-CE and
    APGD-DLR with gradients averaged over `eot_samples` draws. An example counts
    as broken when the average logits of that many draws are wrong; it takes all
    steps, and the last point found must be wrong in new draws too.

  `attacks=("pgd",), num_steps=20, restarts=10` is plain PGD with the steps of
  `pgd`, where an example ends at its first misclassified iterate.

  With fewer wrong classes than targets there are C-1 targets. DLR is that of
  `losses`. Differences from the published code: an example leaves as soon as it
  is broken (the original runs the attack to its end, to the same accuracy),
  Square draws windows per example, and APGD compares its first step with its
  start where the original compares with 0.

  Guarantees: results depend neither on `batch_size` nor on the order of the
  rows (given `example_ids`), up to float rounding, except those of a randomised
  network, where all rows of a batch share its draws; `x_adv` is finite and lies
  in the ball to 1e-6 and in the box; `epsilon=0` gives the clean accuracy;
  robust accuracy never exceeds that of any attack in the list before it. An
  example whose logits are not finite counts as misclassified. Reasons to doubt
  the result are in `EnsembleResult.warnings`; each is printed once, as an
  `AttackWarning`.

  With `state_dir` a run killed at any point resumes where it was, with the same
  result; it loses the batch in flight, and fewer than `batch_size` finished
  examples. A run may resume with another batch size or on another machine if
  `logits_fn` is a `Partial` whose leaves (to the last bit) and clean logits (to
  a thousandth) are those of the folder. The parameters of a plain function
  cannot be seen, so its clean logits must agree to the last bit, which another
  machine may not reproduce. Networks that differ in their gradients only, as
  with `stop_gradient` or derivatives of one's own, are not told apart: each
  needs a folder of its own. A randomised network resumes with the same batch
  size only, and with new draws.

  Not for use under `jit`. Compiles two programs per attack, one for the plain
  forward pass and two small ones for keys. Pass parameters as
  `jax.tree_util.Partial(apply, params)`: they are then arguments of the
  compiled programs, which later calls with other parameters reuse. A plain
  function is compiled again at each call.

  Cost: about 1.9k forward and backward and 5k forward passes per robust example
  (standard); broken examples leave early. Device memory: that of one gradient
  at `batch_size`, and eight inputs per slot; the data set stays on the host.

  Args:
    logits_fn: network, [N, ...] -> [N, C], deterministic (except "rand").
    x: [N, ...] float inputs within `bounds`: the whole data set, best in NumPy.
    y: [N] int labels.
    key: PRNG key, consumed.
    epsilon: radius of the ball, >= 0: one number, or [N], one per example.
    norm: "linf" or "l2"; for "pgd" alone also "l1".
    version: "standard", "plus" or "rand".
    attacks: names from `ATTACKS` to run instead of the version's.
    restarts: number of starts of each untargeted gradient attack; unless given,
      5 for "plus" and 1 otherwise.
    num_steps: number of iterations of PGD, APGD and FAB.
    num_queries: number of queries of Square.
    eot_samples: number of draws of a randomised network, "rand" only.
    batch_size: number of slots on the device.
    bounds: (low, high) of valid inputs.
    where: [N] bool, `False` in rows to leave out.
    example_ids: [N] ints that randomness follows; 0..N-1 unless given.
    state_dir: folder that stores this evaluation, so that it can resume.
    progress: function called with a `Progress` now and then, from this thread.

  Returns:
    An `EnsembleResult`.

  Raises:
    ValueError: an argument is bad, `state_dir` holds another evaluation, or
      Square is to attack images that look channels-first: see `square`.
    TypeError: as `pgd`.
  """
  _validate.one_of("version", version, tuple(VERSIONS))
  _validate.positive_int("num_steps", num_steps)
  _validate.positive_int("num_queries", num_queries)
  _validate.positive_int("batch_size", batch_size)
  _validate.positive_int("eot_samples", eot_samples)
  if restarts is None:
    restarts = PLUS_RESTARTS if version == "plus" else 1
  _validate.positive_int("restarts", restarts)
  inputs.require_key(key)
  names = VERSIONS[version] if attacks is None else tuple(attacks)
  norms = (
    projections.NORMS if set(names) == {"pgd"} else projections.COMMON_NORMS
  )
  _validate.one_of("norm", norm, norms)
  for name in names:
    _validate.one_of("attacks", name, tuple(programs.METHODS))
  if "square" in names:
    inputs.channels_last("x", x)
  if not names or len(set(names)) < len(names):
    raise ValueError(
      f"Expected attacks to name each attack once, got {names!r}."
    )
  checked = inputs.check_on_host(logits_fn, x, y, bounds=bounds, where=where)
  num_examples = len(checked.x)
  _validate.some_examples("x", checked.x)
  radii.check("epsilon", epsilon, num_examples)
  if example_ids is None:
    example_ids = jax.device_put(np.arange(num_examples))
  ids = np.asarray(_validate.labels("example_ids", example_ids, num_examples))
  plan = programs.Plan(
    norm=norm,
    num_steps=int(num_steps),
    num_queries=int(num_queries),
    low=checked.low,
    high=checked.high,
    eot_samples=int(eot_samples) if version == "rand" else None,
  )
  epsilon = np.broadcast_to(np.asarray(epsilon, np.float64), num_examples)
  data = standing.Data(checked.x, checked.y, checked.where, ids, epsilon)
  result = _evaluate(
    logits_fn,
    data,
    key,
    plan,
    names,
    restarts=int(restarts),
    batch_size=min(batch_size, num_examples),
    state_dir=state_dir,
    progress=progress,
  )
  for line in result.warnings:
    warnings.warn(line, flags.AttackWarning, stacklevel=3)
  return result


def _evaluate(
  logits_fn: _validate.LogitsFn,
  data: standing.Data,
  key: Any,
  plan: programs.Plan,
  names: tuple[str, ...],
  *,
  restarts: int,
  batch_size: int,
  state_dir: str | None,
  progress: Callable[[Progress], None] | None,
) -> EnsembleResult:
  """Runs the named attacks in order; arguments as in `auto_attack`."""
  build, build_forward = programs.kept, programs.kept_forward
  redrawn = flags.kept_redrawn
  if not isinstance(logits_fn, jax.tree_util.Partial):
    # A function may close over values that change later: keep no programs.
    build, build_forward = programs.build, programs.build_forward
    redrawn = flags.redrawn
    logits_fn = jax.tree_util.Partial(logits_fn)
  clean_key, final_key, attack_key = jax.random.split(key, 3)
  program = build_forward(plan.eot_samples)

  def forward(rows, draw_key):
    return programs.forward_in_batches(
      program, logits_fn, rows, draw_key, batch_size
    )

  clean = forward(data.x, clean_key)
  _validate.logits_shape(clean.shape, len(data.x))
  _validate.labels_in_range("y", data.y, clean.shape[1], data.where)
  lines = flags.of_outputs(clean[data.where])
  if plan.eot_samples is None:
    again = forward(data.x[:batch_size], clean_key)
    spec = jax.ShapeDtypeStruct(data.x[:batch_size].shape, data.x.dtype)
    lines += flags.of_repeats(
      clean[:batch_size], again, redrawn(logits_fn, spec)
    )
  book = None
  past: list[dict[str, np.ndarray]] = []
  if state_dir is not None:
    settings = {"attacks": list(names), "restarts": restarts, **plan._asdict()}
    if plan.eot_samples is not None:  # The draws depend on it.
      settings["batch_size"] = batch_size
    header = journal.header(logits_fn, clean, data, key, settings)
    book = journal.Journal(state_dir, header, clean)
    past, clean = list(book.read()), book.clean
  field = standing.Standing(data, clean)
  targets = standing.likely_targets(clean, data.y, most=TARGETS)

  def attack(number: int, name: str) -> Iterator[pool.Look]:
    """Runs an attack on the examples that are left, and records it."""
    compiled = build(name, plan)
    targeted = compiled.method.targeted
    tries = restarts if compiled.method.backward else 1
    flow = pool.run(
      compiled,
      logits_fn,
      data.x,
      data.y,
      data.ids,
      field.todo(),
      targets if targeted else None,
      # The same wherever the attack stands in the list.
      jax.random.fold_in(attack_key, list(programs.METHODS).index(name)),
      epsilon=data.epsilon,
      tries=targets.shape[1] if targeted else tries,
      batch_size=batch_size,
      look_every=_LOOK_EVERY.get(name, _LOOK_EVERY_OTHERWISE),
    )
    return journal.recorded(flow, book, number, batch_size)

  accuracies = {"clean": field.accuracy()}
  seconds, dry, lost, given = {}, {}, {}, {}
  began = time.monotonic()
  for number, name in enumerate(names):
    since = time.monotonic()
    field.begin(number)
    total = int(field.robust.sum())
    for part in past:
      if part["attack"] == number:
        field.finish(
          pool.Finished(*(part[name] for name in pool.Finished._fields))
        )
    resumed = int(field.finished.sum())
    for look in attack(number, name):
      field.finish(look.finished)
      if progress is not None:
        progress(
          Progress(
            attack=name,
            finished=int(field.finished.sum()),
            # At most what is left, also by rounding.
            under_way=min(look.under_way, total - float(field.finished.sum())),
            total=total,
            resumed=resumed,
            robust_accuracy=field.accuracy(),
            seconds=time.monotonic() - began,
          )
        )
    field.confirm(lambda rows: forward(rows, final_key))
    accuracies[name] = field.accuracy()
    seconds[name] = time.monotonic() - since
    dry[name], lost[name] = int(field.dry.sum()), int(field.lost.sum())
    given[name] = total
  broken_by = np.where(field.robust | ~data.where, len(names), field.by)
  nonfinite = ~results.finite(field.logits) & data.where
  lines += flags.of_logits(nonfinite, data.where)
  lines += flags.of_gradients(dry, lost, given)
  lines += flags.of_accuracies(names, accuracies)
  lines += flags.of_targets(names, targets.shape[1], TARGETS)
  return EnsembleResult(
    x_adv=field.x_adv,
    success=~field.robust & data.where,
    logits=field.logits,
    broken_by=broken_by,
    attacks=names,
    accuracies=accuracies,
    seconds=seconds,
    zero_gradients=dry,
    nonfinite_gradients=lost,
    nonfinite_logits=nonfinite,
    warnings=tuple(lines),
  )
