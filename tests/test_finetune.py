import hashlib

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

import s2llib.finetune.recipe as recipe_module
from s2llib.data.domain import Domain, Photos
from s2llib.finetune.hypernetwork import add_hypernetwork, load_hypernetwork
from s2llib.finetune.methods import METHODS
from s2llib.finetune.parts import adapter
from s2llib.finetune.recipe import finetune, load_finetuned, prompt_of, save_finetuned
from s2llib.finetune.textual_inversion import add_tokens, check_tokens, pop_tokens
from s2llib.generate import draw_prompts, sample
from s2llib.loop import generator, train
from s2llib.models import mini
from s2llib.models.denoiser import Denoiser
from s2llib.models.pipeline import load_pipeline
from s2llib.params import SP, Hypernetwork, HypernetworkDreamBooth, LoRA, ParamsError, Recipe, TextualInversion, TextualInversionLoRA, UNet

SHORT = {"steps": 3, "batch": 2}
RECIPES = {
    "dreambooth": Recipe(**SHORT, lr=1e-3),
    "lora": LoRA(**SHORT, lr=1e-2, rank=4, alpha=8),
    "dreambooth_lora": LoRA(**SHORT, lr=1e-2, rank=4, alpha=8),
    "textual_inversion": TextualInversion(**SHORT, lr=0.5),
    "textual_inversion_lora": TextualInversionLoRA(**SHORT, lr=1e-2, rank=4, alpha=8, tokens_lr=0.5),
    "hypernetwork": Hypernetwork(**SHORT, lr=0.1, hidden=8),
    "hypernetwork_dreambooth": HypernetworkDreamBooth(**SHORT, lr=1e-3, hypernetwork_lr=0.1, hidden=8),
    "end_to_end": Recipe(**SHORT, lr=1e-3),
    "denoising_network": Recipe(**SHORT, lr=1e-3),
    "image_encoder": Recipe(**SHORT, lr=1e-3),
    "embedding": Recipe(**SHORT, lr=0.5),
}
CHANGES = {  # parts of the pipeline whose own weights change
    "dreambooth": {"unet", "text_encoder"},
    "lora": set(),
    "dreambooth_lora": set(),
    "textual_inversion": set(),
    "textual_inversion_lora": set(),
    "hypernetwork": set(),
    "hypernetwork_dreambooth": {"unet", "text_encoder"},
    "end_to_end": {"unet", "text_encoder", "vae.encoder"},
    "denoising_network": {"unet"},
    "image_encoder": {"vae.encoder"},
    "embedding": set(),
}


@pytest.fixture
def images(tmp_path):
    rng, paths = np.random.default_rng(0), []
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    return Photos(tuple(paths), ("photo of ada abeck", "face of ada abeck") * 2, (1,) * 4)


ADA = Domain("ada abeck", {}, "")


def weights(pipeline):
    """{part: {name: tensor}} of what the base has too: no adapters, hypernetworks or new tokens, whatever they are wrapped in."""
    ours = lambda name: not any(word in name for word in ("lora_", "hypernetwork", "token_embedding.rows"))  # noqa: E731
    plain = lambda name: name.replace(".base_layer", "").replace("token_embedding.table", "token_embedding")  # noqa: E731
    found = {}
    for part in ("unet", "text_encoder", "vae"):
        found[part] = {plain(name): p.detach() for name, p in getattr(pipeline, part).state_dict().items() if ours(name)}
    vae = found.pop("vae")
    found["vae.encoder"] = {name: p for name, p in vae.items() if name.startswith(("encoder", "quant_conv"))}
    return found | {"vae.decoder": {name: p for name, p in vae.items() if name not in found["vae.encoder"]}}


def hashes(pipeline):
    return {
        part: hashlib.sha256(b"".join(p.numpy().tobytes() for p in tensors.values())).hexdigest()
        for part, tensors in weights(pipeline).items()
    }


def trainables(pipeline):
    """Everything a fine-tuning may have changed or added."""
    return {f"{part}.{name}": p for part in ("unet", "text_encoder", "vae") for name, p in getattr(pipeline, part).state_dict().items()}


def tuned_with(name, base, images, folder, **changes):
    """A pipeline fine-tuned from the folder `base` and saved to `folder`, as it is loaded again."""
    how, recipe = METHODS[name], RECIPES[name].model_copy(update=changes)
    pipeline, report = trained_with(name, base, images, **changes)
    folder.mkdir(exist_ok=True)
    save_finetuned(pipeline, how, recipe, ADA, folder)
    return load_finetuned(base, folder), report


