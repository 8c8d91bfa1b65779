"""The check before a run: what it refuses, what it says was read, and that it computes nothing."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from s2llib import Lab, ParamsError, check, run
from s2llib.command import guarded
from s2llib.data.reading import Reading
from s2llib.metrics.quality import no_brisque
from s2llib.models.base import content
from s2llib.models.hardware import optimizer_class
from s2llib.params import load_params
from s2llib.report import provenance
from s2llib.report import reading as page
from s2llib.report.reading import model_parts, what_was_read
from s2llib.scale import _dask, _has_dashboard
from s2llib.store import DiskFull, check_writable
from s2llib.studies import ablations, mixsyn, priors

SHADES = iter(range(1, 10**6))


def photographs(folder, count, caption=None, width=64):
    """So many images, no two alike, each with a caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        number = next(SHADES)
        Image.new("RGB", (width + i, 64), (number % 256, number // 256 % 256, 7)).save(folder / f"{i}.png")
        if caption:
            (folder / f"{i}.txt").write_text(caption)


@pytest.fixture
def audit(pipeline_folder, tmp_path):
    """The audit's overrides, with 8 suspected images of zoe and 8 others."""
    photographs(tmp_path / "suspected" / "zoe", 8)
    photographs(tmp_path / "others" / "zoe", 8, width=70)
    folders = {"member": str(tmp_path / "suspected"), "nonmember": str(tmp_path / "others")}
    return {"base.path": str(pipeline_folder), "world.folders": folders}


def captioned(tmp_path):
    """A caption beside every image of the audit."""
    for side, width in (("suspected", 64), ("others", 70)):
        photographs(tmp_path / side / "zoe", 8, "zoe on a mountain", width)


def lab_of(overrides, tmp_path):
    return Lab.open("audit", overrides, root=tmp_path / "artifacts")


# the command


def called(*arguments):
    return run.parser().parse_args(arguments)


def test_the_check_says_what_was_read_and_how_long_it_takes_and_stores_nothing_but_what_was_checked(
    audit, pipeline_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("S2L_HOME", str(tmp_path / "artifacts"))
    folders = [f"world.folders.{split}={folder}" for split, folder in audit["world.folders"].items()]
    settings = [part for pair in (f"base.path={pipeline_folder}", *folders) for part in ("--set", pair)]
    assert check.check(called("--profile", "audit", *settings)) == 0
    said = capsys.readouterr().out
    assert f"| unet | UNet2DConditionModel | float32 | {content(pipeline_folder / 'unet')[:12]} |" in said
    assert "it predicts epsilon" in said
    assert "| zoe | member | 8 | 64 x 64 to 71 x 64 |" in said
    assert "every image is asked about as 'a photo of {name}'" in said
    assert "ms an evaluation of the UNet" in said
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"folder_check", "sound_model"}


@pytest.mark.parametrize("profile", ["tiny", "lab"])
def test_a_world_that_is_drawn_is_checked_without_drawing_more_than_the_models_are_tried_on(profile, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("S2L_HOME", str(tmp_path / "artifacts"))
    assert check.check(called("--profile", profile)) == 0
    said = capsys.readouterr().out
    assert "**Images**: drawn here, of" in said
    assert ("the base model is trained here first" in said) == (profile == "tiny")
    drawn = list((tmp_path / "artifacts" / "domain").glob("*[!k]/manifest.json"))
    assert len(drawn) == (0 if profile == "tiny" else 1)


def test_images_that_are_only_counted_are_as_many_as_are_drawn(lab, tmp_path):
    counting = Lab(lab.params, tmp_path / "artifacts")
    check.plan(counting)
    for planned, drawn in zip(counting.domains + counting.everyone, lab.domains + lab.everyone, strict=True):
        counts = lambda domain: {split: photos.copies for split, photos in domain.splits.items()}  # noqa: E731
        assert (planned.name, planned.digest, counts(planned)) == (drawn.name, drawn.digest, counts(drawn))
    assert not (tmp_path / "artifacts").exists()


def test_a_check_that_refuses_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("S2L_HOME", str(tmp_path / "artifacts"))
    monkeypatch.setattr(sys, "argv", ["check", "--profile", "audit", "--set", "base.path=/etc"])
    assert check.main() == 2
    assert capsys.readouterr().err.startswith("base.path: /etc is no diffusers pipeline")


# what was read


def test_twenty_files_left_out_are_named_on_a_screen_and_all_in_a_report(audit, tmp_path, monkeypatch):
    files = tuple((Path(f"/data/{i}.heic"), "cannot be read") for i in range(25))
    found = Reading((*files, (Path("/data/notes.pdf"), "no image")), {"member": {"metadata": 5, "template": 3}})
    monkeypatch.setattr(page, "reading", lambda world: found)
    lab = lab_of(audit, tmp_path)
    short, long = what_was_read(lab), what_was_read(lab, most=None)
    assert "**Left out**: 26 files" in short
    assert "- cannot be read (25): /data/0.heic, " in short
    assert "/data/19.heic and 5 more" in short
    assert "- no image (1): /data/notes.pdf" in short
    assert "- member: 5 metadata, 3 template" in short
    assert "/data/24.heic" not in short and "/data/24.heic" in long


def test_prompts_that_are_cut_are_counted_and_captions_are_among_them_where_they_are_asked(audit, tmp_path, monkeypatch):
    captioned(tmp_path)
    asked = {}
    monkeypatch.setattr(page, "cut_prompts", lambda tokenizer, length, texts: asked.update({length: texts}) or texts[:1])
    for caption in (False, True):
        said = what_was_read(lab_of(audit | {"attacks.caption": caption}, tmp_path))
        assert list(asked) == [24], "tokens of the text encoder"
        assert ("zoe on a mountain" in asked[24]) == caption
        assert f"**Prompts**: 1 of {len(asked[24])} are cut to the first 24 tokens: 'photo of zoe'." in said


def test_the_precision_of_stored_weights_and_the_prediction_are_those_of_the_files(audit, pipeline_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(pipeline_folder, folder)
    UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float16).save_pretrained(folder / "unet")
    schedule = folder / "scheduler" / "scheduler_config.json"
    schedule.write_text(json.dumps(json.loads(schedule.read_text()) | {"prediction_type": "v_prediction"}))
    assert {part: precision for part, _, precision, _ in model_parts(folder)} == {
        "unet": "float16", "vae": "float32", "text_encoder": "float32", "tokenizer": "", "scheduler": "",
    }  # fmt: skip
    assert "it predicts v_prediction" in what_was_read(lab_of(audit | {"base.path": str(folder)}, tmp_path))


# refused before any compute


def refusal(overrides, tmp_path, profile="audit"):
    with pytest.raises(ParamsError) as error:
        Lab.open(profile, overrides, root=tmp_path / "artifacts")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "artifacts").glob("[!f]*")), "nothing but the images' check"
    return str(error.value)


LEARNING = {"finetune.methods": ["textual_inversion"]}


@pytest.mark.parametrize("more", [LEARNING, {"audit.method": "textual_inversion_lora"}, {"attacks.sweep.methods": ["textual_inversion"]}])
def test_captions_that_lack_the_prompt_whose_place_a_token_takes_are_refused_at_once(audit, tmp_path, more):
    captioned(tmp_path)
    found = refusal(audit | more | {"attacks.caption": True}, tmp_path)
    assert found.startswith("attacks.caption: Textual Inversion")
    assert "in place of 'photo of zoe', which the caption 'zoe on a mountain' of" in found
    lab_of(audit | more | {"attacks.caption": True, "world.instance": "{name}", "world.condition": "{name}"}, tmp_path)
    lab_of(audit | more, tmp_path)


def test_extraction_by_captions_asks_the_same_of_them(audit, tmp_path):
    captioned(tmp_path)
    assert refusal(audit | LEARNING | {"extraction.prompts": "captions", "extraction.draws": 3}, tmp_path).startswith(
        "extraction.prompts: Textual Inversion learns"
    )


def test_the_notebooks_of_ablations_and_of_the_defence_are_refused_for_such_captions(audit, tmp_path):
    captioned(tmp_path)
    lab = lab_of(audit | {"attacks.caption": True, "mixsyn.methods": ["textual_inversion"]}, tmp_path)
    assert ablations.refusal(lab).startswith("attacks.caption: Textual Inversion learns a token in place of 'photo of zoe'")
    assert mixsyn.refusal(lab) == ablations.refusal(lab)
    with pytest.raises(ParamsError, match=r"attacks\.caption: Textual Inversion learns"):
        ablations.ablation(lab, ablations.Ablation("none", "textual_inversion", {1: {}}, None))
    assert ablations.refusal(lab_of(audit, tmp_path)) == ""


def test_captions_of_a_world_that_is_drawn_begin_with_a_photo_of(tmp_path):
    changed = {"attacks.caption": True, "world.instance": "face of {name}", "world.condition": "the face of {name}"}
    assert refusal(changed, tmp_path, "tiny").startswith(
        "attacks.caption: captions of this world begin with 'a photo of {name}', without world.instance ('face of {name}')"
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"finetune.knowledge": "public"}, "Prior knowledge: 'zoe' has 0 public photographs and 8 are asked for"),
        ({"finetune.knowledge": "wrong"}, "finetune.knowledge is 'wrong' but there is one person alone"),
        (
            {"finetune.defense.epsilon": 0.1, "blackbox.private.delta": 1e-300},
            "finetune.defense.epsilon, with the recipe of blackbox.private",
        ),
        ({"extraction.tiles": 3}, "extraction.tiles is 3 but images of 64 x 64 pixels cannot be cut into 3 x 3 tiles"),
        ({"extraction.other_tiles": 5}, "extraction.other_tiles is 5 but images of 64 x 64 pixels"),
        ({"base.path": r"C:\Users\me\model"}, r"C:\Users\me\model is a path of Windows; write it as this system sees it"),
        ({"finetune.lora.lr": float("inf")}, "finetune.lora.lr is inf; it must be a finite number"),
        ({"profile": "lab"}, "profile is no parameter that can be changed; name it with --profile"),
    ],
)
def test_what_was_found_in_the_middle_of_a_run_is_found_before_it(audit, tmp_path, more, message):
    assert message in refusal(audit | more, tmp_path)


