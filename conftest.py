"""Tests and notebooks run on the tiny profile, in a scratch folder, so that `pytest` alone does what `--test` does."""

import os
import tempfile

_scratch = tempfile.mkdtemp(prefix="s2l-tests-")
os.environ.setdefault("S2L_PROFILE", "tiny")
os.environ.setdefault("S2L_HOME", f"{_scratch}/artifacts")
os.environ.setdefault("S2L_FIGURES", f"{_scratch}/figures")
