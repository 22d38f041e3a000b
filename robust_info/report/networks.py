"""The networks of a report: of runs, and of any other origin.

Shape letters: N examples, C classes.
"""

import dataclasses
import functools
import math
import operator
import os
import pathlib
import types
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import _validate, adapters, data, fisher, models, training
from robust_info import config as config_lib
from robust_info.config import file as file_lib
from robust_info.config import registry
from robust_info.evaluation import programs
from robust_info.runtime import memory, sharding
from robust_info.training import memory_needs as needs

_CURVES = "validation"
# Images on which an adapter compares itself with the network it adapts.
_NUM_COMPARED = 8
_ANSWERS = ("num_classes", "image_shape")


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A network to report on.

  Attributes:
    place: path of its run or file; its end is the name in the report.
    apply_fn: function (variables, x [N, ...] in [0, 1]) -> logits [N, C], in
      evaluation mode; equal for networks that can share programs.
    variables: variables of the network.
    num_classes: number of classes, C.
    image_shape: shape (height, width, channels) of its images.
    identity: pytree that identifies the network as a function of the leaves of
      its variables, for stored measurements.
    about: fields of the report that describe it: `objective`, `model`,
      `checkpoint`, `step`, `config`, `curves` and `starts`.
  """

  place: pathlib.Path
  apply_fn: Callable[[Any, jax.Array], jax.Array]
  variables: Any
  num_classes: int
  image_shape: tuple[int, ...]
  identity: Any
  about: Mapping[str, Any]


def of_run(run: training.Run) -> Network:
  """The network of a run.

  Raises:
    ValueError: a model of one's own is not differentiable in its images.
  """
  model, apply_fn = run.config.model, models.apply_fn(run.model)
  shape = tuple(model.image_shape)
  program = None
  if registry.chosen(model):
    # The configuration does not show the code of a model of one's own.
    program = _program(apply_fn, run.variables, shape)
  return Network(
    place=run.workdir,
    apply_fn=apply_fn,
    variables=run.variables,
    num_classes=model.num_classes,
    image_shape=shape,
    identity=(model, program),
    about={
      "objective": run.config.objective.name,
      "model": _model_name(model),
      "checkpoint": run.checkpoint,
      "step": run.step,
      "config": dataclasses.asdict(run.config),
      "curves": [row for row in run.history if row["kind"] == _CURVES],
      "starts": [
        {key: start.get(key) for key in ("time", "git", "device", "backend")}
        for start in run.environment
      ],
    },
  )


def from_file(spec: str, source: data.DataSource) -> Network:
  """The network that a function of a Python file returns.

  Args:
    spec: `FILE.py:FUNCTION`. The function takes no arguments and returns a
      network as `adapters.adapt` takes it, or a pair of a network and a
      dictionary with `num_classes`, `image_shape` or both, which are then
      required of the data.
    source: data on which the network is measured.

  Raises:
    ValueError: the file or the function does not exist, the function fails, or
      the network does not fit the data.
    TypeError: the function returns something else.
    ImportError: the library of the network is not installed.
    config.file.FileError: the file cannot be run.
  """
  path, _, name = spec.rpartition(":")
  if not path or not name.isidentifier():
    raise ValueError(
      f"Expected model to be FILE.py:FUNCTION, got {spec!r}; for example "
      "my_network.py:load."
    )
  file = file_lib.read(path)
  module = _module(file)
  function = getattr(module, name, None)
  if not callable(function):
    known = [k for k, v in vars(module).items() if _is_own(v, module)]
    raise ValueError(
      f"Expected a function {name!r} in {path}, got none; it has "
      f"{', '.join(known) or 'no functions'}."
    )
  try:
    found = function()
  # It is a program of the user, which may raise anything.
  except (Exception, SystemExit) as error:
    raise file_lib.FileError(file_lib.place_of(error, path)) from error
  network, answers = _split(found, spec)
  images = source.test.images[:_NUM_COMPARED].astype(np.float32) / 255
  logits_fn = adapters.adapt(network, images=images)
  return from_logits_fn(
    logits_fn, source, place=spec, model=_class_of(network), **answers
  )


@functools.cache
def _module(file: registry.Origin) -> types.ModuleType:
  """The file as a module, run once.

  The functions of one file thus share its classes, and so the programs of
  networks of these classes.
  """
  return file_lib.run(file, f"model_{file.digest[:16]}")


def from_logits_fn(
  logits_fn: Callable[[jax.Array], jax.Array],
  source: data.DataSource,
  *,
  place: str | os.PathLike[str],
  model: str = "function",
  num_classes: int | None = None,
  image_shape: tuple[int, ...] | None = None,
) -> Network:
  """A network that is a function.

  Args:
    logits_fn: function x [N, H, W, channels] in [0, 1] -> logits [N, C]; as a
      `jax.tree_util.Partial` it shares compiled programs with networks of its
      architecture.
    source: data on which the network is measured.
    place: name of the network in the report.
    model: name of its architecture.
    num_classes: C; by default what the function returns.
    image_shape: shape (height, width, channels) of the images; by default that
      of the data.

  Raises:
    ValueError: the network does not fit the data or the given numbers.
    TypeError: not a function of such images.
  """
  if image_shape is not None and tuple(image_shape) != source.image_shape:
    raise ValueError(
      f"Expected the data of {place}, images {tuple(image_shape)}, got "
      f"{source.name} with images {tuple(source.image_shape)}."
    )
  fn = _validate.logits_fn("model", logits_fn)
  classes = adapters.num_classes(fn, source.image_shape)
  if num_classes not in (None, classes):
    raise ValueError(
      f"Expected {place} to have num_classes={num_classes}, got logits of "
      f"{classes} classes."
    )
  if classes < source.num_classes:
    raise ValueError(
      f"Expected {place} to have the {source.num_classes} classes of "
      f"{source.name}, got logits of {classes}."
    )
  partial = fn
  if not isinstance(fn, jax.tree_util.Partial):
    partial = jax.tree_util.Partial(fn)
  apply_fn, variables = _call, partial
  if len(partial.args) == 1 and not partial.keywords:
    # As the network of a run, with which it then shares programs.
    apply_fn, [variables] = partial.func, partial.args
  return Network(
    place=pathlib.Path(place),
    apply_fn=apply_fn,
    variables=variables,
    num_classes=classes,
    image_shape=tuple(source.image_shape),
    identity=_program(apply_fn, variables, source.image_shape),
    about={
      "objective": None,
      "model": model,
      "checkpoint": None,
      "step": None,
      "config": None,
      "curves": [],
      "starts": [],
    },
  )


def memory_needs(
  found: Sequence[Network], settings: config_lib.EvaluationConfig
) -> list[memory.Need]:
  """The memory that a report on these networks needs: that of the largest."""
  largest, layers = max(
    ((network, _layers(network)) for network in found), key=lambda both: both[1]
  )
  return needs.of_evaluation(
    settings,
    num_classes=largest.num_classes,
    image_shape=largest.image_shape,
    layers=layers,
  )


def fitting_batch(
  found: Sequence[Network], settings: config_lib.EvaluationConfig
) -> int:
  """A batch size that fits in memory, at most that of the settings [ours].

  An estimate for networks of unknown size: layers of a forward pass, a tangent
  and a backward pass, and the Jacobian up to `fisher.AUTO_CLASSES` classes, in
  a quarter of the memory of a device.

  Args:
    found: the networks of a report.
    settings: settings of the report.
  """
  largest = 1
  for network in found:
    row = 4 * _layers(network)
    if network.num_classes <= fisher.AUTO_CLASSES:
      row += 4 * network.num_classes * math.prod(network.image_shape)
    largest = max(largest, row)
  rows = memory.available() // (4 * largest) * sharding.num_devices()
  return max(1, min(settings.batch_size, rows))


def _layers(network: Network) -> int:
  return needs.bytes_per_example(
    network.apply_fn, network.variables, network.image_shape
  )


def _call(network: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  return network(x)


def _program(
  apply_fn: Callable[[Any, jax.Array], jax.Array],
  variables: Any,
  image_shape: Sequence[int],
) -> tuple[str, ...]:
  """The network as a function of the leaves of its variables.

  One of the programs is that of the gradient, because a mask of gradients
  (`stop_gradient`, derivatives of one's own) need not show in the logits.
  """
  x = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  logits = jax.eval_shape(apply_fn, variables, x)

  def pulled_back(variables, x, cotangent):
    value, pullback = jax.vjp(lambda x: apply_fn(variables, x), x)
    return value, *pullback(cotangent)

  try:
    gradient = programs.digest(pulled_back, variables, x, logits)
  # Rules of one's own may raise anything.
  except Exception as error:
    raise ValueError(
      "Expected model to be differentiable in its images, got "
      f"{_validate.reason(error)}"
    ) from error
  found = (programs.digest(apply_fn, variables, x), gradient)
  if None in found:
    # Of this object only: host code may change where no program shows it.
    return (uuid.uuid4().hex,)
  return found


def _class_of(network: Any) -> str:
  """Name of the architecture of a network that `adapters.adapt` takes."""
  if isinstance(network, tuple):
    network = network[0]
  while isinstance(network, functools.partial):
    network = network.func
  if isinstance(network, adapters.base.Network):
    network = getattr(network.run, "module", network.run)
  name = getattr(network, "__name__", type(network).__name__)
  return "function" if name == "<lambda>" else name


def _split(found: Any, spec: str) -> tuple[Any, dict[str, Any]]:
  """The network, and what the function says of it."""
  if not (
    isinstance(found, tuple)
    and len(found) == 2
    and isinstance(found[1], dict)
    and found[1].keys() <= {*_ANSWERS}
  ):
    return found, {}
  network, answers = found
  try:
    # Indices, as an axis of an array is.
    if (number := answers.get("num_classes")) is not None:
      answers = {**answers, "num_classes": operator.index(number)}
    if (shape := answers.get("image_shape")) is not None:
      shape = tuple(map(operator.index, shape))
      answers = {**answers, "image_shape": shape}
  except TypeError as error:
    raise TypeError(
      f"Expected {spec} to return num_classes as an integer and image_shape as "
      f"(height, width, channels), got {answers}."
    ) from error
  return network, answers


def _is_own(value: Any, module: Any) -> bool:
  return (
    callable(value) and getattr(value, "__module__", None) == module.__name__
  )


def _model_name(model: config_lib.ModelConfig) -> str:
  if part := registry.chosen(model):
    changed = dataclasses.asdict(getattr(model, part.name)).items()
    usual = dataclasses.asdict(part.settings())
    details = [f"{k}={v}" for k, v in changed if v != usual[k]]
    return f"{part.name} ({', '.join(details)})" if details else part.name
  name = model.name if model.width == 1 else f"{model.name}x{model.width:g}"
  if model.name == "logistic":  # It has no activation.
    details = []
  elif model.variant != "relu":
    details = [model.variant]
  else:
    details = [model.activation]
  if model.dtype != "float32":
    details.append(model.dtype)
  return f"{name} ({', '.join(details)})" if details else name