def test_a_config_that_is_cut_off_is_refused(audit, pipeline_folder, tmp_path):
    shutil.copytree(pipeline_folder, tmp_path / "model")
    (tmp_path / "model" / "vae" / "config.json").write_text('{"sample')
    assert "vae/config.json is missing or no JSON; copy the model's folder again" in refusal(
        audit | {"base.path": str(tmp_path / "model")}, tmp_path
    )


@pytest.mark.parametrize("size", [None, [64, 48]])
def test_a_unet_whose_images_have_no_edge_is_refused(audit, pipeline_folder, tmp_path, size):
    shutil.copytree(pipeline_folder, tmp_path / "model")
    config = tmp_path / "model" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": size}))
    assert "states no sample_size, the edge of its latents; write it there" in refusal(
        audit | {"base.path": str(tmp_path / "model")}, tmp_path
    )


def test_one_person_has_no_wrong_name_among_the_levels_of_knowledge(audit, tmp_path):
    assert priors.prior_levels(lab_of(audit, tmp_path)) == ["noise", "weights", "generic", "name", "attributes"]


# where results are written


def test_a_store_below_a_file_or_a_lost_disk_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "lost").symlink_to(tmp_path / "unmounted")
    for name in ("file", "lost"):
        for folder in (tmp_path / name, tmp_path / name / "artifacts"):
            with pytest.raises(ParamsError, match=rf"{folder} cannot be written to: {tmp_path / name} is no folder; set \$S2L_HOME to"):
                check_writable(folder, "S2L_HOME")
    check_writable(tmp_path / "new" / "artifacts", "S2L_HOME")
    assert not (tmp_path / "new").exists()


