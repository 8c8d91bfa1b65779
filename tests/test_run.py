"""The headless runner, as a user calls it."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest
from PIL import Image

from s2llib import Lab, ParamsError, run
from s2llib import command as commands
from s2llib.data import worlds
from s2llib.kernel import Failure, check_kernel, check_notebook, execute
from s2llib.lock import code_versions
from s2llib.models.base import content
from s2llib.progress import progress, track

ROOT = Path(__file__).resolve().parent.parent
FAST = ["--profile", "tiny", "--set", "finetune.methods=[dreambooth]", "--set", "base.unet.epochs=10"]


def environment(home):
    return os.environ | {"S2L_HOME": str(home / "artifacts"), "S2L_FIGURES": str(home / "figures"), "OMP_NUM_THREADS": "1"}


def call(home, *arguments, **options):
    command = [sys.executable, "-m", "s2llib.run", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=600, **options)


def tables(home):
    """{file: its lines}, without those that say how long something took."""
    found = sorted((home / "figures" / "tiny").glob("*.csv"))
    return {path.name: [line for line in path.read_bytes().splitlines() if b",seconds," not in line] for path in found}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of notebook 03 that nothing disturbed."""
    home = tmp_path_factory.mktemp("finished")
    done = call(home, *FAST, "--only", "03")
    assert done.returncode == 0, done.stderr
    return home


def kill_group(process):
    """SIGKILL for the process group and for the kernels, which are in groups of their own."""
    if process.poll() is not None:
        return
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpgid(pid), signal.SIGKILL)
    process.wait()


def unfinished(home, stage):
    """Folders that a stage has begun to write."""
    return [path for kind in ("new-*", "partial") for path in (home / "artifacts" / stage).glob(f"*.{kind}")]


def test_a_run_killed_at_random_times_gives_the_tables_of_one_that_was_not(finished, tmp_path):
    """Once in each of four stages, at a random time after it began, with checkpoints four times a second."""
    rng, caught = random.Random(0), []
    command = [sys.executable, "-m", "s2llib.run", *FAST, "--only", "03"]
    often = environment(tmp_path) | {"S2L_CHECKPOINT_SECONDS": "0.25"}
    for stage in ("base_vae", "base_unet", "tuned", "scores"):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=ROOT, env=often, start_new_session=True, **quiet)
        before = unfinished(tmp_path, stage)
        while process.poll() is None and set(unfinished(tmp_path, stage)) <= set(before):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        kill_group(process)
        caught += [stage] if unfinished(tmp_path, stage) else []
    assert len(caught) >= 3, caught
    done = call(tmp_path, *FAST, "--only", "03")
    assert done.returncode == 0, done.stderr
    assert len(tables(finished)) >= 2
    assert tables(tmp_path) == tables(finished)


def test_a_second_call_executes_nothing(finished):
    executed = finished / "artifacts" / "runs" / "tiny" / "03_membership_inference.ipynb"
    before = executed.stat().st_mtime_ns
    done = call(finished, *FAST, "--only", "03")
    assert "unchanged" in done.stdout
    assert "made" not in done.stdout
    assert executed.stat().st_mtime_ns == before


def test_a_notebook_is_executed_again_when_the_code_of_its_tables_changes(tmp_path, monkeypatch):
    source, notebook = tmp_path / "s2llib" / "report" / "tables.py", tmp_path / "01.ipynb"
    source.parent.mkdir(parents=True)
    notebook.write_text('{"cells": []}')
    monkeypatch.setattr(run, "ROOT", tmp_path)
    lab, keys = Lab.open("tiny", {}, root=tmp_path / "store"), []
    for text in ("a = 1", "a = 1", "a = 2"):
        source.write_text(text)
        keys.append(run.notebook_key(notebook, lab))
    assert keys[0] == keys[1] != keys[2]


