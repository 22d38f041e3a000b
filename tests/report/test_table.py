"""The table: one column per run, every column aligned, no NaN in sight."""

import copy
import math

import pytest

from robust_info.evaluation.metrics import rows
from robust_info.report import table

NAN = math.nan


def sample(mean, error=0.125):
  return {
    "mean": mean,
    "standard_error": error,
    "median": mean / 2,
    **dict.fromkeys(("q05", "q25", "q75", "q95"), mean),
  }


def lens(total, non_robust):
  return {
    "num_pairs": 1024,
    "total": sample(total),
    "non_robust": sample(non_robust),
    "robust": sample(total - non_robust),
    "non_robust_share": non_robust / total,
    "non_robust_share_standard_error": 0.015,
  }


def split(total, robust):
  return {
    "total": total,
    "robust": robust,
    "non_robust": total - robust,
    "non_robust_share": 1 - robust / total,
    "standard_errors": {
      "total": 0.5,
      "robust": 0.25,
      "non_robust": 0.03,
      "non_robust_share": 0.021,
    },
  }


PERFORMANCE = {
  "accuracy": 0.98765,
  "cross_entropy": 0.04321,
  "calibration_error": 0.011,
}
INFORMATION = {
  "cckl": 12.346,
  "mutual_information": 2.1,
  "lautum_information": 9.9,
  "label_information": 2.05,
  "conditional_information": 0.05,
  "variational_bound": -0.25,
  "label_entropy": 2.302,
  "prediction_entropy": 2.3,
}


def make_run(name, model="cnn (relu)"):
  lenses = [
    {
      "attack": attack,
      "norm": "linf",
      "epsilon": 0.15,
      "accuracy": split(0.9, 0.3),
      "label_information": split(2.0, 1.5),
      "cckl": split(12.0, 9.0),
    }
    for attack in ("PGD-20", "KL-PGD-20")
  ]
  return {
    "name": name,
    "objective": "standard",
    "model": model,
    "checkpoint": "last",
    "step": 12345,
    "performance": dict(PERFORMANCE),
    "information": dict(INFORMATION),
    "standard_errors": {
      "performance": dict.fromkeys(PERFORMANCE, 0.002),
      "information": dict.fromkeys(INFORMATION, 0.013),
    },
    "fisher": {
      "beside_images": {
        "frobenius": 3.25,
        "frobenius_at_images": 3.125,
        "standard_error": 0.0625,
        "num_examples": 64,
      },
      **{
        name: sample(3.25) for name in ("trace", "frobenius", "spectral_norm")
      },
    },
    "local_lens": lens(12.0, 0.6),
    "path_lens": {
      **lens(12.0, 15.0),
      "num_coarse_pairs": 8192,
      "quadrature_error": {"mean": 0.00002, "max": 0.1},
    },
    "epsilon_lens": lenses[0],
    "epsilon_lens_by_attack": lenses,
    "robust_accuracy": [
      {
        "attack": "PGD-20",
        "norm": "linf",
        "epsilon": epsilon,
        "accuracy": 0.98765 - epsilon,
        "standard_error": 0.0123,
      }
      for epsilon in (0.0, 0.15)
    ],
    "robustness": make_robustness(),
  }


def make_robustness(ensemble=False, failed=()):
  def share(accuracy):
    return {"accuracy": accuracy, "standard_error": 0.01}

  steps = [{"attack": "PGD-20", "epsilon": 0.15, **share(0.84)}]
  if ensemble:
    steps += [
      {"attack": name, "epsilon": 0.15, **share(accuracy)}
      for name, accuracy in (("apgd-ce", 0.83), ("square", 0.82))
    ]
  return {
    "attack": "AutoAttack standard" if ensemble else "PGD-20",
    "norm": "linf",
    "epsilon": 0.15,
    **share(0.81 if ensemble else 0.84),
    "steps": steps,
    "sanity": {
      "num_examples": 1280,
      "trustworthy": not failed,
      "verdict": "not trustworthy: " + ", ".join(failed)
      if failed
      else "trustworthy",
      "accuracies": {"clean": 0.9},
      "checks": [
        {
          "name": name,
          "passed": name not in failed,
          "value": 0.5 if name in failed else 0.0,
          "limit": 0.02,
          "meaning": "gradients are masked",
        }
        for name in ("random forward pass", "noise is weaker")
      ],
    },
  }