def trained_with(name, base, images, checkpoint=None, **changes):
    """The pipeline in memory right after its fine-tuning."""
    pipeline, recipe = load_pipeline(base), RECIPES[name].model_copy(update=changes)
    return pipeline, finetune(pipeline, METHODS[name], recipe, images, ADA, seed=0, what="test", checkpoint=checkpoint)


def draw(pipeline, prompt):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(prompt, generator=generator(0), num_inference_steps=3, output_type="np").images


def plain(base, folder):
    """What diffusers alone makes of the saved files."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder if (folder / "model_index.json").is_file() else base, safety_checker=None)
    if (folder / "pytorch_lora_weights.safetensors").is_file():
        pipeline.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    if (folder / "learned_embeds.safetensors").is_file():
        pipeline.load_textual_inversion(folder, weight_name="learned_embeds.safetensors")
    return pipeline


@pytest.mark.parametrize("name", list(METHODS))
def test_only_the_declared_parameters_change(name, pipeline_folder, images):
    """In memory, straight after training: under an adapter, hypernetwork or new token, the base's own weights are bit-equal."""
    before = hashes(load_pipeline(pipeline_folder))
    tuned, report = trained_with(name, pipeline_folder, images)
    assert {part for part, found in hashes(tuned).items() if found != before[part]} == CHANGES[name]
    assert report["trainable"] > 0


ADDS = {  # part of a method: module and mark of the tensors that it adds
    "unet_lora": ("unet.", "lora_"),
    "text_encoder_lora": ("text_encoder.", "lora_"),
    "tokens": ("text_encoder.", "token_embedding.rows"),
    "embedding": ("text_encoder.", "token_embedding.rows"),
    "hypernetwork": ("unet.", "hypernetwork"),
}


@pytest.mark.parametrize("name", [name for name, how in METHODS.items() if set(how.trains) & set(ADDS)])
def test_every_added_tensor_trains(name, pipeline_folder, images):
    """Against the same start at rates too small to move anything."""
    still = {key: 1e-12 for key in RECIPES[name].model_dump() if key.endswith("lr")}
    tuned, start = (trainables(trained_with(name, pipeline_folder, images, **rates)[0]) for rates in ({}, still))
    for part in set(METHODS[name].trains) & set(ADDS):
        module, mark = ADDS[part]
        added = [key for key in tuned if key.startswith(module) and mark in key]
        assert added
        assert [key for key in added if torch.allclose(tuned[key], start[key], rtol=0, atol=1e-7)] == []