def test_a_notebook_is_executed_again_when_another_model_lies_in_a_folder_or_brisque_was_installed(tmp_path, monkeypatch):
    notebook, judge = tmp_path / "01.ipynb", tmp_path / "clip"
    notebook.write_text('{"cells": []}')
    judge.mkdir()
    lab, keys = Lab.open("tiny", {"mixsyn.clip": str(judge)}, root=tmp_path / "store"), set()
    for text in ("{}", "{ }"):
        (judge / "config.json").write_text(text)
        keys.add(run.notebook_key(notebook, lab))
    monkeypatch.setattr("s2llib.run.no_brisque", lambda: "another reason")
    assert len(keys | {run.notebook_key(notebook, lab)}) == 3


def test_a_notebook_is_executed_again_when_a_version_is_raised(tmp_path, monkeypatch):
    notebook = tmp_path / "01.ipynb"
    notebook.write_text('{"cells": []}')
    lab = Lab.open("tiny", {}, root=tmp_path / "store")
    before = run.notebook_key(notebook, lab)
    monkeypatch.setattr(worlds, "PORTRAITS_VERSION", 99)
    assert run.notebook_key(notebook, lab) != before


def test_another_seed_gives_other_tables_and_a_lost_figure_is_made_again(finished):
    before = tables(finished)
    done = call(finished, *FAST, "--only", "03", "--set", "finetune.seeds=[1]")
    assert done.returncode == 0, done.stderr
    assert tables(finished)["s2l_membership.csv"] != before["s2l_membership.csv"]
    tuned = tables(finished)
    assert call(finished, *FAST, "--only", "03", "--set", "seed=1").returncode == 0
    assert tables(finished)["s2l_membership.csv"] not in (before["s2l_membership.csv"], tuned["s2l_membership.csv"])
    assert call(finished, *FAST, "--only", "03").returncode == 0  # same seed again, after another run in the same store
    assert tables(finished) == before
    (finished / "figures" / "tiny" / "s2l_roc.png").unlink()
    assert "made" in call(finished, *FAST, "--only", "03").stdout
    assert (finished / "figures" / "tiny" / "s2l_roc.png").is_file()


def test_the_line_of_progress_shows_loops_within_loops(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    status = run.Status("[1/1] 01", 3, None)
    monkeypatch.setenv("S2L_PROGRESS", str(status.file))
    with progress("SP sets", 2) as sets:
        assert "time left unknown · SP sets 0/2" in status.line()
        with progress("images", 96) as images:
            clock.now += 30
            images(64)
            assert "about 1 min 00 s left · SP sets 0/2 · images 64/96" in status.line(), "two thirds of the half took 30 s"
        sets(1)
        clock.now += 10
        with progress("images", 96):
            assert "about 40 s left · SP sets 1/2 · images 0/96" in status.line()
    for _ in track(range(2), "SP sets"):
        break
    assert json.loads(status.file.read_text()) == [], "a loop that is left early ends too"
    status.file.unlink()


def test_a_model_and_two_folders_of_images_become_a_report(tmp_path, pipeline_folder):
    """The audit as a user calls it, in half precision, with fewer images and steps."""
    rng = np.random.default_rng(0)
    for side in ("suspected", "others"):
        (tmp_path / side / "zoe").mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 255, (70 + i, 64, 3), dtype=np.uint8)).save(tmp_path / side / "zoe" / f"{i}.png")
    few = {"sp.images": 4, "sp.steps": 2, "finetune.lora.steps": 2, "finetune.lora.batch": 2, "finetune.lora.rank": 4}
    few |= {"finetune.lora.warmup": 0, "extraction.images": 4, "mixsyn.perturbation.rounds": 1, "statistics.bootstrap": 200}
    few |= {"base.path": pipeline_folder, "world.folders.member": tmp_path / "suspected", "world.folders.nonmember": tmp_path / "others"}
    done = call(tmp_path, "--profile", "audit", *(part for key, value in few.items() for part in ("--set", f"{key}={value}")))
    assert done.returncode == 0, done.stderr
    assert "ms an evaluation of the UNet" in done.stderr, "the estimate comes first"
    assert re.findall(r"^(\d\d)_\S+ +made", done.stdout, re.MULTILINE) == ["09"]
    report = (tmp_path / "figures" / "audit" / "audit_report.md").read_text()
    assert "8 suspected images against 8 non-members of the same domain" in report
    read = f"| unet | UNet2DConditionModel | float32 | {content(pipeline_folder / 'unet')[:12]} |"
    assert read in report and read in done.stderr, "before anything is computed, and in the report"
    executed = (tmp_path / "artifacts" / "runs" / "audit" / "09_audit_your_model.ipynb").read_text()
    assert "No trials here. Whether the suspected images are members is what is asked here" in executed


