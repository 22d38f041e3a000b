"""The description of the code behind a number."""

import pathlib
import shutil

from robust_info.runtime import environment

PACKAGE = pathlib.Path(environment.__file__).parents[1]


def test_an_edit_in_any_folder_of_the_package_changes_the_digest(
  tmp_path, monkeypatch
):
  copy = tmp_path / "robust_info"
  shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
  monkeypatch.setattr(
    environment, "__file__", str(copy / "runtime" / "environment.py")
  )
  digest = environment.code_digest.__wrapped__
  seen = [digest()]
  assert seen == [environment.code_digest()]
  for path in {p.parent: p for p in sorted(copy.rglob("*.py"))}.values():
    with open(path, "a") as file:
      file.write("\n")
    seen.append(digest())
  assert len(seen) > 16
  assert len(set(seen)) == len(seen)