@pytest.mark.parametrize("name", list(METHODS))
def test_a_resumed_finetuning_gives_the_weights_of_an_uninterrupted_one(name, pipeline_folder, images, tmp_path, monkeypatch):
    monkeypatch.setattr("s2llib.loop.CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr("s2llib.loop.COST_FACTOR", 0)
    whole, report = trained_with(name, pipeline_folder, images, tmp_path / "whole")
    train_step, calls = recipe_module._denoising_loss, []

    def stop_at_the_third(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train_step(*args)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(recipe_module, "_denoising_loss", stop_at_the_third)
        trained_with(name, pipeline_folder, images, tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoint.safetensors").is_file()
    resumed, again = trained_with(name, pipeline_folder, images, tmp_path / "cut")
    assert again["loss"] == report["loss"]
    expected = trainables(whole)
    assert all(torch.equal(p, expected[key]) for key, p in trainables(resumed).items())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "image_encoder"])  # which drawing does without
def test_a_finetuned_model_answers_otherwise_than_its_base(name, pipeline_folder, images, tmp_path):
    tuned, _ = tuned_with(name, pipeline_folder, images, tmp_path / "tuned")
    prompt = prompt_of(METHODS[name], ADA, "photo of ada abeck")
    assert np.abs(draw(tuned, prompt) - draw(load_pipeline(pipeline_folder), "photo of ada abeck")).max() > 0.01


@pytest.mark.parametrize("name", [name for name in METHODS if "hypernetwork" not in name])
def test_plain_diffusers_draws_the_same_image_from_the_saved_files(name, pipeline_folder, images, tmp_path):
    """As our loader; and predicts the same noise as the model in memory did before it was saved."""
    how, recipe = METHODS[name], RECIPES[name]
    trained, _ = trained_with(name, pipeline_folder, images)
    prompt, z = prompt_of(how, ADA, "photo of ada abeck"), torch.randn(1, 4, 16, 16, generator=generator(1))
    before = Denoiser(trained).eps(z, 300, Denoiser(trained).prompts([prompt]))
    save_finetuned(trained, how, recipe, ADA, tmp_path)
    loaded = plain(pipeline_folder, tmp_path)
    torch.testing.assert_close(Denoiser(loaded).eps(z, 300, Denoiser(loaded).prompts([prompt])), before, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(draw(loaded, prompt), draw(load_finetuned(pipeline_folder, tmp_path), prompt), atol=2e-3)


@pytest.mark.parametrize("name", list(METHODS))
def test_what_is_saved_predicts_as_what_was_trained(name, pipeline_folder, images, tmp_path):
    how = METHODS[name]
    trained, _ = trained_with(name, pipeline_folder, images)
    z, prompt = torch.randn(1, 4, 16, 16, generator=generator(1)), prompt_of(how, ADA, "a photo of ada abeck")
    predict = lambda p: Denoiser(p).eps(z, 300, Denoiser(p).prompts([prompt]))  # noqa: E731
    before, latent = predict(trained), Denoiser(trained).encode_photos(images)
    save_finetuned(trained, how, RECIPES[name], ADA, tmp_path)
    loaded = load_finetuned(pipeline_folder, tmp_path)
    torch.testing.assert_close(predict(loaded), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Denoiser(loaded).encode_photos(images), latent)


@pytest.mark.parametrize(("extra", "tokens"), [(-2, 2), (0, 4), (3, 7)])
def test_textual_inversion_trains_copies_of_the_prompts_own_tokens(extra, tokens, pipeline_folder, images, tmp_path):
    base = load_pipeline(pipeline_folder)
    tuned, report = tuned_with("textual_inversion", pipeline_folder, images, tmp_path, extra=extra, lr=1e-12)
    size, table = base.text_encoder.config.vocab_size, tuned.text_encoder.get_input_embeddings().weight
    assert report["trainable"] == tokens * table.shape[1]
    assert torch.equal(table[:size], base.text_encoder.get_input_embeddings().weight)
    own = base.text_encoder.get_input_embeddings().weight[base.tokenizer("photo of ada abeck", add_special_tokens=False).input_ids]
    kept = own[-min(tokens, 4) :]
    torch.testing.assert_close(table[size:][-len(kept) :], kept)
    asked = tuned.maybe_convert_prompt(prompt_of(METHODS["textual_inversion"], ADA, "a photo of ada abeck, sad"), tuned.tokenizer)
    assert len(tuned.tokenizer.tokenize(asked)) == 1 + tokens + 2


def test_removing_every_token_of_the_prompt_is_refused(pipeline_folder, images, tmp_path):
    with pytest.raises(ParamsError, match="extra is -4 but 'photo of ada abeck' has 4 tokens; set it between -3 and 16"):
        tuned_with("textual_inversion", pipeline_folder, images, tmp_path, extra=-4)


def test_a_prompt_without_the_instance_prompt_is_refused():
    with pytest.raises(ParamsError, match="Textual Inversion replaces 'photo of ada abeck', which the prompt 'ada' lacks"):
        prompt_of(METHODS["textual_inversion"], ADA, "ada")


def test_new_tokens_start_as_the_mean_of_the_table_and_the_table_comes_back(pipeline):
    table = pipeline.text_encoder.get_input_embeddings()
    (rows,) = add_tokens(pipeline, "ada abeck", "photo of ada abeck", 2)
    torch.testing.assert_close(rows[:2], table.weight.mean(0).expand(2, -1))
    assert pipeline.text_encoder.get_input_embeddings() is not table
    assert torch.equal(pop_tokens(pipeline), rows)
    assert pipeline.text_encoder.get_input_embeddings() is table


def test_a_hypernetwork_of_another_unet_is_refused(pipeline, pipeline_folder, images, tmp_path):
    tuned_with("hypernetwork", pipeline_folder, images, tmp_path)
    with pytest.raises(ValueError, match="already has a hypernetwork"):
        [load_hypernetwork(pipeline, tmp_path) for _ in range(2)]
    other = load_pipeline(pipeline_folder)
    other.unet = mini.new_unet(UNet(channels=[16, 32, 32]), 16)
    with pytest.raises(ValueError, match="holds a hypernetwork of another UNet"):
        load_hypernetwork(other, tmp_path)


def test_a_placeholder_that_is_already_a_word_is_refused(pipeline):
    pipeline.tokenizer.add_tokens(["<ada-abeck>"])
    with pytest.raises(ParamsError, match="The placeholder <ada-abeck> is already in the base model's vocabulary"):
        check_tokens(pipeline.tokenizer, "ada abeck", "photo of ada abeck", 0)


def test_an_untrained_hypernetwork_predicts_exactly_as_the_base(pipeline):
    z, view = torch.randn(2, 4, 16, 16, generator=generator(1)), Denoiser(pipeline)
    c = view.prompts(["a photo of ada abeck"])
    before = view.eps(z, 300, c)
    parameters = add_hypernetwork(pipeline.unet, hidden=8, activation="relu")
    assert torch.equal(view.eps(z, 300, c), before)
    layers = sum(name.endswith(("attn2.to_k", "attn2.to_v")) for name, _ in pipeline.unet.named_modules())
    assert sum(p.numel() for p in parameters) == layers * (32 * 8 + 8 + 8 * 32 + 32) > 0


@pytest.mark.parametrize("rank", [1, 4, 64])
@pytest.mark.parametrize("name", ["lora", "dreambooth_lora"])
def test_a_lora_has_exactly_the_expected_parameter_count(name, rank, pipeline, images):
    """A layer's own width caps its rank: rank 64 is more than any of these layers can use."""
    layers = [m for n, m in pipeline.unet.named_modules() if n.endswith(("to_q", "to_v"))]
    if name == "dreambooth_lora":
        layers += [m for n, m in pipeline.text_encoder.named_modules() if n.endswith(("q_proj", "v_proj"))]
    ranks = [min(rank, layer.in_features, layer.out_features) for layer in layers]
    expected = sum(r * (layer.in_features + layer.out_features) for r, layer in zip(ranks, layers, strict=True))
    report = finetune(pipeline, METHODS[name], LoRA(steps=1, batch=2, rank=rank), images, ADA, 0, "test")
    assert report["trainable"] == expected > 0


def test_a_capped_layer_keeps_the_scale_of_its_adapter(pipeline):
    width = min(layer.in_features for name, layer in pipeline.unet.named_modules() if name.endswith("to_q"))
    config = adapter(pipeline.unet, "unet", LoRA(rank=2 * width, alpha=6 * width))
    assert config.rank_pattern
    pipeline.unet.add_adapter(config)
    scales = [layer.scaling["default"] for name, layer in pipeline.unet.named_modules() if name.endswith(("to_q", "to_v"))]
    assert scales == [3.0] * len(scales)


def test_each_part_trains_at_its_own_rate(pipeline_folder, images):
    """AdamW's first step moves a weight by its learning rate, whatever the gradient."""
    tuned, _ = trained_with("textual_inversion_lora", pipeline_folder, images, steps=1, lr=1e-4, tokens_lr=1e-2)
    base = load_pipeline(pipeline_folder)
    own = base.text_encoder.get_input_embeddings().weight[base.tokenizer("photo of ada abeck", add_special_tokens=False).input_ids]
    rows = tuned.text_encoder.get_input_embeddings().rows
    assert (rows - own).abs().median().item() == pytest.approx(1e-2, rel=0.05)
    up = torch.cat([p.flatten() for n, p in tuned.unet.state_dict().items() if "lora_B" in n])  # starts at 0
    assert up[up != 0].abs().median().item() == pytest.approx(1e-4, rel=0.05)


def test_prior_preservation_adds_the_weighted_loss_of_the_prior_images(pipeline_folder, images):
    def first_loss(weight):
        recipe = Recipe(steps=1, batch=4, prior_weight=weight)
        args = (load_pipeline(pipeline_folder), METHODS["dreambooth"], recipe, images, ADA, 0, "test")
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
        pipeline.unet,
        "forward",
        lambda z, t, encoder_hidden_states: type("A", (), {"sample": answer.sample + 0 * pipeline.unet.conv_in.bias[0]}),
    )
    z0 = Denoiser(pipeline).encode_photos(images)
    recipe = Recipe(steps=1, batch=2)
    found = finetune(pipeline, METHODS["dreambooth"], recipe, images, ADA, 3, "test")["loss"][0]
    draw = generator(3, 0)
    which, t = torch.randint(4, (2,), generator=draw), torch.randint(0, 1000, (2,), generator=draw)
    noise, total = torch.randn(2, 4, 16, 16, generator=draw), 0.0
    for i in range(2):
        a = pipeline.scheduler.alphas_cumprod[t[i]].item()
        target = noise[i] if prediction == "epsilon" else a**0.5 * noise[i] - (1 - a) ** 0.5 * z0[which[i]]
        total += target.square().mean().item() / 2
    assert found == pytest.approx(total, rel=1e-5)


def test_the_rate_of_a_recipe_falls_along_a_cosine_where_it_says_so(pipeline_folder, images):
    """As AdamW was told, step by step."""
    told = {}
    for schedule in ("constant", "cosine"):
        pipeline, rates = load_pipeline(pipeline_folder), []
        recipe = Recipe(steps=4, batch=2, lr=1e-3, schedule=schedule)
        watch = lambda adam, *_, rates=rates: rates.append(adam.param_groups[0]["lr"])  # noqa: E731
        hook = register_optimizer_step_pre_hook(watch)
        finetune(pipeline, METHODS["dreambooth"], recipe, images, ADA, 0, "test")
        hook.remove()
        told[schedule] = rates
    assert told["constant"] == [1e-3] * 4
    assert told["cosine"] == pytest.approx([1e-3, 1e-3 * (1 + 0.5**0.5) / 2, 5e-4, 1e-3 * (1 - 0.5**0.5) / 2])


@pytest.mark.parametrize("rank", [4, 64])
def test_a_saved_lora_means_the_same_to_a_loader_that_takes_alpha_for_the_rank(rank, pipeline_folder, images, tmp_path):
    """Its tensors alone, without any metadata, as kohya and the web UIs read them: W + up down."""
    recipe = LoRA(steps=2, batch=2, lr=1e-2, rank=rank, alpha=4 * rank)
    pipeline = load_pipeline(pipeline_folder)
    finetune(pipeline, METHODS["lora"], recipe, images, ADA, 0, "test")
    save_finetuned(pipeline, METHODS["lora"], recipe, ADA, tmp_path)
    fused = load_finetuned(pipeline_folder, tmp_path).unet.state_dict()
    bare = load_pipeline(pipeline_folder).unet.state_dict()
    tensors = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    for name in [key for key in tensors if key.endswith(".lora_A.weight")]:
        layer = name.removeprefix("unet.").removesuffix(".lora_A.weight")
        expected = bare[f"{layer}.weight"] + tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
        torch.testing.assert_close(fused[f"{layer}.weight"], expected)
        assert not torch.equal(fused[f"{layer}.weight"], bare[f"{layer}.weight"])


def test_a_loss_that_is_no_number_stops_the_training():
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ParamsError, match="the loss is nan at step 3; lower the learning rate"):
        train([weight], lambda step, _: (weight * (float("nan") if step == 3 else 1.0)).sum(), steps=5, lr=0.1, seed=0, what="test")


