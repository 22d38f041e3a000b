"""Reports for others: entries of RobustBench, and model cards, one per run."""

import json
import math
import pathlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robust_info.evaluation.metrics import performance, rows
from robust_info.report import store
from robust_info.runtime import files

# Mark of Hugging Face's template for what the authors have to add.
_UNKNOWN = "[More Information Needed]"
_START = """```python
from robust_info import training

run = training.restore_run("WORKDIR")
logits = run.logits_fn(images)  # images [N, H, W, channels] in [0, 1]
```"""
_NAME_LENGTH = 80  # Of a file; below the limits of file systems.


def write(report: Mapping[str, Any], output: pathlib.Path) -> None:
  """Writes `robustbench/NAME.json` and `model_cards/NAME.md` of every run.

  NAME is the name of the run with other characters than letters, digits, `.`,
  `_` and `-` replaced by `-`, and with a number if two would be equal.

  Args:
    report: a report from `report.build` or `report.load`.
    output: directory of the report.
  """
  for path, text in _files(report, output):
    path.parent.mkdir(exist_ok=True)
    files.write_whole(path, text)


def remove_former(output: pathlib.Path) -> None:
  """Removes the entries and cards of the report that a directory holds.

  Called before another report takes its place. Files that were changed since
  they were written stay.

  Args:
    output: directory of the report; it may hold none.
  """
  try:
    former = [*_files(store.load(output / "report.json"), output)]
  # A file of another origin or version.
  except (OSError, ValueError, TypeError, LookupError):
    return
  for path, text in former:
    try:
      if path.read_text(encoding="utf-8") == text:
        path.unlink()
    except (FileNotFoundError, UnicodeDecodeError):
      continue


def _files(
  report: Mapping[str, Any], output: pathlib.Path
) -> Iterator[tuple[pathlib.Path, str]]:
  """Paths and texts of all entries and cards of a report."""
  names = file_names([run["name"] for run in report["runs"]])
  for run, name in zip(report["runs"], names, strict=True):
    entry = json.dumps(robustbench(report, run), indent=2, ensure_ascii=False)
    yield output / "robustbench" / f"{name}.json", entry + "\n"
    yield output / "model_cards" / f"{name}.md", model_card(report, run)


def file_names(names: Sequence[str]) -> list[str]:
  """Different names of files for names of runs, see `write`."""
  found: list[str] = []
  for name in names:
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:_NAME_LENGTH]
    base = base or "run"
    free, number = base, 1
    # Some file systems do not tell capitals from small letters.
    while free.lower() in {other.lower() for other in found}:
      number += 1
      free = f"{base}-{number}"
    found.append(free)
  return found


def robustbench(
  report: Mapping[str, Any], run: Mapping[str, Any]
) -> dict[str, Any]:
  """The entry of a run in RobustBench's format, for its `model_info` folder.

  Args:
    report: a report from `report.build` or `report.load`.
    run: one of its runs.

  Returns:
    RobustBench's fields; accuracies are text in per cent. `autoattack_acc` is
    None unless AutoAttack's standard version ran; `reported` is the robust
    accuracy of the report in any case, and the `footnote` names its attack and
    the number of images. `link`, `authors` and `venue` are unknown to a report,
    and empty for the authors to fill in; `external`, an evaluation by others,
    is left out.
  """
  settings, robust = report["settings"], run["robustness"]
  standard = (settings["attack"], settings["autoattack_version"]) == (
    "autoattack",
    "standard",
  )
  # Of the ensemble alone, as RobustBench has it.
  ensemble = robust["steps"][-1]["accuracy"] if standard else None
  return {
    "link": "",
    "name": run["name"],
    "authors": "",
    # Of a network that is not of a run, nothing is known.
    "additional_data": None if run["config"] is None else False,
    "number_forward_passes": 1,
    "dataset": report["data"]["name"],
    "venue": "",
    "architecture": run["model"],
    "eps": _radius(robust["epsilon"]),
    "clean_acc": _per_cent(run["performance"]["accuracy"]),
    "reported": _per_cent(robust["accuracy"]),
    "autoattack_acc": None if ensemble is None else _per_cent(ensemble),
    "footnote": (
      f"Robust accuracy under {robust['attack']} in the {robust['norm']} ball, "
      f"on {report['data']['num_examples']} {report['data']['split']} images."
    ),
    "unreliable": not _reliable(robust),
  }


