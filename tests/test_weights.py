"""Model parts: what is loaded is what the files hold, outputs are numbers, and what does not fit is refused with the mend."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    ViTConfig,
    ViTForImageClassification,
)

from s2llib import Lab
from s2llib.attacks import ATTACKS, last_timestep
from s2llib.compute import models
from s2llib.data.domain import Photos
from s2llib.data.portraits import portrait
from s2llib.defenses.dp import private_finetune
from s2llib.defenses.perturbation import pgd
from s2llib.generate import sample
from s2llib.loop import train
from s2llib.metrics.clip import check_clip, image_features, retrieved
from s2llib.metrics.quality import brisque
from s2llib.models.captioner import check_blip, load_blip
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser, token_ids
from s2llib.models.encoders import check_encoder, transformers_tokens
from s2llib.models.finite import eight_bit
from s2llib.models.fit import check_timesteps
from s2llib.models.pipeline import check_folder, check_unconditional, load_pipeline
from s2llib.models.sanity import check_outputs, explained
from s2llib.models.unconditional import load_unconditional, new_unconditional, sample_unconditional
from s2llib.params import ParamsError, PrivateLoRA, ZeroPrior, load_params

MODELS = Path(__file__).resolve().parent.parent / "models"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PARTS = {"unet": WEIGHTS, "vae": WEIGHTS, "text_encoder": "model.safetensors"}
EVERY = pytest.mark.parametrize("part", list(PARTS))


@pytest.fixture
def model(tmp_path, pipeline_folder):
    """A copy of a pipeline's folder, to be spoilt."""
    return Path(shutil.copytree(pipeline_folder, tmp_path / "model"))


def rewrite(file, change):
    """Put change(tensors) in the place of a file's tensors."""
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def written(file, **changes):
    """Change keys of a JSON file; None removes one."""
    kept = {key: value for key, value in (json.loads(file.read_text()) | changes).items() if value is not None}
    file.write_text(json.dumps(kept))


def refusal(call, *arguments):
    """The one sentence that a call is refused with."""
    with pytest.raises(ParamsError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def names_of(part):
    """A matrix of a part, as its file calls it."""
    return {"unet": "conv_out.weight", "vae": "encoder.conv_in.weight", "text_encoder": "encoder.layers.0.mlp.fc1.weight"}[part]


SPOILT = {
    "missing": (lambda name, d: {k: v for k, v in d.items() if k != name}, "1 of its model's tensors are missing (such as '{name}')"),
    "extra": (lambda name, d: d | {"nonsense.weight": torch.zeros(2)}, "1 are of another model (such as 'nonsense.weight')"),
    "reshaped": (
        lambda name, d: d | {name: torch.zeros(3, 3)},
        "1 have another shape than its config.json says (such as '{name}', [3, 3]",
    ),
}


@EVERY
@pytest.mark.parametrize("how", list(SPOILT))
def test_a_tensor_that_is_missing_or_of_another_model_is_counted_and_named(model, part, how):
    change, says = SPOILT[how]
    name = names_of(part)
    rewrite(model / part / PARTS[part], lambda d: change(name, d))
    for call in (check_folder, load_pipeline):
        found = refusal(call, model)
        assert found.startswith(f"base.path: {model / part} does not hold the weights of its model: {says.format(name=name)}")
        assert found.endswith("or save this part again with save_pretrained, config.json and weights together.")


@pytest.mark.parametrize("prefix", ["transformer.text_model.", "module.", "_orig_mod."])
@EVERY
def test_names_with_a_wrappers_prefix_are_refused_and_the_printed_line_mends_them(model, pipeline_folder, part, prefix):
    file = model / part / PARTS[part]
    rewrite(file, lambda d: {f"{prefix}{key}": value for key, value in d.items()})
    found = refusal(check_folder, model)
    assert f"every name begins with '{prefix}', which a wrapper put there" in found
    code = found.split('python -c "')[1].split('"')[0]
    exec(code, {})
    check_folder(model)
    same = load_file(pipeline_folder / part / PARTS[part])
    assert all(torch.equal(tensor, same[name]) for name, tensor in load_file(file).items())


def test_a_study_refuses_weights_of_another_model_before_any_compute(model, tmp_path):
    rewrite(model / "text_encoder" / "model.safetensors", lambda d: {f"transformer.text_model.{k}": v for k, v in d.items()})
    found = refusal(lambda: Lab.open("tiny", {"base.path": str(model)}, root=tmp_path / "store"))
    assert found.startswith(
        f"base.path: {model}/text_encoder does not hold the weights of its model: 36 of its model's tensors are missing"
    )
    assert not list((tmp_path / "store").glob("*/*"))


def test_the_old_names_of_a_vaes_attention_still_load(model, pipeline):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(tensors):
        for new, name in old.items():
            tensors = {re.sub(rf"(attentions\.0)\.{re.escape(new)}\.", rf"\1.{name}.", key): value for key, value in tensors.items()}
        return tensors

    rewrite(model / "vae" / WEIGHTS, renamed)
    assert "encoder.mid_block.attentions.0.query.weight" in load_file(model / "vae" / WEIGHTS)
    check_folder(model)
    loaded = load_pipeline(model).vae.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in pipeline.vae.state_dict().items())


