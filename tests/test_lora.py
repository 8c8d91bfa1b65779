"""A LoRA on top of a base: every trainer's names, fused exactly, and everything that is none refused in one sentence."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from s2llib import Lab, ParamsError
from s2llib.artifact import made
from s2llib.compute import models
from s2llib.finetune.methods import PRETRAINED
from s2llib.lab import other_base
from s2llib.models.base import base_key
from s2llib.models.lora import fuse, lora_files
from s2llib.models.pipeline import check_folder, load_pipeline
from s2llib.params import load_params
from s2llib.studies import audit, blackbox, mixsyn, s2l
from s2llib.studies.plan import tuned

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
ATTENTION = [f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_k", f"{BLOCK}.attn2.to_out.0"]
UNET = [
    *ATTENTION, f"{BLOCK}.ff.net.0.proj", "down_blocks.1.attentions.0.proj_in", "mid_block.resnets.0.conv1", "conv_in",
    "down_blocks.0.resnets.0.time_emb_proj", "down_blocks.0.downsamplers.0.conv", "down_blocks.1.resnets.0.conv_shortcut",
    "time_embedding.linear_1",
]  # fmt: skip
SELF = [f"encoder.layers.1.self_attn.{name}" for name in ("q_proj", "v_proj", "out_proj")]
TEXT = [*SELF, "encoder.layers.0.mlp.fc1"]


def flat(name):
    return name.replace(".", "_")


def old(name):
    """As diffusers' first attention processors were called."""
    block, layer = re.fullmatch(r"(.+)\.(?:to_)?(q|k|v|out)(?:_proj|\.0)?", name).groups()
    return f"{block}.{'' if 'self_attn' in name else 'processor.'}to_{layer}_lora"


