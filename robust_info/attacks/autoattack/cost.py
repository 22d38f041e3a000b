"""The cost of an ensemble, for the time that it will take."""

from robust_info.attacks.autoattack import ensemble


def passes(
  num_classes: int,
  *,
  version: str = "standard",
  attacks: tuple[str, ...] | None = None,
  num_steps: int = ensemble.STEPS,
  num_queries: int = ensemble.QUERIES,
) -> dict[str, int]:
  """The most forward passes per example of each attack, as `auto_attack` runs.

  A backward pass counts as one more. Examples that an attack breaks leave
  early, and those that it has broken are not attacked by the next.

  Args:
    num_classes: number C of classes.
    version: version of the ensemble.
    attacks: names of attacks instead of the version's.
    num_steps: number of iterations of the gradient attacks.
    num_queries: number of queries of Square.
  """
  names = ensemble.VERSIONS[version] if attacks is None else attacks
  targets = min(ensemble.TARGETS, num_classes - 1)
  restarts = ensemble.PLUS_RESTARTS if version == "plus" else 1
  gradient = 2 * num_steps
  # A step of FAB has two forward passes, and the untargeted attack takes the
  # gradients of all classes.
  of_attack = {
    "apgd-t": targets * gradient,
    "fab-t": targets * 3 * num_steps,
    "fab": restarts * (2 + num_classes) * num_steps,
    "square": num_queries,
  }
  return {name: of_attack.get(name, restarts * gradient) for name in names}
