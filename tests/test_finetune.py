import hashlib

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from s2llib.data.domain import Photos
from s2llib.finetune.methods import METHODS
from s2llib.finetune.recipe import finetune, load_finetuned, save_finetuned
from s2llib.generate import draw_prompts, sample
from s2llib.loop import generator, train
from s2llib.models.denoiser import Denoiser
from s2llib.models.pipeline import load_pipeline
from s2llib.params import SP, LoRA, Recipe

RECIPES = {"dreambooth": Recipe(steps=3, batch=2, lr=1e-3), "lora": LoRA(steps=3, batch=2, lr=1e-2, rank=4, alpha=8)}
RECIPES["dreambooth_lora"] = RECIPES["lora"]


@pytest.fixture
def images(tmp_path):
    rng, paths = np.random.default_rng(0), []
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    return Photos(tuple(paths), ("photo of ada abeck", "face of ada abeck") * 2, (1,) * 4)


def hashes(pipeline):
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder, "vae": pipeline.vae}
    digest = lambda module: hashlib.sha256(b"".join(p.numpy().tobytes() for p in module.state_dict().values())).hexdigest()  # noqa: E731
    return {name: digest(module) for name, module in parts.items()}


@pytest.mark.parametrize("name", list(METHODS))
def test_plain_diffusers_loads_what_was_trained_and_only_declared_parts_changed(name, pipeline_folder, images, tmp_path):
    how, recipe, pipeline = METHODS[name], RECIPES[name], load_pipeline(pipeline_folder)
    before = hashes(pipeline)
    finetune(pipeline, how, recipe, images, "photo of ada abeck", seed=0, what="test")
    save_finetuned(pipeline, how, recipe, tmp_path / "tuned")
    tuned = load_finetuned(pipeline_folder, tmp_path / "tuned")
    after = hashes(tuned)
    assert {part for part in before if before[part] != after[part]} == ({"unet", "text_encoder"} if how.text_encoder else {"unet"})

    if how.lora:
        plain = StableDiffusionPipeline.from_pretrained(pipeline_folder, safety_checker=None)
        plain.load_lora_weights(tmp_path / "tuned")
    else:
        plain = StableDiffusionPipeline.from_pretrained(tmp_path / "tuned", safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 3, "output_type": "np"}
    drawn = [p("photo of ada abeck", generator=generator(0), **arguments).images for p in (plain, tuned, pipeline)]
    np.testing.assert_allclose(drawn[0], drawn[1], atol=2e-3)
    np.testing.assert_allclose(drawn[0], drawn[2], atol=2e-3)
    base = load_pipeline(pipeline_folder)("photo of ada abeck", generator=generator(0), **arguments).images
    assert np.abs(drawn[0] - base).max() > 0.01


@pytest.mark.parametrize("rank", [1, 4])
def test_a_lora_has_exactly_the_expected_parameter_count(rank, pipeline, images):
    layers = [m for n, m in pipeline.unet.named_modules() if n.endswith(("to_q", "to_v"))]
    expected = sum(rank * (layer.in_features + layer.out_features) for layer in layers)
    report = finetune(pipeline, METHODS["lora"], LoRA(steps=1, batch=2, rank=rank), images, "photo of ada abeck", 0, "test")
    assert report["trainable"] == expected > 0


def test_prior_preservation_adds_the_weighted_loss_of_the_prior_images(pipeline_folder, images):
    def first_loss(weight):
        recipe = Recipe(steps=1, batch=4, prior_weight=weight)
        args = (load_pipeline(pipeline_folder), METHODS["dreambooth"], recipe, images, "photo of ada abeck", 0, "test")
        return finetune(*args, prior=images)["loss"][0]

    none, one, three = map(first_loss, (0.0, 1.0, 3.0))
    assert three - none == pytest.approx(3 * (one - none), rel=1e-3)
    assert one > none