# the kernel

WHO = "import sys, os; from importlib.util import find_spec; print(sys.executable, find_spec('s2llib').origin, profile, os.getcwd())"


def notebook(folder, *cells, tags=("parameters",), **metadata):
    """A notebook with a cell of parameters and these; its path and that of its outputs."""
    made = [nbformat.v4.new_code_cell("profile = None", metadata={"tags": list(tags)}), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=metadata), folder / "01_in.ipynb")
    return folder / "01_in.ipynb", folder / "01_out.ipynb"


def foreign(folder):
    """A kernel of somebody else, called python3, in a folder for $JUPYTER_PATH."""
    at = folder / "jupyter" / "kernels" / "python3"
    at.mkdir(parents=True)
    (at / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}')
    return str(folder / "jupyter")


@pytest.mark.parametrize("metadata", [{"kernelspec": {"name": "conda-env-foo-py", "display_name": "foo", "language": "R"}}, {}])
def test_the_kernel_is_this_interpreter_with_this_library_whatever_is_installed(tmp_path, monkeypatch, metadata):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "s2llib").mkdir(parents=True)
    (elsewhere / "s2llib" / "__init__.py").write_text("raise RuntimeError('another one')")
    monkeypatch.setenv("JUPYTER_PATH", foreign(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "/proc/nowhere")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    monkeypatch.chdir(elsewhere)
    path, to = notebook(tmp_path, WHO, **metadata)
    assert execute(path, to, {"profile": "tiny"}, lambda cell: None) is None
    (output,) = nbformat.read(to, 4).cells[-1].outputs
    assert output.text.split() == [sys.executable, str(ROOT / "s2llib" / "__init__.py"), "tiny", str(elsewhere)]


REFUSES = "class ParamsError(ValueError): pass\nraise ParamsError('sp.images is 0; it must be 1.')"
DIED = "cell 3: the kernel died, most likely for want of memory; lower attacks.batch and sp.batch"


@pytest.mark.parametrize(
    ("cell", "failure"),
    [
        (REFUSES, Failure("sp.images is 0; it must be 1.", refused=True)),
        (r"raise RuntimeError('\n\x1b[31mshapes differ\x1b[0m\nand so on')", Failure("cell 3: RuntimeError: shapes differ")),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Failure(DIED)),
    ],
)
def test_what_fails_in_a_cell_is_one_sentence(tmp_path, cell, failure):
    reached = []
    assert execute(*notebook(tmp_path, cell), {"profile": "tiny"}, reached.append) == failure
    assert reached == [0, 1, 2]


def test_a_kernel_that_does_not_start_is_one_sentence_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\necho a traceback >&2\necho no module named ipykernel >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    failure = execute(*notebook(tmp_path), {"profile": "tiny"}, lambda cell: None)
    assert failure == Failure(f"no cell: the kernel {tmp_path / 'python'} did not start (no module named ipykernel)")


def test_what_runs_notebooks_is_missing_before_any_is_run(monkeypatch):
    monkeypatch.setattr("s2llib.kernel.find_spec", lambda name: None if name == "ipykernel" else name)
    with pytest.raises(ParamsError, match=r"^ipykernel, which runs the notebooks, is missing in .*; pip install -e \. in "):
        check_kernel()


@pytest.mark.parametrize(
    ("text", "message"), [(None, "has lost the tag 'parameters'"), ("<<<<<<< HEAD", "cannot be read as a notebook (JSONDecodeError)")]
)
def test_a_notebook_that_no_profile_would_reach_is_refused(tmp_path, text, message):
    path, _ = notebook(tmp_path, tags=())
    if text:
        path.write_text(text)
    with pytest.raises(ParamsError) as error:
        check_notebook(path)
    assert message in str(error.value)
    assert str(error.value).endswith("restore it: git checkout -- notebooks/01_in.ipynb")


