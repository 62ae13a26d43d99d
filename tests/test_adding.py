"""docs/adding.md, followed literally: its edits fit the sources, and what they make is the law."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_math import COMPILER, flags

ROOT = Path(__file__).resolve().parents[1]
EDIT = re.compile(r"^```diff\n(\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ALPHA = 1e-6  # of the test below; its key is fixed
MEAN, STD = 0.25, 1.5

PROGRAM = """
#include <cstdio>
#include "core/fill.h"
int main() {
  using namespace fastinit;
  Law law;
  law.distribution = Distribution::kExponential;
  law.mean = %s;
  law.std = %s;
  const auto resolved = resolve<Storage<DType::kFloat32>>(law, 1.0);
  const KeySchedule keys(42);
  float values[4];
  for (uint64_t counter = 0; counter < 50000; ++counter) {
    block_values<Distribution::kExponential, float>(resolved, keys, counter, values);
    std::fwrite(values, sizeof(float), 4, stdout);
  }
}
"""


def apply_edits(document: str, tree: Path) -> list[str]:
    """Carry out every edit of the document; each must fit one place."""
    edited = []
    for name, lines in EDIT.findall(document):
        path = tree / name
        before = "".join(line[1:] for line in lines.splitlines(True) if line[0] in " -")
        after = "".join(line[1:] for line in lines.splitlines(True) if line[0] in " +")
        text = path.read_text()
        assert text.count(before) == 1, f"{name}: no such place, or several:\n{before}"
        path.write_text(text.replace(before, after))
        edited.append(name)
    return edited


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    if shutil.which(COMPILER[0]) is None:
        pytest.skip(f"needs a C++ compiler: no {COMPILER[0]}")
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    edited = apply_edits((ROOT / "docs" / "adding.md").read_text(), tree)
    assert {"csrc/core/spec.h", "csrc/core/distributions.h", "csrc/ops/ops.cpp"} <= set(edited)
    source = tree / "main.cpp"
    source.write_text(PROGRAM % (MEAN, STD))
    build = [*COMPILER, *flags(), f"-I{tree / 'csrc'}", str(source), "-o", str(tree / "main")]
    run = subprocess.run(build, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return np.frombuffer(
        subprocess.run([tree / "main"], capture_output=True, check=True).stdout, "f4"
    )


def test_the_worked_example_has_the_law_it_says(values: np.ndarray) -> None:
    assert len(values) == 200_000
    assert stats.ks_1samp(values, stats.expon(MEAN, STD).cdf).pvalue > ALPHA
    assert stats.ks_1samp(values, stats.expon(MEAN, 1.05 * STD).cdf).pvalue < ALPHA


def test_edits_that_fit_nowhere_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.h").write_text("one\n")
    with pytest.raises(AssertionError, match="no such place"):
        apply_edits("```diff\na.h\n-two\n+three\n```\n", tmp_path)