def test_a_resumed_training_gives_the_weights_of_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr("s2llib.loop.CHECKPOINT_SECONDS", 0)

    def run(folder, stop=None):
        weight = torch.nn.Parameter(torch.ones(5))

        def loss(step, draw):
            if step == stop:
                raise KeyboardInterrupt
            return (weight * torch.randn(5, generator=draw) - 1).square().sum()

        losses = train([weight], loss, steps=20, lr=0.1, seed=4, what="test", cosine=True, checkpoint=folder)
        return weight.detach(), losses

    whole, losses = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop=11)
    resumed, again = run(tmp_path / "cut")
    assert torch.equal(whole, resumed)
    assert losses == again


def test_a_damaged_checkpoint_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr("s2llib.loop.CHECKPOINT_SECONDS", 0)

    def run(steps):
        weight = torch.nn.Parameter(torch.ones(5))
        loss = lambda _, draw: (weight * torch.randn(5, generator=draw) - 1).square().sum()  # noqa: E731
        return train([weight], loss, steps=steps, lr=0.1, seed=4, what="test", checkpoint=tmp_path)

    first = run(5)
    path = tmp_path / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="damaged; the training starts again"):
        assert run(7)[:5] == first


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_target_is_what_the_scheduler_says_the_model_predicts(prediction, pipeline, images, monkeypatch):
    """With a model that answers 0, the loss is the mean square of the target, written out here."""
    pipeline.scheduler.register_to_config(prediction_type=prediction)
    answer = type("Answer", (), {"sample": torch.zeros(2, 4, 16, 16)})
    monkeypatch.setattr(
        pipeline.unet, "forward", lambda z, t, c: type("A", (), {"sample": answer.sample + 0 * pipeline.unet.conv_in.bias[0]})
    )
    z0 = Denoiser(pipeline).encode_photos(images)
    recipe = Recipe(steps=1, batch=2)
    found = finetune(pipeline, METHODS["dreambooth"], recipe, images, "photo of ada abeck", 3, "test")["loss"][0]
    draw = generator(3, 0)
    which, t = torch.randint(4, (2,), generator=draw), torch.randint(0, 1000, (2,), generator=draw)
    noise, total = torch.randn(2, 4, 16, 16, generator=draw), 0.0
    for i in range(2):
        a = pipeline.scheduler.alphas_cumprod[t[i]].item()
        target = noise[i] if prediction == "epsilon" else a**0.5 * noise[i] - (1 - a) ** 0.5 * z0[which[i]]
        total += target.square().mean().item() / 2
    assert found == pytest.approx(total, rel=1e-5)


def test_a_loss_that_is_no_number_stops_the_training():
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(RuntimeError, match="the loss is nan at step 3; lower the learning rate"):
        train([weight], lambda step, _: (weight * (float("nan") if step == 3 else 1.0)).sum(), steps=5, lr=0.1, seed=0, what="test")


def test_image_i_does_not_depend_on_the_batch_it_is_drawn_in(pipeline):
    prompts = ["photo of ada abeck", "face of arvo borg", "photo of bela calder"]
    whole = sample(pipeline, prompts, seed=1, steps=2, guidance=3.0, batch=3)
    single = sample(pipeline, prompts, seed=1, steps=2, guidance=3.0, batch=1)
    assert whole.shape == (3, 64, 64, 3)
    assert np.abs(whole.astype(int) - single).max() <= 1
    assert np.abs(whole[0].astype(int) - sample(pipeline, prompts[:1], seed=2, steps=2, guidance=3.0)).max() > 1


def test_a_template_is_drawn_for_every_image_with_its_weight():
    drawn = draw_prompts("ada abeck", 4000, SP(suffix="high quality"), seed=0)
    share = np.mean([text == "photo of ada abeck, high quality" for text in drawn])
    assert abs(share - 0.7) < 4 * np.sqrt(0.21 / 4000)
    assert set(drawn) == {"photo of ada abeck, high quality", "face of ada abeck, high quality"}
