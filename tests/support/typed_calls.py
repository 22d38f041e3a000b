"""Traces every public function with its annotations checked; see test_types.py.

Prints "refused", then one line per violation. The import hook checks every call
inside these rooms of the package, those of private functions among them.
"""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import short_process

ROOMS = ("information", "fisher", "lenses", "attacks", "objectives")
# An integer is a valid float, as for static type checkers.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"


def violations():
  """Names of the functions whose call breaks an annotation -> the error."""
  import public_calls
  import tiny_problem

  from robust_info import config, data, objectives

  arrays = public_calls.arrays()
  calls = {
    name: lambda x, other, name=name: public_calls.calls(x, other)[name]()
    for name in public_calls.calls(arrays["x"], arrays["x"])
  }
  images = tiny_problem.make_split(8)
  batch = data.Batch(
    jnp.asarray(images.images, jnp.float32) / 255,
    jnp.asarray(images.labels),
    jnp.arange(8) < 6,
  )
  network = objectives.from_logits_fn(
    lambda x: tiny_problem.apply_mlp(tiny_problem.mlp(), x)
  )
  found = {}

  def note(name, call, *args):
    try:
      jax.make_jaxpr(call)(*args)
    except jaxtyping.TypeCheckError as error:
      found[name] = " ".join(str(error).split())

  for name in config.OBJECTIVES:
    objective = objectives.create(config.ObjectiveConfig(name=name))
    note(
      f"objectives.{name}",
      lambda objective=objective: objective(
        network, batch, jax.random.key(0), progress=0.5
      ),
    )
  x, other = arrays["x"], arrays["other"]
  for name, call in calls.items():
    note(name, call, x, other)
  # Inputs and logits that are NumPy arrays when they reach the function.
  traceable = public_calls.network
  logits = {id(v): np.asarray(traceable(jnp.asarray(v))) for v in (x, other)}
  public_calls.network = lambda v: (
    logits[id(v)] if isinstance(v, np.ndarray) else traceable(v)
  )
  for name, call in calls.items():
    note(f"{name} of NumPy arrays", lambda call=call: call(x, other))
  return found


def main():
  short_process.collect_no_garbage()
  with jaxtyping.install_import_hook(
    [f"robust_info.{room}" for room in ROOMS], CHECKER
  ):
    import robust_info as ri
    import robust_info.objectives
  # The hook is at work: without it, the function itself would refuse this.
  try:
    ri.cckl(np.zeros((4, 3), np.float32), np.zeros(5, np.int32))
  except jaxtyping.TypeCheckError:
    print("refused")
  for name, error in violations().items():
    print(f"{name}: {error[:400]}")


if __name__ == "__main__":
  main()