def test_a_package_without_its_notebooks_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    with pytest.raises(ParamsError, match=r"There are no notebooks in .*; call this from a checkout of the repository"):
        commands.selected(None, None)


# what a user types


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("base.path=/data/no #1", "/data/no #1"),
        ("base.path=2024-01-01", "2024-01-01"),
        (r"base.path=C:\models", r"C:\models"),
        ("base.path='/a b'", "/a b"),
        ("base.path=~", None),
        ("base.path=~/model", "~/model"),
        ("world.subject=no", "no"),
        ("world.subject=007", "007"),
        ("world.instance=photo: {name}, smiling", "photo: {name}, smiling"),
        ("world.folders.member=/x: y", "/x: y"),
        ("sp.suffix=", ""),
        ("sp.images=96", 96),
        ("finetune.lora.lr=1e-4", "1e-4"),
        ("world.domains=[zoe, ann]", ["zoe", "ann"]),
    ],
)
def test_text_is_taken_as_it_is_typed_and_the_rest_as_yaml(pair, value):
    assert list(commands.overrides([pair]).values()) == [value]


@pytest.mark.parametrize("value", ["[a", "2024-13-45"])
def test_what_is_no_yaml_is_one_sentence(value):
    with pytest.raises(ParamsError) as error:
        commands.overrides([f"finetune.methods={value}"])
    assert str(error.value).endswith(f"{value!r} is not a YAML value; put text in quotes, such as --set \"finetune.methods='...'\".")


def test_a_terminal_without_a_size_has_80_columns(monkeypatch):
    assert run.columns() > 0
    monkeypatch.setattr(os, "get_terminal_size", lambda _: (_ for _ in ()).throw(OSError("Inappropriate ioctl for device")))
    assert run.columns() == 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "labb"], "Unknown profile 'labb'"),
        (["--profile", "tiny", "--set", "sp.imagse=3"], "sp.imagse is not a known key"),
        (["--profile", "tiny", "--set", "finetune.lora.steps=-1"], "finetune.lora.steps is -1"),
        (["--profile", "tiny", "--set", "world.domains=[nobody]"], "unknown domain 'nobody'"),
        (["--profile", "tiny", "--set", "sp.images"], "write KEY=VALUE"),
        (["--profile", "tiny", "--only", "77"], "There is no notebook 77"),
        (["--profile", "tiny", "--only", "01", "--from", "02"], "leave no notebook to run"),
        (["--profile", "tiny", "--set", "base.path=/etc"], "/etc is no diffusers pipeline"),
        (["--profile", "paper"], "is no diffusers pipeline"),
        (["--profile", "tiny", "--only", "07", "--set", "blackbox.captioner=/nowhere"], "/nowhere is no BLIP model with .safetensors"),
    ],
)
def test_bad_input_stops_with_one_sentence_and_a_failing_exit_code(tmp_path, arguments, message):
    done = call(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "artifacts").exists()


def test_a_notebook_that_cannot_run_is_skipped_with_its_reason(finished):
    done = call(finished, *FAST, "--from", "07", "--set", "blackbox.captioner=/nowhere")
    assert done.returncode == 0, done.stderr
    assert "07_blackbox_mia is skipped. blackbox.captioner: /nowhere is no BLIP model" in done.stderr
    assert "skipped" in done.stdout


def test_every_code_version_is_part_of_a_notebooks_key():
    lines = [line for path in (ROOT / "s2llib").rglob("*.py") for line in path.read_text().splitlines()]
    constants = [line for line in lines if re.match(r"[A-Z]*VERSION = ", line.replace("_", ""))]
    artifacts = [line for line in lines if line.startswith("@artifact(")]
    assert len(code_versions()) == len(constants) + len(artifacts) > 8


def test_help_needs_nothing_installed():
    done = subprocess.run(["bash", "run_all.sh", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for flag in ("--profile", "--only", "--from", "--fresh", "--set", "--executor", "--check", "--test", "--help"):
        assert flag in done.stdout