def make_report(*runs):
  return {
    "data": {"name": "digits", "split": "test", "num_examples": 12500},
    "runs": list(runs),
  }


def rows_of(report):
  """(line, cells) of each row below the titles, in order."""
  num_runs = len(report["runs"])
  found = []
  for line in table.render(report).splitlines():
    if line.startswith("  ") and line.strip():
      cells = [cell for cell in line.strip().split("  ") if cell.strip()]
      assert len(cells[-num_runs:]) == num_runs, line
      found.append((line, [c.strip() for c in cells[-num_runs:]]))
  return found


def cells_of(report, label):
  return [c for line, c in rows_of(report) if line.strip().startswith(label)]


@pytest.mark.parametrize("num_runs", [1, 2, 3])
def test_every_run_has_a_cell_in_every_row(num_runs):
  report = make_report(*(make_run(f"run-{i}") for i in range(num_runs)))
  rows = rows_of(report)
  assert rows[0][1] == [f"run-{i}" for i in range(num_runs)]
  assert len(rows) > 30
  assert all(len(cells) == num_runs for _, cells in rows)


def test_numbers_are_where_their_labels_are():
  report = make_report(make_run("a"), make_run("b"))
  report["runs"][1]["performance"]["accuracy"] = 0.5
  report["runs"][1]["path_lens"]["robust"] = sample(-2.5)
  assert cells_of(report, "accuracy") == [["98.8 % ± 0.2", "50.0 % ± 0.2"]]
  assert cells_of(report, "cross-entropy") == [["0.04321 ± 0.002"] * 2]
  assert cells_of(report, "checkpoint") == [["last, step 12,345"] * 2]
  assert cells_of(report, "epsilon 0.15") == [["83.8 % ± 1.2"] * 2]
  assert cells_of(report, "CCKL, all cross") == [["12.35 ± 0.013"] * 2]
  assert cells_of(report, "trace") == [["3.25 ± 0.12 (1.625)"] * 2]
  assert cells_of(report, "robust part") == [
    ["11.4 ± 0.12"] * 2,
    ["-3 ± 0.12", "-2.5 ± 0.12"],
  ]
  assert cells_of(report, "non-robust share") == [
    ["5.0 % ± 1.5"] * 2,
    ["125.0 % ± 1.5"] * 2,
  ]
  assert (
    cells_of(report, "CCKL, non-robust share") == [["25.0 % ± 2.1"] * 2] * 2
  )


def test_the_head_tells_the_data_and_titles_the_attacks():
  text = table.render(make_report(make_run("a")))
  assert text.startswith("digits test split, 12,500 examples")
  assert "Accuracy under PGD-20, linf ball\n" in text
  assert "epsilon ball: PGD-20, linf 0.15\n" in text
  assert "epsilon ball: KL-PGD-20, linf 0.15\n" in text
  assert "at the sample; from 1,024 pairs\n" in text
  assert "along the segment; from 1,024 + 8,192 coarse pairs\n" in text


@pytest.mark.parametrize(
  ("name", "model"),
  [
    ("a", "cnn (relu)"),
    ("experiments/2026/digits-standard-seed-0 (best)", "cnn (relu)"),
    ("a", "resnet32x10 with a long activation (softplus)"),
  ],
)
def test_columns_end_together_whatever_is_in_them(name, model):
  report = make_report(make_run(name, model), make_run("b"))
  lines = [line for line, _ in rows_of(report)]
  assert len({len(line) for line in lines}) == 1
  # At least two spaces between a cell and the next column.
  for line, cells in rows_of(report):
    assert line.endswith("  " + cells[-1])
    assert f"  {cells[0]}  " in line
  assert name in lines[0]


