"""The lock: whose code changed is noticed, and nothing else."""

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
    constants = {constant for _, constant in lock.BELOW.values()}
    for module in (lock.worlds, base):
        assert {name for name in vars(module) if name.endswith("VERSION")} <= constants


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("attacks/secmi.py", '"""', "# a note\n\n\n'''".replace("'''", '"""')),
        ("data/portraits.py", '"""Procedural portraits', '"""Drawn portraits'),
        ("models/denoiser.py", "    def ", "    # why\n    def "),
        ("report/report.py", '"""', 'UNUSED = 3\n"""'),
        ("store.py", '"manifest.json"', '"index.json"'),
    ],
)
def test_comments_docstrings_and_what_computes_nothing_change_nothing(library, module, old, new):
    edit(library, module, old, new)
    assert changed(lock.current(), lock.current(library)) == set()


BY_NOISE = {"unconditional_tuned", "unconditional_noise"}


@pytest.mark.parametrize(
    ("module", "old", "new", "reached", "others"),
    [
        ("metrics/blind.py", "return", "return 0 or", {"scores", "blind"}, {"tuned", "generated", "quality", "portraits", "base_unet"}),
        ("attacks/secmi.py", "16", "17", {"scores", "blind", "learnt"}, {"tuned", "generated", "base_unet", "portraits"}),
        ("data/portraits.py", "_SCALE = 4", "_SCALE = 8", {"portraits", "base_unet", "scores", "tuned"}, set()),
        ("models/mini.py", "return", "return 0 or", {"base_vae", "base", "scores"}, {"portraits", "folder"}),
    ],
)
def test_a_change_far_down_is_one_of_exactly_those_artifacts_that_reach_it(library, module, old, new, reached, others):
    edit(library, module, old, new)
    found = changed(lock.current(), lock.current(library))
    assert reached <= found
    assert not others & found
    name = module.removesuffix(".py").replace("/", ".")
    known = lock.modules(library)
    roots = {a.name: a.make.__module__ for a in artifact.REGISTRY.values()} | {n: m.__name__ for n, (m, _) in lock.BELOW.items()}
    assert found == {each for each, root in roots.items() if name in lock._reached(root.partition(".")[2], known)}


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


def test_changed_code_of_the_same_version_is_one_sentence_with_its_mend(library):
    edit(library, "compute/soundness.py", "free_memory()", "free_memory(), free_memory()")
    (sentence,) = lock.changes(library)
    assert re.fullmatch(
        r"sound_model: its code changed and its version, 1, did not; raise its version if .* and commit artifacts\.json\.", sentence
    )