def test_a_store_with_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "sp").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "sp")
    with pytest.raises(ParamsError, match=rf"{tmp_path / 'sp'} cannot be written to by this user; set \$S2L_FIGURES"):
        check_writable(tmp_path, "S2L_FIGURES")


def test_a_full_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(ParamsError, match=rf"The disk of {tmp_path} is full; make room, or set \$S2L_HOME"):
        Lab.open("tiny", root=tmp_path)


def test_a_profile_that_is_no_utf8_is_one_sentence_and_a_byte_order_mark_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("s2llib.params.profile.PARAMS_DIR", tmp_path)
    (tmp_path / "mine.yaml").write_bytes("world: {kind: portraits} # für Zoë".encode("latin-1"))
    with pytest.raises(ParamsError, match=r"^params/mine.yaml is not UTF-8 text; save it as UTF-8.$"):
        load_params("mine")
    (tmp_path / "mine.yaml").write_bytes("world: {kind: portraits} # für Zoë".encode("utf-8-sig"))
    assert load_params("mine").world.kind == "portraits"


# optional packages that are there and do not load


def broken(monkeypatch, folder, package, error):
    """A package that raises this when it is imported, in front of the true one."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(f"raise {error}")
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("OSError('libsvm.so.2: cannot open shared object file')", "(OSError: libsvm.so.2: cannot open shared object file)"),
        ("ImportError('numpy.core failed\\nlong story')", "(ImportError: numpy.core failed)"),
        ("RuntimeError", "(RuntimeError)"),
    ],
)
def test_brisque_that_cannot_be_loaded_is_a_reason_and_stops_nothing(tmp_path, monkeypatch, error, reason):
    broken(monkeypatch, tmp_path, "brisque", error)
    assert no_brisque().startswith(f"the package brisque is installed and cannot be imported {reason}; pip install --force-reinstall")


@pytest.mark.parametrize("error", ["RuntimeError('CUDA Setup failed')", "OSError('libcudart.so')"])
def test_bitsandbytes_that_cannot_be_loaded_is_one_sentence(tmp_path, monkeypatch, error):
    broken(monkeypatch, tmp_path, "bitsandbytes", error)
    with pytest.raises(
        ParamsError, match=r"^hardware.optimizer is 'adamw8bit' but bitsandbytes cannot be imported \((Runtime|OS)Error: .*\);"
    ):
        optimizer_class("adamw8bit")


def test_dask_and_its_dashboard_that_cannot_be_loaded_are_said_and_done_without(tmp_path, monkeypatch):
    broken(monkeypatch, tmp_path, "bokeh", "AttributeError('np.bool8')")
    for name in [name for name in sys.modules if name.startswith("distributed.dashboard")]:
        monkeypatch.delitem(sys.modules, name)
    _has_dashboard.cache_clear()
    assert not _has_dashboard()
    _has_dashboard.cache_clear()
    broken(monkeypatch, tmp_path, "dask", "RuntimeError('incompatible')")
    with pytest.raises(ParamsError, match=r"Dask cannot be imported \(RuntimeError: incompatible\); pip install"):
        _dask()


# no traceback reaches a user


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ParamsError("sp.images is -1; it must\nbe positive."), 2, "sp.images is -1; it must be positive."),
        (DiskFull("The disk is full."), 2, "The disk is full."),
        (KeyboardInterrupt(), 130, "Interrupted; run the same command again"),
        (TypeError("unhashable\nlist"), 1, "Unexpected: TypeError: unhashable; the details are in "),
    ],
)
def test_a_command_ends_with_one_sentence(error, code, says, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail():
        raise error

    assert guarded(fail) == code
    said = capsys.readouterr().err.strip()
    assert said.startswith(says)
    assert len(said.splitlines()) == 1
    if code == 1:
        (log,) = tmp_path.iterdir()
        assert f"{log}: please report it." in said
        assert "Traceback (most recent call last)" in log.read_text()


def test_a_command_that_is_terminated_goes_on_when_it_is_called_again(capsys):
    assert guarded(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 143
    assert capsys.readouterr().err == "\nInterrupted; run the same command again to go on from here.\n"


def test_an_archive_unpacked_within_another_repository_has_no_commit(monkeypatch, tmp_path):
    answer = lambda words, **_: type("Done", (), {"returncode": 0, "stdout": str(tmp_path) if "--show-toplevel" in words else "abc"})  # noqa: E731
    monkeypatch.setattr(provenance.subprocess, "run", answer)
    assert provenance._git_commit() == "unknown"