# naming scheme: {part: (a layer's name in the file, its suffixes for down and up)}, which layers it can name
DOWN_UP, AB, DOTTED = ("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight"), ("lora.down.weight", "lora.up.weight")
PLAIN = ("down.weight", "up.weight")  # after `_lora`
SCHEMES = {
    "kohya": (lambda n: f"lora_unet_{flat(n)}", lambda n: f"lora_te_text_model_{flat(n)}", DOWN_UP, DOWN_UP, UNET, TEXT),
    "kohya, te1": (lambda n: f"lora_unet_{flat(n)}", lambda n: f"lora_te1_text_model_{flat(n)}", DOWN_UP, DOWN_UP, UNET, TEXT),
    "diffusers": (lambda n: f"unet.{n}", lambda n: f"text_encoder.{n}", AB, AB, UNET, TEXT),
    "diffusers, 2023": (
        lambda n: f"unet.{n}", lambda n: f"text_encoder.text_model.{n}", DOTTED,
        ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"), UNET, TEXT,
    ),
    "diffusers, processors": (
        lambda n: f"unet.{old(n)}", lambda n: f"text_encoder.text_model.{old(n)}", PLAIN, PLAIN, ATTENTION, SELF,
    ),
    "diffusers, UNet alone": (old, None, PLAIN, None, ATTENTION, []),
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes(pipeline_folder):
    pipeline = load_pipeline(pipeline_folder)
    return {
        part: {name: layer.weight.shape for name, layer in getattr(pipeline, part).named_modules() if hasattr(layer, "weight")}
        for part in ("unet", "text_encoder")
    }


def matrices(shapes, seed=0, layers=None):
    """{(part, layer): (down, up, rank)}, random, of a rank that differs from layer to layer."""
    draw, found = torch.Generator().manual_seed(seed), {}
    for part, names in (layers or {"unet": UNET, "text_encoder": TEXT}).items():
        for i, name in enumerate(names):
            out, *rest = shapes[part][name]
            rank = 2 + i % 3
            ones = [1] * (len(rest) - 1)
            found[part, name] = torch.randn(rank, *rest, generator=draw), torch.randn(out, rank, *ones, generator=draw), rank
    return found


def written(scheme, found, alphas=None):
    """The tensors of a file in a naming scheme."""
    unet, text, of_unet, of_text, _, _ = SCHEMES[scheme]
    tensors = {}
    for (part, name), (down, up, _) in found.items():
        own, (lower, upper) = (unet(name), of_unet) if part == "unet" else (text(name), of_text)
        tensors |= {f"{own}.{lower}": down, f"{own}.{upper}": up}
        if alphas:
            tensors[f"{own}.alpha"] = torch.tensor(alphas[part, name])
    return tensors


def by_hand(folder, found, factors, to=None):
    """The pipeline of a folder with factor * up @ down added to its weights by plain arithmetic; saved where `to` says."""
    pipeline = load_pipeline(folder)
    for (part, name), (down, up, _) in found.items():
        weight = getattr(pipeline, part).get_submodule(name).weight
        weight.data = weight.data + factors[part, name] * torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(weight.shape)
    if to:
        pipeline.save_pretrained(to)
    return pipeline


def assert_same(a, b):
    for part in ("unet", "text_encoder", "vae"):
        left, right = getattr(a, part).state_dict(), getattr(b, part).state_dict()
        assert set(left) == set(right)
        for name in left:
            torch.testing.assert_close(left[name], right[name], atol=1e-6, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def kohya(shapes, path, layers=None, alphas=None, **more):
    """A kohya file of these layers (attention of the UNet, if not given)."""
    found = matrices(shapes, layers=layers or {"unet": ATTENTION})
    save_file(written("kohya", found, alphas) | more, path)
    return found


def refusal(folder, path):
    """What a user who names this LoRA reads."""
    with pytest.raises(ParamsError) as error:
        Lab.open("tiny", {"base.path": str(folder), "base.lora": str(path)}, root=path.parent / "artifacts")
    assert not (path.parent / "artifacts").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


# exactly


@pytest.mark.parametrize(("scheme", "alpha"), [*((scheme, False) for scheme in SCHEMES), ("kohya", True), ("kohya, te1", True)])
def test_the_fused_weight_is_the_weight_plus_scale_alpha_by_rank_up_down(scheme, alpha, pipeline_folder, shapes, tmp_path):
    layers = dict(zip(("unet", "text_encoder"), SCHEMES[scheme][4:], strict=True))
    found = matrices(shapes, layers=layers)
    alphas = {where: 1.0 + i for i, where in enumerate(found)} if alpha else None
    save_file(written(scheme, found, alphas), tmp_path / "zoe.safetensors")
    pipeline = load_pipeline(pipeline_folder)
    fuse(pipeline, tmp_path / "zoe.safetensors", 0.7)
    factors = {where: 0.7 * (alphas[where] / rank if alpha else 1) for where, (_, _, rank) in found.items()}
    assert_same(pipeline, by_hand(pipeline_folder, found, factors))


def test_a_lora_of_the_text_encoder_alone_leaves_the_unet_alone(pipeline_folder, shapes, tmp_path):
    found = kohya(shapes, tmp_path / "zoe.safetensors", {"text_encoder": TEXT})
    pipeline, base = load_pipeline(pipeline_folder), load_pipeline(pipeline_folder)
    fuse(pipeline, tmp_path / "zoe.safetensors", 1.0)
    assert_same(pipeline, by_hand(pipeline_folder, found, dict.fromkeys(found, 1.0)))
    assert all(torch.equal(a, b) for a, b in zip(pipeline.unet.parameters(), base.unet.parameters(), strict=True))


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_folder_of_peft_is_fused_with_the_alpha_of_its_config(part, rslora, pipeline_folder, tmp_path):
    """Against peft's own merge: ranks and alphas that differ by layer."""
    pipeline = load_pipeline(pipeline_folder)
    names = {"unet": ["to_q", "to_v", "conv1"], "text_encoder": ["q_proj", "fc2"]}[part]
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=names, rank_pattern={names[0]: 2}, alpha_pattern={names[-1]: 5}, use_rslora=rslora,
        init_lora_weights=False,
    )  # fmt: skip
    model = get_peft_model(getattr(pipeline, part), config)
    model.save_pretrained(tmp_path / "zoe")
    setattr(pipeline, part, model.merge_and_unload())
    other = load_pipeline(pipeline_folder)
    fuse(other, tmp_path / "zoe", 1.0)
    assert_same(other, pipeline)
    assert not torch.equal(
        getattr(other, part).state_dict()[changed(part)], getattr(load_pipeline(pipeline_folder), part).state_dict()[changed(part)]
    )


def changed(part):
    return f"{ATTENTION[0]}.weight" if part == "unet" else f"{SELF[0]}.weight"


def test_what_plain_diffusers_loads_and_fuses_is_the_same(pipeline_folder, shapes, tmp_path):
    """One alpha: where kohya's differ by layer, diffusers 0.42 takes another for attention than was trained with."""
    found = {where: (down[:2], up[:, :2], 2) for where, (down, up, _) in matrices(shapes).items() if "conv_in" not in where}
    save_file({k: v.contiguous() for k, v in written("kohya", found, dict.fromkeys(found, 3.0)).items()}, tmp_path / "zoe.safetensors")
    plain, ours = load_pipeline(pipeline_folder), load_pipeline(pipeline_folder)
    plain.load_lora_weights(tmp_path, weight_name="zoe.safetensors", local_files_only=True)
    plain.fuse_lora(lora_scale=0.5)
    plain.unload_lora_weights()
    fuse(ours, tmp_path / "zoe.safetensors", 0.5)
    assert_same(ours, plain)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_an_alpha_that_only_the_metadata_says_is_taken(prefix, pipeline_folder, shapes, tmp_path):
    found = matrices(shapes, layers={"unet": ATTENTION, "text_encoder": SELF})
    tensors = {
        name.replace("unet.", f"unet.{prefix}").replace("der.enc", f"der.{prefix}enc"): x for name, x in written("diffusers", found).items()
    }
    metadata = {
        "unet.lora_alpha": 6, "unet.alpha_pattern": {ATTENTION[0]: 9.0}, "unet.r": 2, "text_encoder.lora_alpha": 1,
        "text_encoder.alpha_pattern": {}, "unet.peft_type": "LORA", "unet.init_lora_weights": "gaussian",
    }  # fmt: skip
    save_file(tensors, tmp_path / "zoe.safetensors", {"format": "pt", "lora_adapter_metadata": json.dumps(metadata)})
    pipeline = load_pipeline(pipeline_folder)
    fuse(pipeline, tmp_path, 1.0)
    alphas = {where: 9 if where[1] == ATTENTION[0] else 6 if where[0] == "unet" else 1 for where in found}
    assert_same(pipeline, by_hand(pipeline_folder, found, {where: alphas[where] / found[where][2] for where in found}))


def test_a_fine_tuned_model_of_this_study_is_a_lora(pipeline_folder, tmp_path):
    """Ranks capped by layer, alpha in the metadata alone: what `load_finetuned` makes of it, to the last digit that float32 has."""
    from s2llib.finetune.methods import METHODS
    from s2llib.finetune.parts import PARTS
    from s2llib.finetune.recipe import load_finetuned, save_finetuned
    from s2llib.params import LoRA

    how, recipe, pipeline = METHODS["dreambooth_lora"], LoRA(steps=1, batch=1, rank=24, alpha=40), load_pipeline(pipeline_folder)
    torch.manual_seed(0)
    for part in how.trains:
        for weight in PARTS[part](pipeline, recipe, "zoe", "photo of zoe"):
            torch.nn.init.normal_(weight, std=0.1)
    save_finetuned(pipeline, how, recipe, None, tmp_path / "zoe")
    ours = load_pipeline(pipeline_folder)
    fuse(ours, tmp_path / "zoe", 1.0)
    assert_same(ours, load_finetuned(pipeline_folder, tmp_path / "zoe"))


def test_both_folders_of_pefts_own_script_are_fused(pipeline_folder, tmp_path):
    pipeline = load_pipeline(pipeline_folder)
    for part, names in (("unet", ["to_q"]), ("text_encoder", ["q_proj"])):
        config = LoraConfig(r=2, lora_alpha=5, target_modules=names, init_lora_weights=False)
        model = get_peft_model(getattr(pipeline, part), config)
        model.save_pretrained(tmp_path / "zoe" / part)
        setattr(pipeline, part, model.merge_and_unload())
    assert list(lora_files(tmp_path / "zoe")) == ["unet", "text_encoder"]
    ours = load_pipeline(pipeline_folder)
    fuse(ours, tmp_path / "zoe", 1.0)
    assert_same(ours, pipeline)


def test_a_linear_layer_that_was_trained_as_a_convolution_is_the_same_layer(pipeline_folder, shapes, tmp_path):
    found = kohya(shapes, tmp_path / "zoe.safetensors")
    tensors = {name: x[..., None, None] for name, x in load_file(tmp_path / "zoe.safetensors").items()}
    save_file({name: x.contiguous().half() for name, x in tensors.items()}, tmp_path / "zoe.safetensors")
    found = {where: (down.half().float(), up.half().float(), rank) for where, (down, up, rank) in found.items()}
    pipeline = load_pipeline(pipeline_folder)
    fuse(pipeline, tmp_path / "zoe.safetensors", 1.0)
    assert_same(pipeline, by_hand(pipeline_folder, found, dict.fromkeys(found, 1.0)))


# in a study


def lora_lab(folder, root, **more):
    few = {"world.domains": 1, "base.path": str(folder), "sp.images": 4, "sp.steps": 2, "finetune.lora.steps": 2}
    few |= {"attacks.names": ["sima"], "mixsyn.attacks": ["sima"]}
    return Lab.open("tiny", few | {f"base.{name}": value for name, value in more.items()}, root=root)


def test_a_study_with_a_lora_is_that_of_a_base_fused_by_hand_and_not_that_of_the_base(pipeline_folder, shapes, tmp_path):
    found = kohya(shapes, tmp_path / "zoe.safetensors", {"unet": UNET, "text_encoder": TEXT})
    by_hand(pipeline_folder, found, dict.fromkeys(found, 0.05), tmp_path / "fused")
    labs = [
        lora_lab(pipeline_folder, tmp_path / "a", lora=str(tmp_path / "zoe.safetensors"), lora_scale=0.05),
        lora_lab(tmp_path / "fused", tmp_path / "b"),
        lora_lab(pipeline_folder, tmp_path / "c"),
    ]
    ours, fused, base = (s2l.membership(lab, [PRETRAINED])["score"].to_numpy() for lab in labs)
    assert ours == pytest.approx(fused, rel=1e-4)
    assert (abs(ours / base - 1) > 1e-3).mean() > 0.9
    assert labs[0].base_name == "model + zoe.safetensors at 0.05"
    assert made(labs[0], tuned(labs[0], labs[0].domains[0], "lora")).is_dir(), "what is downstream sees a plain folder"
    assert models.folder(labs[0], labs[0].base).parent == tmp_path / "a" / "fused"


def test_the_fused_folder_is_a_plain_pipeline_with_what_lay_beside_the_base(shapes, tmp_path):
    """The lab's base is in half precision, with a CLIP pair, its losses, and the world that it was trained on."""
    layer = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
    weight = load_file("models/lab/unet/diffusion_pytorch_model.safetensors")[f"{layer}.weight"].float()
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    save_file({f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}, tmp_path / "zoe.safetensors")
    lab = Lab.open("lab", {"base.lora": str(tmp_path / "zoe.safetensors")}, root=tmp_path / "artifacts")
    at = models.folder(lab, lab.base)
    check_folder(at)
    fused = load_file(at / "unet" / "diffusion_pytorch_model.safetensors")
    assert {x.dtype for x in fused.values()} == {torch.float32}
    torch.testing.assert_close(fused[f"{layer}.weight"], weight + up @ down)
    for name in ("clip/config.json", "clip/model.safetensors", "training.json", "world.json"):
        assert (at / name).read_bytes() == Path("models/lab", name).read_bytes()
    texts = ["a photo of ada abeck", "zoe"]
    plain = StableDiffusionPipeline.from_pretrained(at)
    assert plain.tokenizer(texts).input_ids == load_pipeline(Path("models/lab")).tokenizer(texts).input_ids


def test_the_key_of_the_base_holds_the_loras_content_and_its_scale_alone(pipeline_folder, shapes, tmp_path):
    kohya(shapes, tmp_path / "zoe.safetensors")
    shutil.copy(tmp_path / "zoe.safetensors", tmp_path / "same.safetensors")
    save_file({name: 2 * x for name, x in load_file(tmp_path / "zoe.safetensors").items()}, tmp_path / "other.safetensors")

    def key(lora=None, scale=1.0):
        return base_key(
            load_params("tiny", {"base.path": str(pipeline_folder), "base.lora": lora and str(tmp_path / lora), "base.lora_scale": scale})
        )

    assert key("zoe.safetensors") == key("same.safetensors")
    keys = [key(), key("zoe.safetensors"), key("zoe.safetensors", 0.8), key("other.safetensors")]
    assert len(set(keys)) == 4
    assert key("zoe.safetensors", 0.8) == key("zoe.safetensors", 0.8)


def test_another_base_does_not_carry_the_lora_over(pipeline_folder, shapes, tmp_path):
    kohya(shapes, tmp_path / "zoe.safetensors")
    lab = lora_lab(pipeline_folder, tmp_path / "artifacts", lora=str(tmp_path / "zoe.safetensors"), lora_scale=0.5)
    other, same = lab.at(other_base(str(pipeline_folder))), lab.at({"attacks.batch": 2})
    assert other.base.content == lora_lab(pipeline_folder, tmp_path / "artifacts").base.content
    assert other.base_name == "model"
    ours, its, theirs = (models.pipeline(each, each.base) for each in (lab, same, other))
    assert its is ours, "one base is loaded once"
    assert not torch.equal(*(each.unet.state_dict()[changed("unet")] for each in (ours, theirs)))


def test_no_check_fuses_a_lora(pipeline_folder, shapes, tmp_path):
    kohya(shapes, tmp_path / "zoe.safetensors")
    lab = lora_lab(pipeline_folder, tmp_path / "artifacts", lora=str(tmp_path / "zoe.safetensors"))
    assert f"{pipeline_folder} has no CLIP pair (clip/)" in blackbox.refusal(lab)
    assert f"{pipeline_folder} has none in clip/" in mixsyn.refusal(lab)
    assert not audit.refusal(lab)
    assert not (tmp_path / "artifacts" / "fused").exists()


def test_a_lora_goes_onto_a_model_of_the_hub_too(pipeline_folder, shapes, tmp_path, monkeypatch):
    kohya(shapes, tmp_path / "zoe.safetensors")
    monkeypatch.setattr("s2llib.models.pipeline._downloaded", lambda name: pipeline_folder)
    given = {"base.hub": "someone/model", "base.lora": str(tmp_path / "zoe.safetensors"), "world.domains": 1}
    lab = Lab.open("tiny", given, root=tmp_path / "artifacts")
    assert lab.base_name == "someone/model + zoe.safetensors at 1"
    assert lab.base == lora_lab(pipeline_folder, tmp_path / "artifacts", lora=str(tmp_path / "zoe.safetensors")).base


def test_an_estimate_and_the_command_line_take_a_lora(pipeline_folder, shapes, tmp_path, monkeypatch, capsys):
    from s2llib import estimate

    kohya(shapes, tmp_path / "zoe.safetensors")
    monkeypatch.setenv("S2L_HOME", str(tmp_path / "artifacts"))
    sets = [f"base.path={pipeline_folder}", f"base.lora={tmp_path / 'zoe.safetensors'}", "base.lora_scale=0.8"]
    monkeypatch.setattr("sys.argv", ["estimate", "--profile", "tiny", "--only", "01", *(word for each in sets for word in ("--set", each))])
    assert estimate.main() == 0, capsys.readouterr().err
    monkeypatch.setattr(
        "sys.argv", ["estimate", "--profile", "tiny", "--set", f"base.path={pipeline_folder}", "--set", "base.lora=/nowhere"]
    )
    assert estimate.main() == 2
    assert "base.lora: /nowhere does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"base.lora": "zoe"}, "base; lora is given but no base that it was trained on; set base.path or base.hub as well."),
        ({"base.path": "m", "base.lora_scale": 0.8}, "base; lora_scale is given but no LoRA; set base.lora as well, or leave it out."),
        ({"base.path": "m", "base.lora": "zoe", "base.lora_scale": 0}, "base.lora_scale is 0; it must be greater than 0."),
        ({"base.path": "m", "base.lora": "zoe", "base.lora_scale": 80}, "base.lora_scale is 80; it must be less than or equal to 10."),
        ({"base.path": "m", "base.lora": "zoe", "base.lora_scale": float("nan")}, "base.lora_scale is nan; it must be"),
    ],
)
def test_a_lora_without_its_base_or_a_scale_without_its_lora_is_refused(overrides, message):
    with pytest.raises(ParamsError, match=re.escape(message)):
        load_params("tiny", overrides)


