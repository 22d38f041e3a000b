"""Several processes as one run: how they meet, and what they must agree on.

Every process runs the same program in the same order. The first one alone
reads and writes the run's files; what it finds there, or why it failed, the
others are told. In a run of one process everything here is a plain call.
"""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from robust_info.runtime import sharding

# Lengths of messages are rounded up, so that few programs are compiled.
_MIN_MESSAGE = 1024
# Differences that one line names.
_MAX_NAMES = 5


class JoinError(RuntimeError):
  """The processes of a run did not find each other; one line."""


class DisagreementError(RuntimeError):
  """The processes of a run were started for different things; one line."""


def join(
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  timeout: int = 300,
) -> None:
  """Makes this process part of a run of several; call it before any device.

  Args:
    coordinator: `host:port` of process 0. Without the three of them, JAX asks
      the environment (Slurm, Open MPI, Kubernetes, Cloud TPU).
    num_processes: how many there are.
    process_id: which one this is, from 0.
    timeout: seconds to wait for the others.

  Raises:
    ValueError: some of the three are given and some are not.
    JoinError: the environment says nothing, or the others did not come.
  """
  given = [v is not None for v in (coordinator, num_processes, process_id)]
  if any(given) and not all(given):
    raise ValueError(
      "Expected coordinator, num_processes and process_id together, got "
      f"coordinator={coordinator}, num_processes={num_processes}, "
      f"process_id={process_id}."
    )
  try:
    jax.distributed.initialize(
      coordinator, num_processes, process_id, initialization_timeout=timeout
    )
  # What comes up depends on the cluster: RuntimeError, ValueError, gRPC's own.
  except Exception as error:
    where = coordinator or "the environment"
    raise JoinError(
      f"Could not join the processes of {where} "
      f"({' '.join(str(error).split())[:200]}); give --coordinator, "
      "--num_processes and --process_id, and start every process."
    ) from error


def is_joined() -> bool:
  """Whether this process is one of several that were joined."""
  return jax.distributed.is_initialized()


def is_first() -> bool:
  """Whether this process is the one that reads and writes files."""
  return jax.process_index() == 0


def on_first(
  fn: Callable[[], Any], *, errors: tuple[type[Exception], ...] = ()
) -> Any:
  """What `fn()` returns on the first process, on all of them.

  Collective: every process calls it, in the same order.

  Args:
    fn: called on the first process only; returns what JSON can hold.
    errors: exceptions that the others raise too, with the same message. After
      any other one the first process ends, and JAX ends the others.

  Returns:
    The value; of several processes each gets what JSON makes of it.
  """
  if jax.process_count() == 1:
    return fn()
  message, failure = None, None
  if is_first():
    try:
      message = {"value": fn()}
    except errors as error:
      failure = error
      kind = next(k for k, e in enumerate(errors) if isinstance(error, e))
      message = {"error": str(error), "kind": kind}
  message = json.loads(_spread_text(json.dumps(message)))
  if failure is not None:
    raise failure
  if "error" in message:
    raise errors[message["kind"]](message["error"])
  return message["value"]


def from_first(tree: Any) -> Any:
  """The arrays of the first process, on all of them, bit for bit.

  Collective: every process calls it, in the same order.

  Args:
    tree: a pytree of NumPy arrays, of the same shapes and dtypes everywhere.

  Returns:
    NumPy arrays.
  """
  if jax.process_count() == 1:
    return tree
  # Bytes: a sum of floats with zeros would lose the sign of -0.
  leaves, structure = jax.tree.flatten(tree)
  found = multihost_utils.broadcast_one_to_all(
    [np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in leaves]
  )
  return structure.unflatten(
    np.asarray(content).view(leaf.dtype).reshape(leaf.shape)
    for content, leaf in zip(found, leaves, strict=True)
  )


def require_same(settings: Callable[[], Mapping[str, Any]]) -> None:
  """Requires all processes to have been started for the same thing.

  Collective: every process calls it, in the same order, and all get an error
  if there is a difference.

  Args:
    settings: gives name -> a value that JSON can hold; not called in a run of
      one process.

  Raises:
    DisagreementError: this process differs from the first one, with the names;
      or others do.
  """
  if jax.process_count() == 1:
    return
  text = json.dumps(settings())
  own, first = json.loads(text), json.loads(_spread_text(text))
  names = [n for n in {**first, **own} if first.get(n) != own.get(n)]
  found = multihost_utils.process_allgather(np.array([len(names)], np.int32))
  others = np.flatnonzero(np.asarray(found).reshape(-1)).tolist()
  if not others:
    return
  remedy = "start every process with the same command, code and data"
  if not names:
    numbers = ", ".join(map(str, others))
    raise DisagreementError(
      f"Process {jax.process_index()}: process {numbers} was started "
      f"otherwise, see its own line; {remedy}."
    )
  listed = "; ".join(
    f"{name} = {own.get(name)!r} instead of {first.get(name)!r}"
    for name in names[:_MAX_NAMES]
  )
  more = f" and {len(names) - _MAX_NAMES} more" * (len(names) > _MAX_NAMES)
  raise DisagreementError(
    f"Process {jax.process_index()} was started otherwise than process 0: "
    f"{listed}{more}; {remedy}."
  )


class Poll:
  """A number that some process has, noticed by all at the same call."""

  def __init__(self) -> None:
    self._pending: jax.Array | None = None

  def __call__(self, number: int) -> int:
    """The largest number of all processes; collective.

    Args:
      number: this process's own, >= 0.

    Returns:
      `number` in a run of one process. Of several the largest one of the call
      before, so that nobody waits for the devices; 0 at the first call.
    """
    if jax.process_count() == 1:
      return number
    own = np.full(jax.local_device_count(), number, np.int32)
    pending, self._pending = self._pending, _largest()(sharding.split_rows(own))
    return 0 if pending is None else int(pending)


@functools.cache
def _largest() -> Callable[[jax.Array], jax.Array]:
  return jax.jit(jnp.max, out_shardings=sharding.replicated())


def _spread_text(text: str) -> str:
  """The text of the first process."""
  content = np.frombuffer(text.encode(), np.uint8)
  length = int(from_first(np.array(len(content), np.int32)))
  size = max(_MIN_MESSAGE, 1 << (length - 1).bit_length())
  padded = np.zeros(size, np.uint8)
  if is_first():
    padded[:length] = content
  return from_first(padded)[:length].tobytes().decode()