def test_tensors_that_nothing_depends_on_are_tolerated(model, pipeline):
    """Position ids of old files, and the other halves of a CLIP pair in the text encoder's folder."""
    more = {"text_model.embeddings.position_ids": torch.arange(24)[None], "text_projection.weight": torch.zeros(2, 2)}
    more |= {"vision_model.post_layernorm.weight": torch.zeros(2), "logit_scale": torch.zeros(1)}
    rewrite(model / "text_encoder" / "model.safetensors", lambda d: {f"text_model.{k}": v for k, v in d.items()} | more)
    check_folder(model)
    loaded = load_pipeline(model).text_encoder.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in pipeline.text_encoder.state_dict().items())


@EVERY
def test_weights_cast_to_eight_bit_floats_are_read_and_whole_numbers_refused(model, part):
    file, name = model / part / PARTS[part], names_of(part)
    before = load_file(file)
    rewrite(file, lambda d: {k: v.to(torch.float8_e4m3fn) for k, v in d.items()})
    check_folder(model)
    assert torch.equal(getattr(load_pipeline(model), part).state_dict()[name], before[name].to(torch.float8_e4m3fn).float())
    rewrite(file, lambda d: {k: (v.float() * 9).to(torch.int8) for k, v in d.items()})
    assert re.search(
        r"is quantised \(\d+ tensors of type I8, such as .*\), and would be read as whole numbers", refusal(check_folder, model)
    )


