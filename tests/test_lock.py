"""The lock: whose code changed is noticed, and nothing else."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from s2llib import artifact, lock
from s2llib.models import base
from s2llib.specs import Scoring


@pytest.fixture
def library(tmp_path):
    """A copy of the library, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(lock.LIBRARY, tmp_path / "s2llib", ignore=ignored)


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


def edit(library, module, old, new):
    path = library / module
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_lock_holds_the_code_that_is_there():
    assert list(lock.changes()) == []


def test_the_photographs_and_the_stages_of_a_base_are_locked_too():
    found = lock.current()
    assert {"scores", "tuned", "portraits", "folder_check", "base_unet", "fused"} <= set(found)
    assert {name: each["version"] for name, each in found.items()} == lock.code_versions()
    sources = [path.read_text() for path in lock.modules().values()]
    assert {constant for _, constant in lock.BELOW.values()} == set(re.findall(r"^(\w*VERSION) = ", "\n".join(sources), re.MULTILINE))


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("attacks/secmi.py", '    """One deterministic', '\n    # a note\n    """A single'),
        ("data/portraits.py", '"""Procedural portraits', '"""Drawn portraits'),
        ("models/denoiser.py", "    def ", "    # why\n    def "),
        ("report/report.py", '"""', 'UNUSED = 3\n"""'),
        ("store.py", '"manifest.json"', '"index.json"'),
    ],
)
def test_comments_docstrings_and_what_computes_nothing_change_nothing(library, module, old, new):
    edit(library, module, old, new)
    assert changed(lock.current(), lock.current(library)) == set()


@pytest.mark.parametrize(
    ("module", "old", "new", "reached", "others"),
    [
        ("metrics/blind.py", "return", "return 0 or", {"scores", "blind"}, {"tuned", "generated", "quality", "portraits", "base_unet"}),
        (
            "attacks/secmi.py",
            "t + k, t, c)",
            "t + k, 0, c)",
            {"scores", "blind"},
            {"learnt", "tuned", "generated", "base_unet", "portraits"},
        ),
        ("data/portraits.py", "_SCALE = 4", "_SCALE = 8", {"portraits", "base_unet", "scores", "tuned"}, set()),
        ("models/mini.py", "return", "return 0 or", {"base_vae", "base", "scores"}, {"portraits", "folder"}),
        ("compute/__init__.py", "import", "import os\nimport", set(), set(lock.code_versions())),
    ],
)
def test_a_change_far_down_is_one_of_the_artifacts_that_reach_it_and_of_no_others(library, module, old, new, reached, others):
    edit(library, module, old, new)
    found = changed(lock.current(), lock.current(library))
    assert reached <= found
    assert not others & found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('@artifact(Scoring, "scores", 1)', '@artifact(Scoring, "scores", version=3)'),
        ('"generated", 1, rounds=("precision",)', '"generated", 3, rounds=("precision",)'),
    ],
)
def test_a_version_is_no_code_however_it_is_written(library, old, new):
    edit(library, "compute/scores.py" if "scores" in old else "compute/images.py", old, new)
    assert changed(lock.current(), lock.current(library)) == set()


def test_what_a_machine_rounds_is_code(library):
    edit(library, "compute/images.py", '"generated", 1, rounds=("precision",)', '"generated", 1, rounds=("optimizer",)')
    assert "generated" in changed(lock.current(), lock.current(library))


def test_a_raised_version_changes_no_code_and_asks_for_acknowledgement(library, monkeypatch, tmp_path):
    edit(library, "compute/scores.py", '@artifact(Scoring, "scores", 1)', '@artifact(Scoring, "scores", 2)')
    edit(library, "models/base.py", "FUSED_VERSION = 1", "FUSED_VERSION = 2")
    assert changed(lock.current(), lock.current(library)) == set()
    monkeypatch.setitem(artifact.REGISTRY, Scoring, replace(artifact.REGISTRY[Scoring], version=2))
    monkeypatch.setattr(base, "FUSED_VERSION", 2)
    assert list(lock.changes(library)) == [
        f"{name}: its version is 2 and 1 in artifacts.json; run python -m s2llib.lock --acknowledge." for name in ("fused", "scores")
    ]
    lock.acknowledge(library, tmp_path / "artifacts.json")
    assert list(lock.changes(library, tmp_path / "artifacts.json")) == []


def test_changed_code_of_the_same_version_is_one_sentence_and_exit_code_1_until_it_is_acknowledged(library, monkeypatch, capsys, tmp_path):
    own = tmp_path / "artifacts.json"
    lock.acknowledge(library, own)
    edit(library, "compute/soundness.py", "free_memory()", "free_memory(), free_memory()")
    monkeypatch.setattr("sys.argv", ["lock"])
    assert lock.main(library, own) == 1
    (sentence,) = capsys.readouterr().out.splitlines()
    assert sentence == (
        "sound_model: its code changed and its version, 1, did not; raise its version if its results change, then run python -m"
        " s2llib.lock --acknowledge and commit artifacts.json."
    )
    monkeypatch.setattr("sys.argv", ["lock", "--acknowledge"])
    assert lock.main(library, own) == 0
    assert capsys.readouterr().out == "Every artifact is as artifacts.json says.\n"


def test_an_artifact_that_is_new_or_gone_is_named(library, tmp_path):
    own = tmp_path / "artifacts.json"
    lock.acknowledge(library, own)
    locked = json.loads(own.read_text())
    locked["olden"] = locked.pop("quality")
    own.write_text(json.dumps(locked))
    assert list(lock.changes(library, own)) == [
        "olden: it is in artifacts.json and no artifact any longer; run python -m s2llib.lock --acknowledge.",
        "quality: it is not in artifacts.json; run python -m s2llib.lock --acknowledge.",
    ]


def test_without_a_lock_every_artifact_is_named(library, tmp_path):
    assert len(list(lock.changes(library, tmp_path / "artifacts.json"))) == len(lock.code_versions())