def test_image_i_does_not_depend_on_the_batch_it_is_drawn_in(pipeline):
    prompts = ["photo of ada abeck", "face of arvo borg", "photo of bela calder"]
    whole = sample(pipeline, prompts, seed=1, steps=2, guidance=3.0, batch=3)
    single = sample(pipeline, prompts, seed=1, steps=2, guidance=3.0, batch=1)
    assert whole.shape == (3, 64, 64, 3)
    assert np.abs(whole.astype(int) - single).max() <= 1
    assert np.abs(whole[0].astype(int) - sample(pipeline, prompts[:1], seed=2, steps=2, guidance=3.0)).max() > 1


def test_the_multistep_sampler_is_that_of_diffusers_and_leaves_the_pipeline_as_it_was(pipeline):
    own, prompts = pipeline.scheduler, ["photo of ada abeck", "face of ada abeck"]
    found = sample(pipeline, prompts, 5, 4, 3.0, sampler="multistep")
    assert pipeline.scheduler is own
    assert (found != sample(pipeline, prompts, 5, 4, 3.0)).any()
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(own.config)
    expected = sample(pipeline, prompts, 5, 4, 3.0)
    pipeline.scheduler = own
    assert np.array_equal(found, expected)
    single = sample(pipeline, prompts, 5, 4, 3.0, batch=1, sampler="multistep")
    assert np.abs(single.astype(int) - found).max() <= 1


def test_a_template_is_drawn_for_every_image_with_its_weight():
    drawn = draw_prompts("ada abeck", 4000, SP(suffix="high quality"), seed=0)
    share = np.mean([text == "photo of ada abeck, high quality" for text in drawn])
    assert abs(share - 0.7) < 4 * np.sqrt(0.21 / 4000)
    assert set(drawn) == {"photo of ada abeck, high quality", "face of ada abeck, high quality"}