@EVERY
def test_a_quantised_part_is_refused(model, part):
    written(model / part / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert "was saved quantised (quantization_config in its config.json); take the model's full weights" in refusal(check_folder, model)


# files of weights


@pytest.fixture
def sharded(model):
    """A UNet in several files with an index."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    shutil.rmtree(model / "unet")
    unet.save_pretrained(model / "unet", max_shard_size="300KB")
    return model


def test_weights_in_shards_are_read(sharded, pipeline):
    assert len(list((sharded / "unet").glob("*.safetensors"))) > 1
    check_folder(sharded)
    loaded = load_pipeline(sharded).unet.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in pipeline.unet.state_dict().items())


def test_a_shard_that_lacks_what_the_index_says_is_refused(sharded):
    shard = sorted((sharded / "unet").glob("*.safetensors"))[0]
    lost = sorted(load_file(shard))[0]
    rewrite(shard, lambda d: {k: v for k, v in d.items() if k != lost})
    assert f"{shard.name} and its index do not name the same tensors ('{lost}')" in refusal(check_folder, sharded)


def test_weights_that_are_there_twice_are_refused(sharded, pipeline_folder):
    shutil.copy(pipeline_folder / "unet" / WEIGHTS, sharded / "unet" / WEIGHTS)
    assert "holds its weights twice, as diffusion_pytorch_model.safetensors and by" in refusal(check_folder, sharded)


def test_an_index_that_is_none_is_refused(sharded):
    (sharded / "unet" / f"{WEIGHTS}.index.json").write_text("[]")
    assert "is no index of weights" in refusal(check_folder, sharded)


def test_other_variants_beside_the_weights_are_not_read(model, pipeline):
    unet = model / "unet"
    for variant in ("fp16", "non_ema"):
        save_file({"conv_in.weight": torch.full((1,), torch.nan)}, unet / f"diffusion_pytorch_model.{variant}.safetensors")
    check_folder(model)
    assert torch.equal(load_pipeline(model).unet.conv_in.weight, pipeline.unet.conv_in.weight)


# the other models of a study


def vit(folder, **more):
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16)
    ViTForImageClassification(config).save_pretrained(folder)


def blip(folder):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"encoder_hidden_size": 16, "vocab_size": 30, "max_position_embeddings": 16}
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 16})).save_pretrained(
        folder
    )


def clip(folder, pipeline_folder):
    text = json.loads((pipeline_folder / "text_encoder" / "config.json").read_text())
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    small = {key: text[key] for key in keys} | {"image_size": 32, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=small, projection_dim=8)).save_pretrained(folder)
    CLIPTokenizer.from_pretrained(pipeline_folder / "tokenizer").save_pretrained(folder)


def ddpm(folder):
    new_unconditional(ZeroPrior(size=16, channels=[16, 32]), 0).save_pretrained(folder)


OTHERS = {
    "captioner": ("blackbox.captioner", lambda at, _: blip(at), check_blip, load_blip, "model.safetensors"),
    "encoder": ("blackbox.encoder_folders.vit", lambda at, _: vit(at), lambda at: check_encoder("vit", at), None, "model.safetensors"),
    "judge": ("mixsyn.clip", clip, lambda at: check_clip(Path(at)), None, "model.safetensors"),
    "unconditional": ("zero_prior.path", lambda at, _: ddpm(at), lambda at: check_unconditional(Path(at)), None, f"unet/{WEIGHTS}"),
}


@pytest.mark.parametrize("who", list(OTHERS))
@pytest.mark.parametrize("how", list(SPOILT))
def test_every_other_model_is_loaded_as_strictly(tmp_path, pipeline_folder, who, how):
    key, make, check, _, file = OTHERS[who]
    make(tmp_path, pipeline_folder)
    check(str(tmp_path))
    name = next(
        name
        for name, value in sorted(load_file(tmp_path / file).items())
        if value.dim() > 1 and "embed" not in name and "class" not in name
    )
    rewrite(tmp_path / file, lambda d: SPOILT[how][0](name, d))
    found = refusal(check, str(tmp_path))
    assert found.startswith(f"{key}: {(tmp_path / file).parent} does not hold the weights of its model: 1 ")


def test_a_base_models_own_clip_pair_is_checked_with_it(model, tmp_path, pipeline_folder):
    clip(model / "clip", pipeline_folder)
    check_folder(model)
    rewrite(model / "clip" / "model.safetensors", lambda d: {k: v for k, v in d.items() if k != "logit_scale"})
    assert (
        f"{model / 'clip'} does not hold the weights of its model: 1 of its model's tensors are missing (such as 'logit_scale')"
        in refusal(check_folder, model)
    )


def test_a_classifier_serves_as_an_encoder_whose_head_is_not_asked(tmp_path):
    torch.manual_seed(0)
    vit(tmp_path)
    x = torch.rand(2, 3, 32, 32)
    found = transformers_tokens(check_encoder("vit", str(tmp_path)), x, 2)
    whole = ViTForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(found, whole.vit((x - 0.5) / 0.5).last_hidden_state)


# parts that do not fit


def config(model, part, **changes):
    written(model / part / "config.json", **changes)


def exchanged(model, part, kind, **changes):
    """Another part of the same class with random weights, some of its config changed."""
    new = kind.from_config(json.loads((model / part / "config.json").read_text()) | changes)
    new.save_pretrained(model / part)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda m: exchanged(m, "unet", UNet2DConditionModel, in_channels=9),
            "takes 9 channels, which is an inpainting model's, and its VAE's latents have 4",
        ),
        (
            lambda m: exchanged(m, "unet", UNet2DConditionModel, in_channels=8),
            r"takes 8 channels, which is that of an image editor such as InstructPix2Pix",
        ),
        (lambda m: exchanged(m, "unet", UNet2DConditionModel, out_channels=8), "takes 4 channels and returns 8, a learned variance"),
        (lambda m: exchanged(m, "vae", AutoencoderKL, latent_channels=16), "takes 4 channels, and its VAE's latents have 16"),
        (
            lambda m: exchanged(m, "unet", UNet2DConditionModel, cross_attention_dim=48),
            r"attends to prompts of width 48 \(cross_attention_dim\), its text encoder makes them 32 wide \(hidden_size\)",
        ),
        (lambda m: config(m, "unet", sample_size=None), "states no sample_size, the edge of its latents; write it there"),
        (
            lambda m: written(m / "model_index.json", vae=["diffusers", "AutoencoderTiny"]),
            "vae of .* is of class AutoencoderTiny; AutoencoderKL is needed",
        ),
        (
            lambda m: written(m / "model_index.json", text_encoder=["transformers", "BertModel"]),
            "is of class BertModel; CLIPTextModel is needed",
        ),
        (lambda m: (m / "vae" / "config.json").write_text("{"), "config.json is missing or no JSON"),
        (lambda m: config(m, "unet", down_block_types=["NewBlock2D"] * 3), "cannot be loaded as UNet2DConditionModel .*NewBlock2D"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(model, change, says):
    change(model)
    assert re.search(says, refusal(check_folder, model))


@pytest.mark.parametrize("change", [{"in_channels": 1, "out_channels": 1}, {"out_channels": 6}, {"sample_size": None}])
def test_an_unconditional_model_of_other_images_is_refused(tmp_path, change):
    ddpm(tmp_path)
    exchanged(tmp_path, "unet", UNet2DModel, **change)
    assert "one that takes and returns the 3 of colour images, and states their edge in pixels" in refusal(check_unconditional, tmp_path)


def test_a_vae_of_an_old_config_has_stable_diffusions_scale(model):
    config(model, "vae", scaling_factor=None)
    check_folder(model)
    assert load_pipeline(model).vae.config.scaling_factor == 0.18215


def scheduler(model, **changes):
    written(model / "scheduler" / "scheduler_config.json", **changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: scheduler(m, beta_schedule=None), 'states no beta_schedule, and a default is not this model\'s.*"scaled_linear"'),
        (lambda m: scheduler(m, beta_start=0.9, beta_end=0.99), r"make no noise schedule: its cumulative alphas go from"),
        (lambda m: scheduler(m, trained_betas=[0.0] * 1000), r"go from 1 to 1 and must fall"),
        (lambda m: scheduler(m, trained_betas=["a"]), r"has no cumulative alphas"),
        (
            lambda m: written(m / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
            "a FlowMatchEulerDiscreteScheduler, has no cumulative alphas .*save the pipeline with the scheduler that it was trained with",
        ),
        (lambda m: scheduler(m, prediction_type="sample"), "predicts 'sample'; the attacks are defined for epsilon and v_prediction"),
    ],
)
def test_a_scheduler_that_says_no_noise_schedule_is_refused(model, change, says):
    change(model)
    assert re.search(says, refusal(check_folder, model))


def test_schedules_of_their_own_are_used(model):
    scheduler(model, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    check_folder(model)
    assert load_pipeline(model).scheduler.alphas_cumprod[-1] == 0
    scheduler(model, trained_betas=np.linspace(0.001, 0.03, 500).tolist(), rescale_betas_zero_snr=False)
    check_folder(model)
    assert Denoiser(load_pipeline(model)).timesteps == 500


def test_a_timestep_beyond_the_models_schedule_is_refused(model):
    asked = lambda **given: last_timestep(load_params("tiny", {f"attacks.{key}": value for key, value in given.items()}))  # noqa: E731
    assert asked(sweep={"timesteps": [50, 400]}) == ("attacks.loss.timesteps", 400)
    assert asked(names=["pia"], sweep={"timesteps": [50, 400]}) == ("attacks.sweep.timesteps", 400), "the sweep asks as well"
    assert asked(names=["secmi"]) == ("attacks.sweep.secmi", 120)
    assert asked(names=["secmi"], secmi={"k": 20, "t": 200}) == ("attacks.secmi (k=20 t=200)", 220)
    check_timesteps(model, "attacks.pia.t", 999, "base.path")
    scheduler(model, num_train_timesteps=300, beta_end=0.05)
    says = f"attacks.loss.timesteps reaches timestep 400, but {model} (base.path) was trained on 300, 0 to 299; lower it."
    assert refusal(lambda: Lab.open("tiny", {"base.path": str(model)})) == says


# tokenizers


def words(model, **changes):
    written(model / "tokenizer" / "tokenizer_config.json", **changes)


def in_two_files(model):
    """A tokenizer as vocab.json and merges.txt."""
    folder = model / "tokenizer"
    found = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(found["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in found["merges"]) + "\n")
    (folder / "tokenizer.json").unlink()
    return folder


@pytest.mark.parametrize("how", ["no length", "no config", "transformers' number for none", "a number in quotes"])
def test_a_tokenizer_that_states_no_length_has_the_text_encoders(model, pipeline, how, tmp_path):
    if how == "no config":
        (model / "tokenizer" / "tokenizer_config.json").unlink()
    else:
        words(model, model_max_length={"no length": None, "a number in quotes": "24"}.get(how, int(1e30)))
    lab = Lab.open("tiny", {"base.path": str(model)}, root=tmp_path / "store")
    loaded, texts = load_pipeline(model), ["a photo of ada abeck", "a, " * 90]
    assert torch.equal(token_ids(loaded, texts), token_ids(pipeline, texts))
    assert token_ids(loaded, texts).shape == (2, 24)
    assert sample(loaded, texts[:1], 0, 1, 2.0).shape == (1, 64, 64, 3), "diffusers cuts prompts alike"
    assert models.pipeline(lab, lab.base).tokenizer.model_max_length == 24


def test_a_tokenizer_in_two_files_is_read_alike(model, pipeline):
    in_two_files(model)
    check_folder(model)
    texts = ["a photo of ada abeck, smiling", "wordless"]
    assert torch.equal(token_ids(load_pipeline(model), texts), token_ids(pipeline, texts))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda m: words(m, model_max_length=77),
            r"states a model_max_length of 77, but its text encoder reads 3 to 24 tokens .*; write 24 in tokenizer_config.json",
        ),
        (lambda m: words(m, model_max_length=0), "states a model_max_length of 0"),
        (lambda m: words(m, model_max_length="many"), "cannot be read"),
        (
            lambda m: (m / "tokenizer" / "tokenizer_config.json").write_text("{"),
            r"cannot be read \(tokenizer_config.json is no JSON\); copy the model's tokenizer again",
        ),
        (lambda m: (m / "tokenizer" / "tokenizer.json").write_text('{"version'), r"cannot be read \(tokenizer.json is no JSON\)"),
        (lambda m: (m / "tokenizer" / "tokenizer.json").write_text("{}"), "cannot be read"),
        (lambda m: (in_two_files(m) / "merges.txt").unlink(), r"cannot be read \(it has vocab.json but no merges.txt\)"),
        (lambda m: _no_pad(m), "has no pad_token; write"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused_with_the_mend(model, change, says):
    change(model)
    found = refusal(check_folder, model)
    assert found.startswith(f"base.path: {model / 'tokenizer'} ")
    assert re.search(says, found)


def _no_pad(model):
    file = model / "tokenizer" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": None}))


def test_tokens_without_an_embedding_are_refused(model):
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    tokenizer.add_tokens(["<sks>"])
    tokenizer.save_pretrained(model / "tokenizer")
    rows = json.loads((model / "text_encoder" / "config.json").read_text())["vocab_size"]
    assert f"has {rows + 1} tokens, but its text encoder embeds {rows} (vocab_size): the last, '<sks>', would have no" in refusal(
        check_folder, model
    )
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder")
    encoder.resize_token_embeddings(len(tokenizer))
    encoder.save_pretrained(model / "text_encoder")
    check_folder(model)


# numbers that are none


def spoilt(pipeline, part, name, value=torch.nan):
    getattr(pipeline, part).state_dict()[name].view(-1)[0] = value


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for i, path in enumerate(paths):
        Image.fromarray(portrait(5, i, "member", 0)[0]).save(path)
    return Photos(tuple(paths), ("", ""), (1, 1))


@EVERY
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_study_names_the_tensor_that_holds_what_is_no_number(model, part, value, tmp_path):
    file, name = model / part / PARTS[part], names_of(part)

    def change(tensors):
        tensors[name].view(-1)[0] = value
        return {key: tensor.half() for key, tensor in tensors.items()}

    rewrite(file, change)
    found = refusal(lambda: Lab.open("tiny", {"base.path": str(model)}, root=tmp_path / "store"))
    assert found.startswith(
        f"base.path: {model}: The weights hold values that are no numbers, NaN or infinite ('{name}' of the {part}: 1 of"
    )
    assert found.endswith("the file is damaged or training diverged; take another copy or an earlier checkpoint.")


@pytest.mark.parametrize(
    ("part", "says"), [("unet", "Predictions of the UNet"), ("vae", "Images that the VAE decodes"), ("text_encoder", "Prompt embeddings")]
)
def test_a_part_that_overflows_is_told_from_one_whose_weights_are_damaged(pipeline, photos, part, says):
    last = {"unet": pipeline.unet.conv_out, "vae": pipeline.vae.decoder.conv_out, "text_encoder": pipeline.text_encoder.final_layer_norm}[
        part
    ]
    last.weight.data.fill_(3e38)
    found = refusal(check_outputs, pipeline, photos, "a photo", "float32", "base.path: m")
    assert found.startswith(f"base.path: m: {says} are no numbers (NaN or infinite): the weights are finite, so it overflows in float32")


def test_what_overflows_in_half_precision_alone_is_to_be_computed_in_float32(pipeline, photos):
    class Overflowing(torch.nn.Module):
        def __init__(self, unet):
            super().__init__()
            self.unet, self.config, self.device = unet, unet.config, unet.device

        def forward(self, z, t, **c):
            output = self.unet(z, t, **c)
            output.sample = output.sample + (torch.inf if torch.is_autocast_enabled("cpu") else 0)
            return output

    pipeline.register_modules(unet=Overflowing(pipeline.unet))
    check_outputs(pipeline, photos, "a photo", "float32", "base.path: m")
    found = refusal(check_outputs, pipeline, photos, "a photo", "bfloat16", "base.path: m")
    assert found.endswith("the weights are sound, so it overflows in bfloat16; set hardware.precision=float32.")


@pytest.mark.parametrize(("part", "name"), [("unet", "conv_out.weight"), ("vae", "decoder.conv_out.weight")])
def test_images_that_are_no_numbers_are_not_stored_as_black(pipeline, part, name):
    spoilt(pipeline, part, name)
    found = refusal(lambda: sample(pipeline, ["a photo"], 0, 1, 2.0))
    assert found.startswith("The pixels of generated images are no numbers (NaN or infinite): so are its weights")
    assert f"'{name}' of the {part}: 1 of" in found


def test_images_of_one_flat_colour_are_refused_and_one_among_others_is_not():
    drawn = np.zeros((2, 8, 8, 3), dtype=np.float32)
    assert refusal(eight_bit, drawn, None).startswith(
        "Every generated image is one flat colour: the parts of the model do not belong together"
    )
    drawn[0, 0, 0, 0] = 1
    assert eight_bit(drawn, None).max() == 255


@pytest.mark.parametrize(
    ("part", "name", "call", "says"),
    [
        ("vae", "encoder.conv_in.weight", lambda d, c: d.encode(torch.rand(1, 3, 64, 64)), "Latents"),
        ("text_encoder", "encoder.layers.0.mlp.fc1.weight", lambda d, c: d.prompts(["a"]), "Prompt embeddings"),
        ("unet", "conv_out.weight", lambda d, c: d.eps(torch.zeros(1, 4, 16, 16), 3, c), "Predictions of the UNet"),
    ],
)
def test_an_attack_sees_no_latent_prompt_or_prediction_that_is_no_number(pipeline, part, name, call, says):
    denoiser = Denoiser(pipeline)
    c = denoiser.prompts(["a"])
    spoilt(pipeline, part, name)
    assert refusal(call, denoiser, c).startswith(
        f"{says} are no numbers (NaN or infinite): so are its weights ('{name}' of the {part}: 1 of"
    )


def test_a_score_that_overflows_is_not_written(pipeline):
    z0 = torch.full((1, 4, 16, 16), 1e30)
    denoiser, pia = Denoiser(pipeline), ATTACKS["pia"]
    denoiser.raw = lambda z, t, c: z * 1e5
    assert refusal(pia.scores, denoiser, z0, denoiser.prompts([""]), [pia.settings(t=5)]).startswith(
        "Scores of PIA at {'t': 5} are no numbers"
    )


def test_an_unconditional_model_of_nan_draws_nothing(tmp_path):
    ddpm(tmp_path)
    pipeline = load_unconditional(tmp_path)
    spoilt(pipeline, "unet", "conv_out.weight")
    assert refusal(sample_unconditional, pipeline, 1, 2, 0).startswith("The pixels of generated images are no numbers")


def test_a_judge_of_nan_judges_nothing(tmp_path, pipeline_folder):
    clip(tmp_path, pipeline_folder)
    rewrite(tmp_path / "model.safetensors", lambda d: d | {"logit_scale": torch.tensor(torch.nan)})
    x = torch.rand(1, 3, 32, 32)
    assert "Similarities by the CLIP pair" in refusal(retrieved, tmp_path, x, torch.tensor(0), ["a photo"])
    image_features(tmp_path, x)
    rewrite(tmp_path / "model.safetensors", lambda d: d | {"visual_projection.weight": d["visual_projection.weight"] * torch.nan})
    assert "Features by the CLIP pair" in refusal(image_features, tmp_path, x)


def test_a_perturbation_along_no_gradient_is_refused(pipeline):
    denoiser, x = Denoiser(pipeline), torch.zeros(1, 3, 64, 64)
    c = denoiser.prompts(["a"])
    spoilt(pipeline, "vae", "encoder.conv_in.weight")
    ball = {"steps": 1, "step": 0.1, "radius": 0.1, "norm": "linf", "draws": 1, "group": 1, "seed": 0}
    assert "gradients are no numbers (NaN or infinite): so are its weights" in refusal(lambda: pgd(denoiser, x, x, c, **ball))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (0, "test: the loss is nan at the first step, before anything has trained: the model's weights or outputs are no numbers; set"),
        (2, "test: the loss is nan at step 2; lower the learning rate, now 0.1."),
    ],
)
def test_the_learning_rate_is_blamed_only_where_the_loss_was_a_number_at_first(bad, says):
    weight = torch.nn.Parameter(torch.ones(1))
    loss = lambda step, _: (weight * (torch.nan if step == bad else 1.0)).sum()  # noqa: E731
    assert refusal(lambda: train([weight], loss, steps=4, lr=0.1, seed=0, what="test")).startswith(says)


def test_a_last_step_that_leaves_weights_of_nan_is_refused():
    weight = torch.nn.Parameter(torch.zeros(1))
    loss = lambda step, _: weight.sqrt().sum()  # noqa: E731  0, with an infinite gradient
    found = refusal(lambda: train([weight], loss, steps=1, lr=0.1, seed=0, what="test"))
    assert found == "test: a weight is no number after the last step (in parameter 0: 1 of 1 values); lower the learning rate, now 0.1."


# what a network predicts


class Velocity(torch.nn.Module):
    """An epsilon network as one that predicts v = (eps - sqrt(1-a) z) / sqrt(a)."""

    def __init__(self, unet, a):
        super().__init__()
        self.unet, self.a, self.config, self.device = unet, a, unet.config, unet.device

    def forward(self, z, t, **c):
        a, output = self.a[t].view(-1, 1, 1, 1), self.unet(z, t, **c)
        output.sample = (output.sample - (1 - a).sqrt() * z) / a.sqrt()
        return output


@pytest.mark.parametrize("name", ["lab", "lab-small"])
@pytest.mark.parametrize("truth", ["epsilon", "v_prediction"])
def test_a_model_whose_scheduler_says_the_other_prediction_is_refused_and_an_honest_one_never(name, truth, photos):
    pipeline = load_pipeline(MODELS / name)
    if truth == "v_prediction":
        pipeline.register_modules(unet=Velocity(pipeline.unet, pipeline.scheduler.alphas_cumprod))
    ask = lambda: check_outputs(pipeline, photos, "a photo of ada abeck", "float32", "base.path: m")  # noqa: E731
    pipeline.scheduler.register_to_config(prediction_type=truth)
    ask()
    other = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[truth]
    pipeline.scheduler.register_to_config(prediction_type=other)
    found = refusal(ask)
    assert found.startswith(
        f"base.path: m: scheduler/scheduler_config.json says that the model predicts '{other}', but what it predicts of"
    )
    assert found.endswith(f'so that every score would be wrong; write "prediction_type": "{truth}" there.')


@pytest.mark.parametrize("says", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_a_network_that_learnt_nothing_is_not_refused(pipeline, photos, says, scale):
    pipeline.unet.conv_out.weight.data.mul_(scale)
    pipeline.scheduler.register_to_config(prediction_type=says)
    check_outputs(pipeline, photos, "a photo", "float32", "m")


def test_a_flat_grey_image_refuses_no_honest_model(tmp_path):
    Image.new("RGB", (64, 64), (128, 128, 128)).save(tmp_path / "grey.png")
    grey = Photos((tmp_path / "grey.png",), ("",), (1,))
    pipeline = load_pipeline(MODELS / "lab-small")
    check_outputs(pipeline, grey, "a photo", "float32", "m")
    pipeline.register_modules(unet=Velocity(pipeline.unet, pipeline.scheduler.alphas_cumprod))
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    check_outputs(pipeline, grey, "a photo", "float32", "m")


def test_the_shares_explained_are_those_of_the_two_targets():
    """A network that knows the noise, or v, explains all of it."""
    a = torch.linspace(0.999, 0.001, 1000)
    z0, scheduler = torch.randn(2, 4, 8, 8), SimpleNamespace(alphas_cumprod=a, config=SimpleNamespace(prediction_type="epsilon"))

    class Knowing(torch.nn.Module):
        device = torch.device("cpu")

        def __init__(self, v):
            super().__init__()
            self.v = v

        def forward(self, z, t):
            at = a[t].view(-1, 1, 1, 1)
            noise = (z - at.sqrt() * z0) / (1 - at).sqrt()
            return SimpleNamespace(sample=at.sqrt() * noise - (1 - at).sqrt() * z0 if self.v else noise)

    for v in (False, True):
        denoiser = Denoiser(SimpleNamespace(unet=Knowing(v), scheduler=scheduler))
        shares = explained(denoiser, z0, Condition())
        assert shares[v] == pytest.approx(1, abs=1e-4)
        assert shares[not v] < 0


def test_the_shipped_unconditional_model_is_sound(photos):
    check_outputs(load_unconditional(MODELS / "lab-ddpm"), photos, "", "float32", "m")


def test_a_model_is_asked_once_per_content(model, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("s2llib.compute.soundness.check_outputs", lambda *given: asked.append(given) or check_outputs(*given))
    for _ in range(2):
        Lab.open("tiny", {"base.path": str(model)}, root=tmp_path / "store")
    assert len(asked) == 1
    rewrite(model / "unet" / WEIGHTS, lambda d: d | {"conv_out.bias": d["conv_out.bias"] + 1})
    Lab.open("tiny", {"base.path": str(model)}, root=tmp_path / "store")
    assert len(asked) == 2


def test_an_image_without_a_brisque_value_is_named(monkeypatch):
    judge = SimpleNamespace(score=lambda image: np.nan if image.std() == 0 else 30.0)
    monkeypatch.setattr("s2llib.metrics.quality._library", lambda: lambda url: judge)
    x = torch.rand(2, 3, 8, 8)
    assert brisque(x).tolist() == [30, 30]
    x[1] = 0.5
    assert refusal(brisque, x) == "BRISQUE is no number for image 1 of 2, which is flat or damaged; look at the model's images."


def test_dp_sgd_on_a_model_of_nan_blames_no_learning_rate(pipeline, photos):
    spoilt(pipeline, "unet", "conv_out.weight")
    found = refusal(lambda: private_finetune(pipeline, PrivateLoRA(steps=2, rank=2), photos, None, 0, "DP-SGD"))
    assert found.startswith("DP-SGD: the loss is nan at the first step, before anything has trained")