def test_a_lora_on_a_base_that_is_trained_anew_is_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"base.lora goes onto the base in base.path, but retrain_base trains another"):
        Lab.open("lab", {"base.lora": str(tmp_path), "retrain_base": True}, root=tmp_path / "artifacts")


# folders of trainers


def test_a_trainers_folder_is_its_lora_and_not_its_checkpoints(pipeline_folder, shapes, tmp_path):
    """As diffusers' scripts leave it, copied by a Mac."""
    at = tmp_path / "zoe-lora"
    (at / "checkpoint-500").mkdir(parents=True)
    kohya(shapes, at / "pytorch_lora_weights.safetensors")
    for name in (
        "checkpoint-500/pytorch_lora_weights.safetensors",
        "checkpoint-500/optimizer.bin",
        "README.md",
        "image_0.png",
        "._pytorch_lora_weights.safetensors",
    ):
        (at / name).write_bytes(b"other")
    assert lora_files(at) == {"": at / "pytorch_lora_weights.safetensors"}
    assert lora_lab(pipeline_folder, tmp_path / "artifacts", lora=str(at)).base_name == "model + zoe-lora at 1"


def test_a_folder_that_does_not_say_which_lora_is_meant_is_asked(pipeline_folder, shapes, tmp_path):
    at = tmp_path / "zoe"
    at.mkdir()
    assert f"{at} holds no .safetensors file; name the folder or the file that the trainer wrote." in refusal(pipeline_folder, at)
    (at / "checkpoint-500").mkdir()
    kohya(shapes, at / "checkpoint-500" / "pytorch_lora_weights.safetensors")
    assert f"{at} holds no .safetensors file itself; name one of its folders, such as base.lora={at / 'checkpoint-500'}." in refusal(
        pipeline_folder, at
    )
    for name in ("zoe-000002.safetensors", "zoe.safetensors"):
        kohya(shapes, at / name)
    assert (
        f"{at} holds several files of weights (zoe-000002.safetensors, zoe.safetensors); name one, such as"
        f" base.lora={at / 'zoe-000002.safetensors'}." in refusal(pipeline_folder, at)
    )
    assert "does not exist; name a file or a folder (one on the hub: download it first)." in refusal(
        pipeline_folder, tmp_path / "some" / "lora"
    )
    assert f"{pipeline_folder} is a whole pipeline, no LoRA; name it as base.path." in refusal_of_pipeline(pipeline_folder, tmp_path)


