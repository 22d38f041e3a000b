"""Several processes as one run: joining, communication and agreement.

Every process runs the same program in the same order. Only the first process
reads and writes the files of the run; it sends the result, or the reason of a
failure, to the others. In a run of one process every function here is a plain
call.
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

# Lengths of messages are rounded up to limit the number of compiled programs.
_MIN_MESSAGE = 1024
# Largest number of differences that one line names.
_MAX_NAMES = 5


class JoinError(RuntimeError):
  """The processes of a run did not find each other; one line."""


class DisagreementError(RuntimeError):
  """The processes of a run were started with different settings; one line."""


def join(
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  timeout: int = 300,
) -> None:
  """Joins a run of several processes; call it before using any device.

  Args:
    coordinator: address `host:port` of process 0. If none of these three
      arguments is given, JAX reads them from the environment (Slurm, Open MPI,
      Kubernetes, Cloud TPU).
    num_processes: number of processes.
    process_id: index of this process, from 0.
    timeout: time to wait for the others, in seconds.

  Raises:
    ValueError: some of the three arguments are given and some are not.
    JoinError: the environment does not give them, or the other processes did
      not join in time.
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
  # The type depends on the cluster: RuntimeError, ValueError, or one of gRPC.
  except Exception as error:
    where = coordinator or "the environment"
    raise JoinError(
      f"Could not join the processes of {where} "
      f"({' '.join(str(error).split())[:200]}); give --coordinator, "
      "--num_processes and --process_id, and start every process."
    ) from error


def is_joined() -> bool:
  """Whether this process has joined a run of several."""
  return jax.distributed.is_initialized()


def is_first() -> bool:
  """Whether this process is the first, which reads and writes the files."""
  return jax.process_index() == 0


def on_first(
  fn: Callable[[], Any], *, errors: tuple[type[Exception], ...] = ()
) -> Any:
  """Calls `fn()` on the first process and returns its value on all of them.

  Collective: every process calls it, in the same order.

  Args:
    fn: function called on the first process only; returns a JSON value.
    errors: exceptions that the other processes raise too, with the same
      message. After any other exception the first process ends, and JAX ends
      the others.

  Returns:
    The value; in a run of several processes, each gets it after a round trip
    through JSON.
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
  """Copies the arrays of the first process to all of them, bit for bit.

  Collective: every process calls it, in the same order.

  Args:
    tree: a pytree of NumPy arrays, of the same shapes and dtypes everywhere.

  Returns:
    NumPy arrays.
  """
  if jax.process_count() == 1:
    return tree
  # Sent as bytes: a sum of floats with zeros would lose the sign of -0.
  leaves, structure = jax.tree.flatten(tree)
  found = multihost_utils.broadcast_one_to_all(
    [np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in leaves]
  )
  return structure.unflatten(
    np.asarray(content).view(leaf.dtype).reshape(leaf.shape)
    for content, leaf in zip(found, leaves, strict=True)
  )


def require_same(settings: Callable[[], Mapping[str, Any]]) -> None:
  """Requires all processes to have been started with the same settings.

  Collective: every process calls it, in the same order, and all raise an error
  if there is a difference.

  Args:
    settings: function that returns name -> JSON value; not called in a run of
      one process.

  Raises:
    DisagreementError: this process differs from the first one, with the names
      of the differences; or other processes do.
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
  """A number of some process that all processes see at the same call."""

  def __init__(self) -> None:
    self._pending: jax.Array | None = None

  def __call__(self, number: int) -> int:
    """Returns the largest number of all processes; collective.

    Args:
      number: number of this process, >= 0.

    Returns:
      `number` in a run of one process. In a run of several, the largest number
      of the previous call, so that no process waits for the devices; 0 at the
      first call.
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