def _radius(epsilon: float) -> str:
  """A radius as in RobustBench, for example "8/255" or "0.3"."""
  levels = round(255 * epsilon)
  if levels and math.isclose(255 * epsilon, levels, rel_tol=1e-6):
    return f"{levels}/255"
  return f"{epsilon:g}"


def _per_cent(accuracy: float) -> str:
  return f"{100 * accuracy:.2f}"


def _reliable(robust: Mapping[str, Any]) -> bool:
  """Whether every sanity check passed and the ensemble warned of nothing."""
  trusted = robust["sanity"].get("trustworthy", True)
  return trusted and not robust["warnings"]


def model_card(report: Mapping[str, Any], run: Mapping[str, Any]) -> str:
  """The model card of a run: Markdown with the sections of Hugging Face.

  Args:
    report: a report from `report.build` or `report.load`.
    run: one of its runs.

  Returns:
    The text, with the metadata of the Hub in front. Statements that a report
    cannot make, on licence, authors and uses, are marked to be filled in.
  """
  return "\n".join([*_metadata(report, run), *_sections(report, run)]) + "\n"


def _metadata(report, run) -> Iterator[str]:
  """The front matter; JSON values are YAML values."""
  data, robust = report["data"], run["robustness"]
  results = {
    "Accuracy": run["performance"]["accuracy"],
    f"Accuracy under {robust['attack']}, {_ball(robust)}": robust["accuracy"],
  }
  index = [
    {
      "name": run["name"],
      "results": [
        {
          "task": {"type": "image-classification"},
          "dataset": {
            "name": data["name"],
            "type": data["name"],
            "split": data["split"],
          },
          "metrics": [
            {"type": "accuracy", "name": name, "value": value}
            for name, value in results.items()
          ],
        }
      ],
    }
  ]
  yield "---"
  if run["config"] is not None:  # The networks of runs are Flax modules.
    yield "library_name: flax"
  yield "pipeline_tag: image-classification"
  yield 'tags: ["jax", "adversarial-robustness", "robust_info"]'
  yield 'metrics: ["accuracy"]'
  yield f"model-index: {json.dumps(index, ensure_ascii=False)}"
  yield "---"


def _ball(robust: Mapping[str, Any]) -> str:
  return f"{robust['norm']} {robust['epsilon']:g}"


def _plain(text: Any) -> str:
  """Text of the user on one line, without meaning in Markdown or HTML."""
  line = " ".join(str(text).split())
  return re.sub(r"([\\`*_\[\]<>|&~$])", r"\\\1", line)


def _sections(report, run) -> Iterator[str]:
  yield from _about(report["data"], run)
  yield from _training(report["data"], run)
  yield from _evaluation(report["data"], run)
  yield from _origin(report["software"])


def _about(data, run) -> Iterator[str]:
  robust = run["robustness"]
  yield f"\n# Model Card for {_plain(run['name'])}"
  yield (
    f"\nA classifier of {_plain(data['name'])} into {data['num_classes']} "
    "classes, with its robustness to small changes of the image."
  )
  yield "\n## Model Details\n"
  yield f"- **Model type:** {_plain(run['model'])}, image classifier"
  yield f"- **Checkpoint:** {performance.checkpoint(run)}"
  yield f"- **Developed by:** {_UNKNOWN}"
  yield f"- **License:** {_UNKNOWN}"
  yield f"\n## Uses\n\n{_UNKNOWN}"
  yield "\n## Bias, Risks, and Limitations\n"
  yield (
    f"The robust accuracy below holds for {_ball(robust)} and "
    f"{_plain(robust['attack'])} only. An attack gives an upper bound: a "
    "stronger attack, or other changes of the image, may do more harm. The "
    "numbers are of one network."
  )
  yield "\n## How to Get Started with the Model\n"
  yield _UNKNOWN if run["config"] is None else _START