def refusal_of_pipeline(folder, tmp_path):
    with pytest.raises(ParamsError) as error:
        lora_lab(folder, tmp_path / "artifacts", lora=str(folder))
    return str(error.value)


# what is none


def zeros(*names, width=32):
    return {name: torch.ones(2, width) for name in names}


LAYER = "lora_unet_" + flat(f"{BLOCK}.attn2.to_k")
MERGE = (
    "which is not supported; merge it into its base with the tool that trained it, save that as a diffusers folder, and name it as"
    " base.path."
)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (zeros(f"{LAYER}.hada_w1_a", f"{LAYER}.alpha"), f"is a LoHa (LyCORIS), {MERGE}"),
        (zeros(f"{LAYER}.lokr_w1", f"{LAYER}.lokr_w2"), f"is a LoKr (LyCORIS), {MERGE}"),
        (zeros(f"{LAYER}.weight", f"{LAYER}.on_input"), f"is an IA3 (LyCORIS), {MERGE}"),
        (zeros(f"{LAYER}.oft_blocks"), f"is an OFT (LyCORIS), {MERGE}"),
        (zeros(f"{LAYER}.a1.weight", f"{LAYER}.b1.weight"), f"is a GLoRA (LyCORIS), {MERGE}"),
        (zeros(f"{LAYER}.diff"), f"is a difference of full weights (LyCORIS), {MERGE}"),
        (zeros(f"{LAYER}.lora_down.weight", f"{LAYER}.lora_mid.weight"), f"is a LoCon with a Tucker decomposition (LyCORIS), {MERGE}"),
        (zeros(f"{LAYER}.lora_down.weight", f"{LAYER}.dora_scale"), f"is a DoRA, {MERGE}"),
        (zeros(f"unet.{BLOCK}.attn1.to_q.lora_A.weight", f"unet.{BLOCK}.attn1.to_q.lora_magnitude_vector"), f"is a DoRA, {MERGE}"),
        (zeros(f"{LAYER}.lora_down.weight", "bundle_emb.zoe.string_to_param.*"), "brings embeddings of its own (bundle_emb.zoe"),
        (zeros("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"), "seems to be made for SDXL (it holds lora_te2_text_model"),
        (zeros("text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight"), "seems to be made for SDXL"),
        (zeros("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"), "seems to be made for FLUX, Stable Diffusion 3"),
        (zeros("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"), "seems to be made for FLUX, Stable Diffusion 3"),
        (zeros(f"{LAYER}.lora_down.weight", width=2048), "for SDXL, whose prompts are 2048 wide, where those of the base are 32"),
        (zeros(f"unet.{BLOCK}.attn2.to_v.lora_A.weight", width=1024), "for Stable Diffusion 2, whose prompts are 1024 wide"),
        (zeros("lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight", width=768), "for Stable Diffusion 1, whose"),
        (zeros("model.diffusion_model.input_blocks.0.0.weight", "lora_dummy"), "is a whole checkpoint, no LoRA; name one."),
        (zeros("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"), "is a UNet, no LoRA; name one."),
        (zeros("down_blocks.0.to_q.base_layer.weight", "to_q.lora_A.default.weight"), "is a UNet with adapters still attached, no LoRA"),
        (zeros("emb_params"), "is a textual inversion, no LoRA; name one."),
        (zeros("<zoe>"), "is a textual inversion, no LoRA; name one."),
        (zeros("down_blocks.0.attn2.to_k.up.weight"), "is a hypernetwork, no LoRA; name one."),
        (zeros("control_model.zero_convs.0.0.weight"), "is a ControlNet, no LoRA; name one."),
        (zeros("some.weight"), "is no LoRA (its first tensor is some.weight); name one."),
        ({}, "is no LoRA (its first tensor is None); name one."),
    ],
)  # fmt: skip
def test_what_is_no_lora_of_this_family_is_called_by_its_name(tensors, message, pipeline_folder, tmp_path):
    save_file(tensors, tmp_path / "zoe.safetensors")
    said = refusal(pipeline_folder, tmp_path / "zoe.safetensors")
    assert said.startswith(f"base.lora: {tmp_path / 'zoe.safetensors'} ")
    assert message in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"lora_unet_down_blocks_7_attn1_to_q.lora_down.weight": torch.ones(2, 32)},
            "holds lora_unet_down_blocks_7_attn1_to_q.lora_down.weight, which is for no layer of the base; name the base that it was"
            " trained on.",
        ),
        ({"lora_te_text_model_encoder_layers_11_mlp_fc1.alpha": torch.ones(())}, "encoder_layers_11_mlp_fc1.alpha, which is for no layer"),
        ({f"{LAYER}.bias": torch.ones(4)}, f"holds {LAYER}.bias, which is for no layer"),
        (
            {f"{LAYER}.lora_down.weight": torch.full((3, 32), float("nan"))},
            f"holds values that are no numbers, in {LAYER}.lora_down.weight; its training diverged: take an earlier checkpoint.",
        ),
        ({f"{LAYER}.alpha": torch.tensor(float("inf"))}, f"holds values that are no numbers, in {LAYER}.alpha"),
        ({f"{LAYER}.lora_down.weight": torch.ones(3, 48)}, f"changes a layer of 32 x 48, {LAYER}, which is 32 x 32 in the base; name"),
        ({f"{LAYER}.lora_up.weight": torch.ones(32, 5)}, f"changes a layer of 32 x 32, {LAYER}"),
        ({f"lora_unet_{flat(BLOCK)}_attn1_to_v.lora_up.weight": torch.ones(32, 2)}, "has only up of lora_unet_"),
        ({f"unet.{BLOCK}.attn2.to_k.lora_A.weight": torch.ones(3, 32)}, "twice, under two names"),
    ],
)  # fmt: skip
def test_a_tensor_that_cannot_be_used_is_refused_and_none_is_dropped(more, message, pipeline_folder, shapes, tmp_path):
    kohya(shapes, tmp_path / "zoe.safetensors", None, None, **more)
    assert message in refusal(pipeline_folder, tmp_path / "zoe.safetensors")