def test_two_runs_of_short_names_fit_eighty_columns():
  text = table.render(make_report(make_run("standard"), make_run("pgd")))
  assert max(map(len, text.splitlines())) <= 80


def test_every_check_has_its_number_and_each_run_its_verdict():
  report = make_report(make_run("good"), make_run("bad"))
  report["runs"][1]["robustness"] = make_robustness(
    failed=("random forward pass",)
  )
  text = table.render(report)
  assert "Sanity checks at linf 0.15, 1,280 examples\n" in text
  assert cells_of(report, "random forward pass <= 0.02") == [
    ["pass 0", "FAIL 0.5"]
  ]
  assert cells_of(report, "noise is weaker") == [["pass 0", "pass 0"]]
  assert "\ngood: trustworthy\n" in text
  assert "\nbad: not trustworthy: random forward pass\n" in text
  assert "Accuracy under PGD-20, linf 0.15" not in text


@pytest.mark.parametrize(
  ("value", "limit", "text"),
  [
    (1.02e-4, 1e-4, "1.02e-04"),
    (1.000001e-4, 1e-4, "1.000001e-04"),
    (1e-4, 1e-4, "1.0e-04"),
    (0.0200004, 0.02, "0.0200004"),
    (0.3, 0.02, "0.3"),
    (math.nan, 0.02, "n/a"),
  ],
)
def test_a_value_does_not_look_like_its_limit(value, limit, text):
  assert rows.beside_limit(value, limit) == text


def test_an_ensemble_is_named_and_shown_attack_by_attack():
  report = make_report(make_run("a"), make_run("b"))
  for run in report["runs"]:
    run["robustness"] = make_robustness(ensemble=True)
  text = table.render(report)
  assert "Accuracy under AutoAttack standard, linf 0.15\n" in text
  assert cells_of(report, "PGD-20 alone") == [["84.0 % ± 1.0"] * 2]
  assert cells_of(report, "after apgd-ce") == [["83.0 % ± 1.0"] * 2]
  assert cells_of(report, "after square") == [["82.0 % ± 1.0"] * 2]
  assert cells_of(report, "each example at its worst") == [["81.0 % ± 1.0"] * 2]
  assert max(map(len, text.splitlines())) <= 80


def test_no_ball_no_checks():
  report = make_report(make_run("a"))
  report["runs"][0]["robustness"]["sanity"] = {}
  assert "Sanity" not in table.render(report)


def with_nan(value):
  if isinstance(value, dict):
    return {name: with_nan(item) for name, item in value.items()}
  if isinstance(value, list):
    return [with_nan(item) for item in value]
  return NAN if isinstance(value, float) else value


def test_what_is_not_a_number_is_not_available():
  report = make_report(with_nan(make_run("holes")), make_run("b"))
  for run in report["runs"]:
    for point, epsilon in zip(run["robust_accuracy"], (0, 0.15), strict=True):
      point["epsilon"] = epsilon
    for entry in (*run["epsilon_lens_by_attack"], run["robustness"]):
      entry["epsilon"] = 0.15
  text = table.render(report)
  assert "nan" not in text.lower()
  assert cells_of(report, "accuracy") == [["n/a", "98.8 % ± 0.2"]]
  assert cells_of(report, "non-robust share")[0] == ["n/a", "5.0 % ± 1.5"]


def test_a_number_without_a_standard_error_stands_alone():
  report = make_report(make_run("one pair"))
  lens = report["runs"][0]["local_lens"]
  lens["robust"] = sample(11.0, error=NAN)
  lens["non_robust_share_standard_error"] = NAN
  assert cells_of(report, "robust part")[0] == ["11"]
  assert cells_of(report, "non-robust share")[0] == ["5.0 %"]


def test_rendering_changes_nothing():
  report = make_report(make_run("a"))
  before = copy.deepcopy(report)
  table.render(report)
  assert report == before