def _training(data, run) -> Iterator[str]:
  yield "\n## Training Details\n"
  config = run["config"]
  if config is None:
    yield _UNKNOWN
    return
  train = config["train"]
  yield (
    f"- **Training data:** the training split of {_plain(data['name'])} "
    f"(version {_plain(data['version'])}), without a share of "
    f"{config['data']['validation_fraction']:g} for validation"
  )
  yield f"- **Objective:** {_plain(run['objective'])}"
  yield (
    f"- **Hyperparameters:** {train['num_epochs']} epochs, batch size "
    f"{train['batch_size']}, {train['optimizer']}, learning rate "
    f"{train['learning_rate']:g}, {train['schedule']} schedule, seed "
    f"{config['seed']}"
  )
  for start in run["starts"]:
    commit = start["git"]["commit"] if start["git"] else "unknown commit"
    yield f"- **Started:** {start['time']}, {_plain(start['device'])}, {commit}"


def _evaluation(data, run) -> Iterator[str]:
  yield "\n## Evaluation\n"
  yield (
    f"{data['num_examples']:,} images of the {_plain(data['split'])} split; ± "
    "is one standard error over images; information in nats.\n"
  )
  yield "| metric | value |\n|---|---|"
  for label, value in _results(run):
    yield f"| {label} | {value} |"
  verdict = run["robustness"]["sanity"].get("verdict", "not run at radius 0")
  yield f"\nSanity checks of the robust accuracy: {verdict}."


def _origin(software) -> Iterator[str]:
  yield "\n## Technical Specifications\n"
  yield (
    f"robust_info {software['robust_info']}, JAX {software['jax']}, Flax "
    f"{software['flax']}, Python {software['python']}, "
    f"{_plain(software['device'])}; evaluated by\n"
  )
  command = " ".join(shlex.join(["python", *software["command"]]).split())
  # A fence longer than any run of backticks inside.
  fence = "`" * (1 + max([2, *map(len, re.findall("`+", command))]))
  yield f"{fence}sh\n{command}\n{fence}"
  yield "\n## Citation\n"
  yield (
    "The metrics follow Shi, Liao, Chen, Liu, Cheng, Feng, *Understanding "
    "Adversarial Behavior of DNNs by Disentangling Non-Robust and Robust "
    "Components in Performance Metric*, arXiv:1906.02494."
  )


def _results(run: rows.Run) -> Iterator[tuple[str, str]]:
  robust = run["robustness"]
  place = _plain(f"{robust['attack']}, {_ball(robust)}")
  yield "accuracy", rows.percent(*rows.pair(run, "accuracy", "performance"))
  yield (
    f"accuracy under {place}",
    rows.percent(robust["accuracy"], robust["standard_error"]),
  )
  yield (
    "calibration error",
    rows.percent(*rows.pair(run, "calibration_error", "performance")),
  )
  yield "CCKL", rows.number(*rows.pair(run, "cckl", "information"))
  yield (
    "label information",
    rows.number(*rows.pair(run, "label_information", "information")),
  )
  yield (
    "mean Frobenius norm of the Fisher information",
    rows.sampled(run["fisher"]["frobenius"]),
  )
  for label, name in (("local", "local_lens"), ("path", "path_lens")):
    lens = run[name]
    yield (
      f"non-robust share of CCKL, {label} lens",
      rows.percent(
        lens["non_robust_share"], lens["non_robust_share_standard_error"]
      ),
    )
  cckl = run["epsilon_lens"]["cckl"]
  yield (
    "share of CCKL taken by the attack",
    rows.percent(
      cckl["non_robust_share"], cckl["standard_errors"]["non_robust_share"]
    ),
  )
