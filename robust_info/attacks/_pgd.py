"""Projected gradient descent (PGD).

A pure function that compiles once for each architecture, shape and setting if
the network is a `jax.tree_util.Partial` of its parameters:

    logits_fn = jax.tree_util.Partial(model.apply, variables)
    result = attacks.pgd(logits_fn, x, y, key, epsilon=0.1, num_steps=20)

Here new `variables`, `x`, `epsilon` or `step_size` reuse the program. With a
plain function, or a `loss` or `projection` of your own, which may hold values
that change, each call outside `jax.jit` traces and compiles again.

Shape letters: N examples, C classes, D inputs flattened.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from robust_info import _validate
from robust_info._xla import compiled, explicit_meshes
from robust_info.attacks import (
  ascent,
  initial,
  inputs,
  losses,
  methods,
  projections,
  radii,
  results,
  steps,
)

# Rule of thumb of Madry et al.: the steps together cover 2.5 times the radius.
_REACH = 2.5


@explicit_meshes.accepted(rows=True)
def pgd(
  logits_fn: _validate.LogitsFn,
  x: Float[ArrayLike, "N ..."],
  y: Integer[ArrayLike, " N"],
  key: PRNGKeyArray | None = None,
  *,
  epsilon: radii.Radius,
  step_size: radii.Radius | None = None,
  num_steps: int = 20,
  norm: str = "linf",
  random_start: bool = True,
  restarts: int = 1,
  loss: str | losses.Loss = "cross_entropy",
  targeted: bool = False,
  momentum: float = 0.0,
  keep: str = "last",
  bounds: inputs.Bounds = (0.0, 1.0),
  where: Bool[ArrayLike, " N"] | None = None,
  example_ids: Integer[ArrayLike, " N"] | None = None,
  eot_samples: int | None = None,
  projection: projections.Projection | None = None,
) -> results.AttackResult:
  """Projected gradient descent (Madry et al. 2018), worst case per example.

  Guarantees:

  - `x_adv` is finite and lies in the ball to 1e-6 and in `bounds` for any
    gradients: their NaN and infinite entries count as 0 and are reported.
  - `epsilon=0` returns `x` bit for bit, clipped to `bounds` (subnormal numbers,
    below 1e-38, may become 0), and masked rows are returned unchanged.
  - Up to rounding, a row's result depends neither on the rest of the batch nor
    on its place in it (given `example_ids`).
  - Bad values that cause no error because they are traced make their rows not
    `valid`.

  Inputs that the model misclassifies are attacked like the others and normally
  stay misclassified. `keep="worst"` guarantees this only for
  `random_start=False`, because a random start does not visit the clean point.

  Cost: per restart `num_steps` gradients and one forward pass. Restarts run as
  one batch of `restarts * N` rows, and `eot_samples` multiplies that again:
  both multiply the memory. For the robust accuracy of a data set,
  `auto_attack(..., attacks=("pgd",))` drops broken examples on the way.

  Args:
    logits_fn: network, [N, ...] -> [N, C]. It must be deterministic and treat
      rows independently (evaluation mode, normalisation inside), because a
      large batch may be split into parts. See the module docstring for how to
      pass parameters.
    x: [N, ...] float inputs within `bounds`, in any layout.
    y: [N] int labels (with `targeted`, the classes to reach).
    key: PRNG key, consumed; may be `None` if nothing is random.
    epsilon: radius of the ball in input units, >= 0: one number, or [N], one
      per example; may be traced.
    step_size: length of a step in `norm`, [] or [N]; `2.5 * epsilon /
      num_steps` unless given; may be traced.
    num_steps: number of gradient steps, static.
    norm: "linf", "l2" or "l1".
    random_start: whether to start uniformly in the ball (cut to the box)
      instead of at `x`.
    restarts: number of independent random starts. The worst one counts: a
      success beats every failure, then the higher loss.
    loss: "cross_entropy", "margin", "dlr", or `loss(logits, labels) -> [N]`.
    targeted: whether to descend the loss towards `y` instead; success is then
      `argmax == y`.
    momentum: decay of an accumulated gradient (MI-FGSM, Dong et al. 2018); a
      Python float, 0 for none.
    keep: "last" returns the last iterate of each start, as in the literature;
      "worst" its worst iterate, without further passes through the network.
    bounds: (low, high) of valid inputs, or `None`.
    where: [N] bool, `False` in padding rows.
    example_ids: [N] ints that fix each row's randomness in any batch; 0..N-1
      unless given.
    eot_samples: number of draws of a randomised network, over which losses are
      averaged (expectation over transformation, Athalye et al. 2018); it is
      called as `logits_fn(x, key)`. `None` for a deterministic network.
    projection: projection to use instead of the norm's usual one, for example
      `projections.project_l2`.

  Returns:
    An `AttackResult`.

  Raises:
    ValueError: an argument has a bad shape or value, x lies outside `bounds`,
      or labels are out of range. Shapes are always validated, values only where
      they are concrete; traced values end in `AttackResult.valid`.
    TypeError: x is not float, y not integer, or a key is missing.
  """
  checked = inputs.check(logits_fn, x, y, bounds=bounds, where=where)
  return attack_in_ball(
    _label_objective,
    {"loss": losses.resolve(loss), "targeted": targeted},
    logits_fn,
    checked,
    key,
    Settings(
      num_steps=num_steps,
      norm=norm,
      random_start=random_start,
      restarts=restarts,
      momentum=momentum,
      keep=keep,
      eot_samples=eot_samples,
      projection=projection,
    ),
    epsilon=epsilon,
    step_size=step_size,
    example_ids=example_ids,
  )


def _label_objective(evaluate, labels, *_, loss, targeted):
  return ascent.label_objective(evaluate, labels, loss, targeted=targeted)


def tile(array: jax.Array, restarts: int) -> jax.Array:
  """Repeats a batch for each restart, [N, ...] -> [R * N, ...]."""
  if restarts == 1:
    return array
  return jnp.tile(array, (restarts,) + (1,) * (array.ndim - 1))


def _random_start(
  key: Any,
  centres: jax.Array,
  epsilon: jax.Array,
  norm: str,
  restarts: int,
  example_ids: ArrayLike | None,
) -> jax.Array:
  """Draws points in the balls around `centres` [R * N, ...], not yet boxed."""
  num_examples = len(centres) // restarts
  keys = jax.vmap(
    lambda r: inputs.example_keys(
      jax.random.fold_in(inputs.mappable(key), r), example_ids, num_examples
    )
  )(jnp.arange(restarts))
  return centres + initial.BY_NORM[norm](
    keys.reshape(restarts * num_examples, *keys.shape[2:]), centres, epsilon
  )


class Settings(NamedTuple):
  """Arguments of `pgd` that are part of its program; see there."""

  num_steps: int
  norm: str
  random_start: bool
  restarts: int
  momentum: float
  keep: str
  eot_samples: int | None
  projection: projections.Projection | None


def attack_in_ball(
  make_objective: Callable[..., ascent.Objective],
  options: dict[str, Any],
  logits_fn: _validate.LogitsFn,
  checked: inputs.Inputs,
  key: Any,
  settings: Settings,
  *,
  clean: jax.Array | None = None,
  epsilon: ArrayLike,
  step_size: ArrayLike | None,
  example_ids: ArrayLike | None,
) -> results.AttackResult:
  """Runs start, ascent and worst case over restarts; arguments as in `pgd`.

  `make_objective(evaluate, labels, clean, start, **options)` makes the loss to
  maximise for the batch of all restarts. `clean` [N, C] are the clean logits,
  if it needs them: rows where they are not finite are not valid.
  """
  num_examples, eot_samples = checked.x.shape[0], settings.eot_samples
  _validate.positive_int("num_steps", settings.num_steps)
  _validate.positive_int("restarts", settings.restarts)
  radii.check("epsilon", epsilon, num_examples)
  _validate.one_of("norm", settings.norm, projections.NORMS)
  _validate.one_of("keep", settings.keep, ("last", "worst"))
  _validate.at_least("momentum", settings.momentum, 0)
  epsilon = radii.argument(epsilon, checked.x)
  if step_size is None:
    step_size = _REACH * epsilon / settings.num_steps
  radii.check("step_size", step_size, num_examples)
  if eot_samples is not None:
    _validate.positive_int("eot_samples", eot_samples)
  if settings.restarts > 1 and not settings.random_start:
    raise ValueError(
      "Expected restarts=1 with random_start=False, got "
      f"restarts={settings.restarts}: every restart would be the same."
    )
  if settings.random_start or eot_samples is not None:
    inputs.require_key(key)
  num_classes = inputs.num_classes(logits_fn, checked.x, key, eot_samples)
  _validate.labels_in_range("y", checked.y, num_classes, checked.where)
  found = _attack_in_ball(
    logits_fn,
    checked,
    key,
    clean,
    epsilon,
    radii.argument(step_size, checked.x),
    inputs.ids(example_ids, num_examples),
    (make_objective, options),
    settings,
    num_classes,
  )
  return results.noticed(found, checked.where)


@compiled.once
def _attack_in_ball(
  logits_fn,
  checked,
  key,
  clean,
  epsilon,
  step_size,
  example_ids,
  goal,
  settings,
  num_classes,
):
  norm, restarts = settings.norm, settings.restarts
  epsilon, step_size = (radii.of(v, checked.x) for v in (epsilon, step_size))
  start_key, draw_key = (None, None) if key is None else jax.random.split(key)
  evaluate = ascent.evaluator(logits_fn, settings.eot_samples)
  valid = inputs.valid(checked, num_classes, epsilon, step_size)
  if clean is not None:
    valid &= results.finite(clean)
    clean = tile(clean, restarts)

  # Restarts run as one batch of `restarts * N` rows.
  box = {"low": checked.low, "high": checked.high}
  epsilons = radii.tile(epsilon, restarts)
  project = settings.projection or projections.BY_NORM[norm]
  centres = tile(checked.x, restarts)
  start = centres
  if settings.random_start:
    start = _random_start(
      start_key, centres, epsilons, norm, restarts, example_ids
    )
    start = project(start, centres, epsilons, **box)
  make_objective, options = goal
  tries = ascent.ascend(
    make_objective(
      evaluate, tile(checked.y, restarts), clean, start, **options
    ),
    centres,
    start,
    tile(checked.where & valid, restarts),
    draw_key if settings.eot_samples else None,
    epsilon=epsilons,
    step_size=radii.tile(step_size, restarts),
    num_steps=settings.num_steps,
    step_rule=steps.BY_NORM[norm],
    projection=project,
    momentum=settings.momentum,
    keep=settings.keep,
    **box,
  )
  if restarts > 1:
    tries = results.keep_worst(
      jax.tree.map(
        lambda leaf: leaf.reshape((restarts, -1, *leaf.shape[1:])), tries
      )
    )
  return results.settle(tries, checked.x, checked.where, valid)


class State(NamedTuple):
  """Carry of a PGD run, one row per example.

  Attributes:
    tried: the try that each row runs.
    x_adv: [N, ...] iterate of the next forward pass.
    iteration: see `methods.State`.
    found: see `methods.State`.
    x_found: see `methods.State`.
    zero_gradient: see `methods.State`.
    nonfinite_gradient: see `methods.State`.
  """

  tried: methods.Try
  x_adv: jax.Array
  iteration: jax.Array
  found: jax.Array
  x_found: jax.Array
  zero_gradient: jax.Array
  nonfinite_gradient: jax.Array


def method(
  *, norm: str, num_steps: int, low: float, high: float
) -> methods.Method:
  """PGD whose rows may end early: cross-entropy, untargeted, random start.

  `pgd` takes every example through all its steps, because a loss or a lens
  needs them. For robust accuracy alone an example ends at its first
  misclassified iterate.
  """
  box = {"low": low, "high": high}
  project = projections.BY_NORM[norm]

  def start(tried: methods.Try, epsilon: ArrayLike) -> State:
    x = tried.x
    moved = x + initial.BY_NORM[norm](tried.key, x, epsilon)
    x_start = project(moved, x, epsilon, **box)
    no = jnp.zeros((x.shape[0],), bool)
    return State(
      tried=tried,
      x_adv=x_start,
      iteration=jnp.zeros((x.shape[0],), jnp.int32),
      found=no,
      x_found=x_start,
      zero_gradient=no,
      nonfinite_gradient=no,
    )

  def step(
    evaluate: methods.Evaluate, state: State, epsilon: ArrayLike, key: Any
  ) -> State:
    tried, x_adv = state.tried, state.x_adv
    moved = ascent.move(
      ascent.label_objective(
        evaluate, tried.y, losses.cross_entropy, targeted=False
      ),
      x_adv,
      None,
      tried.x,
      key,
      epsilon=epsilon,
      step_size=_REACH * radii.of(epsilon, x_adv) / num_steps,
      step_rule=steps.BY_NORM[norm],
      projection=project,
      momentum=0.0,
      **box,
    )
    # The pool may call the step again after a row's last iterate.
    current = state.iteration <= num_steps
    hit = moved.evaluation.success & current
    return State(
      tried=tried,
      x_adv=moved.x_adv,
      iteration=state.iteration + 1,
      found=state.found | hit,
      x_found=results.select(
        hit | (current & ~state.found), x_adv, state.x_found
      ),
      zero_gradient=jnp.where(
        state.iteration == 0, moved.zero_gradient, state.zero_gradient
      ),
      nonfinite_gradient=state.nonfinite_gradient | moved.nonfinite_gradient,
    )

  # One more forward pass: that at the last iterate, after all steps.
  return methods.Method(start, step, num_steps + 1, targeted=False)