def test_a_lora_that_was_not_trained_is_refused(pipeline_folder, shapes, tmp_path):
    found = {where: (down, torch.zeros_like(up), rank) for where, (down, up, rank) in matrices(shapes, layers={"unet": ATTENTION}).items()}
    save_file(written("kohya", found), tmp_path / "zoe.safetensors")
    assert "changes nothing: up @ down is 0 in every layer, as before any training" in refusal(
        pipeline_folder, tmp_path / "zoe.safetensors"
    )


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>", None])
def test_a_damaged_file_is_refused(content, pipeline_folder, shapes, tmp_path):
    kohya(shapes, tmp_path / "zoe.safetensors")
    path = tmp_path / "zoe.safetensors"
    path.write_bytes(path.read_bytes()[:-8] if content is None else content)
    assert re.search(
        r"zoe.safetensors is damaged or no safetensors file \(.+\); copy or download it again.$", refusal(pipeline_folder, path)
    )


def test_a_pickled_lora_is_never_loaded_and_the_printed_line_converts_it(pipeline_folder, shapes, tmp_path):
    found = kohya(shapes, tmp_path / "own.safetensors")
    (tmp_path / "zoe").mkdir()
    torch.save(load_file(tmp_path / "own.safetensors"), tmp_path / "zoe" / "pytorch_lora_weights.bin")
    (tmp_path / "zoe" / "optimizer.bin").write_bytes(b"state")
    said = refusal(pipeline_folder, tmp_path / "zoe")
    assert "pytorch_lora_weights.bin is pickled, and never loaded" in said
    exec(shlex.split(said[said.index("python -c") :])[2], {})
    pipeline = load_pipeline(pipeline_folder)
    fuse(pipeline, tmp_path / "zoe", 1.0)
    assert_same(pipeline, by_hand(pipeline_folder, found, dict.fromkeys(found, 1.0)))
    shutil.copy(tmp_path / "zoe" / "pytorch_lora_weights.bin", tmp_path / "zoe.safetensors")
    assert "is pickled, and never loaded" in refusal(pipeline_folder, tmp_path / "zoe.safetensors"), "whatever it is called"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "needs peft's adapter_config.json beside it, which says its alpha; copy the whole folder."),
        ("{", "adapter_config.json says its alpha in what is no JSON; copy it again."),
        ({"peft_type": "LOHA"}, "adapter_config.json says peft_type 'LOHA', which is not supported"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa"}, "says init_lora_weights 'pissa', which is not supported"),
    ],
)
def test_an_adapter_of_peft_that_is_not_plain_is_refused(config, message, pipeline_folder, tmp_path):
    (tmp_path / "zoe").mkdir()
    tensors = {
        f"base_model.model.{BLOCK}.attn1.to_q.lora_{side}.weight": torch.ones(shape) for side, shape in (("A", (2, 32)), ("B", (32, 2)))
    }
    save_file(tensors, tmp_path / "zoe" / "adapter_model.safetensors")
    if config:
        (tmp_path / "zoe" / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    assert message in refusal(pipeline_folder, tmp_path / "zoe")


# where a base is named


def named_as_base(path):
    with pytest.raises(ParamsError) as error:
        check_folder(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_lora_that_is_named_as_the_base_is_sent_to_base_lora(shapes, tmp_path):
    (tmp_path / "zoe").mkdir()
    kohya(shapes, tmp_path / "zoe" / "zoe.safetensors")
    for path in (tmp_path / "zoe", tmp_path / "zoe" / "zoe.safetensors"):
        message = f"base.path: {path} is a LoRA, which needs the base that it was trained on: --set base.path=BASE --set base.lora={path}."
        assert named_as_base(path) == message


@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "adapter_config.json", "unet/adapter_config.json"])
def test_a_trainers_folder_that_is_named_as_the_base_is_known_by_its_files(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    assert named_as_base(tmp_path).endswith(f"--set base.lora={tmp_path}.")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "P.from_single_file("),
        ("some.weight", "P.from_single_file("),
        ("emb_params", "is a textual inversion alone; name the folder of a whole pipeline, the one with model_index.json."),
        ("down_blocks.0.resnets.0.conv1.weight", "is a UNet alone; name the folder"),
        ("decoder.conv_in.weight", "is a VAE alone; name the folder"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "is a text encoder alone; name the folder"),
    ],
)
def test_one_file_that_is_named_as_the_base_is_called_by_its_name(name, message, tmp_path):
    save_file(zeros(name), tmp_path / "zoe.safetensors")
    assert message in named_as_base(tmp_path / "zoe.safetensors")


