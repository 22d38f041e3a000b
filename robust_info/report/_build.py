"""Reports: evaluates several runs and writes the numbers and figures.

A report is plain JSON: `schema`, `data`, `threat`, `settings`, `software`, and
one entry of `runs` per run, in the order given. Information is in nats; a
*share* is the ratio of a part to the total. Numbers that are not finite are NaN
in memory and null on disk.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from robust_info import _validate, data, evaluation, training
from robust_info import config as config_lib
from robust_info.evaluation import cache as measurement_cache
from robust_info.evaluation import metrics
from robust_info.report import cards, networks, portrayed, screen, store
from robust_info.runtime import environment, locks, processes

# Settings of JAX that change numbers.
_NUMERICS = (
  "jax_default_matmul_precision",
  "jax_default_prng_impl",
  "jax_enable_x64",
  "jax_threefry_partitionable",
)


def build(
  runs: Sequence[training.Run | networks.Network],
  source: data.DataSource,
  settings: config_lib.EvaluationConfig,
  *,
  output: str | os.PathLike[str],
  seed: int = 0,
  num_examples: int | None = None,
) -> dict[str, Any]:
  """Evaluates networks on the test split; writes `report.json`; calls `draw`.

  With several processes, all make the same call, and only the first writes.
  Entries of RobustBench and model cards of an earlier report in the directory
  are removed, unless they were changed since.

  Args:
    runs: at least one run from `training.restore_run`, all trained on this
      data; or networks of another origin, see `networks`, with one number of
      classes.
    source: the data.
    settings: threat model and sizes, the same for all networks.
    output: directory of the report; a stopped report resumes when started again
      with the same arguments.
    seed: seed of attacks and pairs.
    num_examples: number of first examples of the test split to use; `None`
      means all.

  Returns:
    The report.

  Raises:
    ValueError: there is no network, one is given twice, a run was trained on
      other data, the numbers of classes differ, or the examples are of one
      class.
    OSError: the directory cannot be written, or another process makes a report
      there.
  """
  output = pathlib.Path(output)
  asked = _checked(runs, source, num_examples)
  with _alone(output):
    report, used = _measured(
      asked, source, settings, output, seed, screen.Shown, {}
    )
    if processes.is_first():
      cards.remove_former(output)
      store.save(report, output / "report.json")
    shown = None
    if source.image_shape[2] in (1, 3):
      shown = portrayed.first_of_classes(used, asked.split, settings)
    if processes.is_first():
      if shown is None:
        (output / "examples.png").unlink(missing_ok=True)
      draw(report, output, shown)
  return report


def measure(
  runs: Sequence[training.Run | networks.Network],
  source: data.DataSource,
  settings: config_lib.EvaluationConfig,
  *,
  output: str | os.PathLike[str],
  seed: int = 0,
  num_examples: int | None = None,
  evaluators: dict[Any, evaluation.Evaluator] | None = None,
) -> dict[str, Any]:
  """The report of `build`, without progress; writes only stored measurements.

  Args:
    runs: see `build`, as all other arguments, guarantees and errors.
    source: the data.
    settings: threat model and sizes.
    output: directory of the stored measurements.
    seed: seed of attacks and pairs.
    num_examples: number of first examples of the test split to use.
    evaluators: evaluators of former calls with the same data, settings, seed
      and number of examples, whose compiled programs are used again; those of
      this call are added. By the function of the network.

  Returns:
    The report.
  """
  output = pathlib.Path(output)
  asked = _checked(runs, source, num_examples)
  with _alone(output):
    return _measured(
      asked, source, settings, output, seed, screen.Silent, evaluators
    )[0]


class _Asked(NamedTuple):
  """Checked networks with their names, and the examples to measure them on."""

  names: Sequence[str]
  networks: Sequence[networks.Network]
  num_classes: int
  split: data.Split


def _checked(
  runs: Sequence[training.Run | networks.Network],
  source: data.DataSource,
  num_examples: int | None,
) -> _Asked:
  names = _names(runs)
  _check_data([r for r in runs if isinstance(r, training.Run)], source)
  found = [
    networks.of_run(run) if isinstance(run, training.Run) else run
    for run in runs
  ]
  split = source.test
  if num_examples is not None:
    _validate.positive_int("num_examples", num_examples)
    split = data.Split(split.images[:num_examples], split.labels[:num_examples])
  data.check_two_classes(split.labels, split="test")
  return _Asked(names, found, _common_classes(found), split)


def _measured(asked, source, settings, output, seed, make_screen, evaluators):
  """The report, and the measured networks with their evaluators."""
  num_classes, split = asked.num_classes, asked.split
  report = _head(source, settings, seed, len(split), num_classes)
  evaluators = {} if evaluators is None else evaluators
  shown = make_screen(
    metrics.work(settings, len(split), num_classes), len(asked.networks)
  )
  used = []
  for network, name in zip(asked.networks, asked.names, strict=True):
    # Networks of one architecture share the compiled metrics.
    if network.apply_fn not in evaluators:
      evaluators[network.apply_fn] = evaluation.Evaluator(
        network.apply_fn,
        split,
        num_classes=num_classes,
        settings=settings,
        seed=seed,
      )
    evaluator = evaluators[network.apply_fn]
    used.append((name, network, evaluator))
    cache = measurement_cache.MeasurementCache(
      output / "measurements",
      _fingerprint(network, split, settings, seed),
    )
    entry = metrics.measure(
      metrics.Subject(
        evaluator, network.variables, settings, cache, ticks=shown.ticks(name)
      )
    )
    report["runs"].append({"name": name, **network.about, **entry})
    shown.measured(len(used), len(asked.networks))
  return report, used


def _head(source, settings, seed, num_examples, num_classes):
  """A report without runs."""
  return {
    "schema": store.SCHEMA,
    "data": {
      "name": source.name,
      "version": source.version,
      "split": "test",
      "num_examples": num_examples,
      "num_classes": num_classes,
      "label_names": [
        *source.label_names,
        *map(str, range(source.num_classes, num_classes)),
      ],
    },
    "threat": {"norm": settings.norm, "epsilon": settings.epsilon},
    "settings": {**dataclasses.asdict(settings), "seed": seed},
    "software": environment.of_report(),
    "runs": [],
  }


def draw(
  report: Mapping[str, Any],
  output: str | os.PathLike[str],
  shown: portrayed.Examples | None = None,
) -> None:
  """Writes everything of a report that is made from its numbers.

  These are the figures, as PNG and SVG, `report.html`, the tables as
  `report.txt`, and per run an entry of RobustBench and a model card. Figures
  that an earlier report left there, and that this one does not have, are
  removed.

  Args:
    report: a report from `build` or `report.load`.
    output: directory of the report; it exists.
    shown: single examples, for their figure and for the page; a report has none
      in itself.
  """
  from robust_info.report import figures, page, table

  output = pathlib.Path(output)
  # Without a suffix: as PNG and as SVG, which the page shows.
  for name in figures.of_report(report):
    getattr(figures, name)(report, output / name)
  figures.remove_others(report, output)
  if shown is not None:
    figures.examples(
      shown,
      output / "examples.png",
      label_names=report["data"]["label_names"],
      run_names=[run["name"] for run in report["runs"]],
    )
  page.write(report, output, shown)
  table.write(report, output)
  cards.write(report, output)


@contextlib.contextmanager
def _alone(output: pathlib.Path) -> Iterator[None]:
  """Makes the directory of a report, and holds its lock."""
  with contextlib.ExitStack() as held:

    def hold():
      try:
        output.mkdir(parents=True, exist_ok=True)
        lock = locks.Lock(output / "lock", f"Output {output}")
      except locks.BusyError as error:
        raise OSError(f"{error}; wait for its end or choose another.") from (
          error
        )
      except OSError as error:
        raise OSError(
          f"Cannot write to output {output}: {error.strerror}; choose another."
        ) from error
      held.enter_context(lock)

    processes.on_first(hold, errors=(OSError,))
    yield


def _names(runs: Sequence[training.Run | networks.Network]) -> list[str]:
  """Distinct short names: the end of each path, as long as necessary."""
  if not runs:
    raise ValueError("Expected at least one run, got none.")
  places = [
    run.workdir if isinstance(run, training.Run) else run.place for run in runs
  ]
  paths = [pathlib.Path(os.path.abspath(place)).parts[1:] for place in places]
  suffixes = [""] * len(runs)
  checkpoints = [getattr(run, "checkpoint", None) for run in runs]
  if len({*checkpoints} - {None}) > 1:
    suffixes = [f" ({name})" if name else "" for name in checkpoints]
  names = []
  for depth in range(1, max(map(len, paths)) + 1):
    names = [
      "/".join(path[-depth:]) + suffix
      for path, suffix in zip(paths, suffixes, strict=True)
    ]
    if len(set(names)) == len(names):
      return names
  raise ValueError(
    f"Expected every workdir once, got {', '.join(map(repr, names))}."
  )


def _common_classes(found: Sequence[networks.Network]) -> int:
  """The number of classes, the same for all networks."""
  first = found[0]
  for network in found:
    if network.num_classes != first.num_classes:
      raise ValueError(
        f"Expected networks of one number of classes, got {first.num_classes} "
        f"of {first.place} and {network.num_classes} of {network.place}; make "
        "two reports."
      )
  return first.num_classes


def _check_data(runs: Sequence[training.Run], source: data.DataSource) -> None:
  """Requires all runs to be trained on this data."""
  for run in runs:
    name = run.config.data.name
    if name != runs[0].config.data.name:
      raise ValueError(
        f"Expected runs on the same data, got {runs[0].config.data.name} in "
        f"{runs[0].workdir} and {name} in {run.workdir}."
      )
    version = run.config.data.version
    if version not in (None, source.version):
      raise ValueError(
        f"Expected the data of {run.workdir}, {name} of version {version}, got "
        f"version {source.version}."
      )
    model = run.config.model
    if (model.num_classes, model.image_shape) != (
      source.num_classes,
      tuple(source.image_shape),
    ):
      raise ValueError(
        f"Expected the data of {run.workdir}, images {model.image_shape} of "
        f"{model.num_classes} classes, got {source.name} with images "
        f"{tuple(source.image_shape)} of {source.num_classes} classes."
      )


def _fingerprint(
  network: networks.Network,
  split: data.Split,
  settings: config_lib.EvaluationConfig,
  seed: int,
) -> str:
  """Fingerprint of everything a measurement depends on, except its name."""
  # Radii and attacks are in the names, an attack of one's own with the settings
  # that it reads in its program; only validation reads the last field.
  others = config_lib.EvaluationConfig(
    **{
      field.name: getattr(settings, field.name)
      for field in dataclasses.fields(config_lib.EvaluationConfig)
      if field.name != "attack"
    }
  )
  others = dataclasses.replace(
    others,
    epsilon=0.0,
    epsilon_grid=(),
    attack="pgd",
    autoattack_version="standard",
    validation_examples=0,
  )
  return measurement_cache.fingerprint(
    store.SCHEMA,
    # Numbers computed by other code are never reused.
    environment.code_digest(),
    jax.__version__,
    jax.default_backend(),
    [getattr(jax.config, name) for name in _NUMERICS],
    network.identity,
    # Their structure may name functions by their address in memory.
    jax.tree.leaves(network.variables),
    others,
    seed,
    split.images,
    split.labels,
  )