def test_a_pipeline_with_a_lora_beside_it_is_asked_which_is_meant(pipeline_folder, shapes, tmp_path):
    shutil.copytree(pipeline_folder, tmp_path / "model")
    beside = tmp_path / "model" / "pytorch_lora_weights.safetensors"
    kohya(shapes, beside)
    with pytest.raises(
        ParamsError, match=re.escape(f"holds a LoRA beside the pipeline; set base.lora={beside} to fuse it, or move it elsewhere.")
    ):
        lora_lab(tmp_path / "model", tmp_path / "artifacts")
    assert lora_lab(tmp_path / "model", tmp_path / "artifacts", lora=str(beside)).base.content


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("parts", [("unet",), ("unet", "text_encoder"), ("text_encoder",)])
def test_a_pipeline_saved_with_its_lora_attached_is_refused_with_the_lines_that_save_it_rightly(
    parts, fused, pipeline_folder, shapes, tmp_path
):
    found = matrices(shapes, layers={part: {"unet": ATTENTION, "text_encoder": SELF}[part] for part in parts})
    save_file(written("diffusers", found), tmp_path / "zoe.safetensors")
    pipe = load_pipeline(pipeline_folder)
    pipe.load_lora_weights(tmp_path, weight_name="zoe.safetensors")
    if fused:
        pipe.fuse_lora()
    pipe.save_pretrained(tmp_path / "model")
    said = named_as_base(tmp_path / "model")
    assert "was saved with a LoRA still attached, so that its weights are not those of the model; save it again with" in said
    pipe = load_pipeline(pipeline_folder)
    pipe.load_lora_weights(tmp_path, weight_name="zoe.safetensors")
    shutil.rmtree(tmp_path / "model")
    exec(re.search(r"pipe\.fuse_lora\(\); .+save_pretrained\('.+'\)", said)[0], {"pipe": pipe})
    check_folder(tmp_path / "model")
    assert_same(load_pipeline(tmp_path / "model"), by_hand(pipeline_folder, found, dict.fromkeys(found, 1.0)))
