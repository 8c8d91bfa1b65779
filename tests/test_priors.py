import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from s2llib import Lab
from s2llib.artifact import key, made
from s2llib.artifact import table as read
from s2llib.attacks import ATTACKS
from s2llib.compute.models import folder
from s2llib.data.domain import Domain, Photos
from s2llib.data.worlds import auxiliary_images, public_photos
from s2llib.finetune.knowledge import add_noise, alias, noise_images, perturb
from s2llib.finetune.methods import METHODS, PRETRAINED
from s2llib.finetune.recipe import finetune
from s2llib.generate import draw_prompts
from s2llib.metrics.roc import auc
from s2llib.models.denoiser import Denoiser
from s2llib.models.unconditional import new_unconditional, sample_unconditional, train_unconditional
from s2llib.params import SP, ParamsError, Recipe, ZeroPrior
from s2llib.report.ablations import ablation_table
from s2llib.report.priors import contrast_table, contrasts, printed_changes, transfer_paper, zero_table, zero_verdict
from s2llib.studies import plan, priors, zero_prior
from s2llib.studies.priors import PLAIN, PUBLIC_ALONE, PUBLIC_FIRST

ADA = Domain("ada abeck", {}, "")


@pytest.mark.parametrize(
    ("level", "prompt"),
    [
        ("name", "photo of ada abeck"),
        ("attributes", "photo of ada abeck"),
        ("public", "photo of ada abeck"),
        ("wrong", "photo of bela calder"),
        ("generic", "photo of a person"),
        ("noise", "photo of a person"),
        ("weights", "photo of a person"),
    ],
)
def test_an_attacker_uses_the_name_that_is_known(level, prompt):
    assert alias(ADA, level, ["arvo borg", "ada abeck", "bela calder"]).instance_prompt == prompt


def test_the_wrong_name_of_the_last_is_the_first():
    assert alias(ADA, "wrong", ["arvo borg", "ada abeck"]).name == "arvo borg"


def test_prompts_with_attributes_draw_one_of_every_group_and_the_same_templates():
    groups = [["smiling", "sad"], ["in a red shirt", "in a blue jacket"]]
    plain, more = draw_prompts("ada", 200, SP(), 3), draw_prompts("ada", 200, SP(), 3, groups)
    seen = {(a, b): 0 for a in groups[0] for b in groups[1]}
    for before, after in zip(plain, more, strict=True):
        start, first, second = after.split(", ")
        assert start == before
        seen[first, second] += 1
    assert all(30 < count < 70 for count in seen.values()), "the groups are drawn evenly and independently"


def test_noise_images_are_gaussian():
    x = noise_images(50, 32, 1).astype(float) / 255
    assert x.mean() == pytest.approx(0.5, abs=0.005)
    assert x.std() == pytest.approx(0.2399, abs=0.002)  # 0.25 of a normal that is clipped at two standard deviations
    assert not np.array_equal(noise_images(2, 8, 1), noise_images(2, 8, 2))


def test_noise_on_weights_is_in_standard_deviations_of_each_tensor():
    small, large = torch.randn(400, 400) * 0.01, torch.randn(400, 400) * 10
    before = [small.clone(), large.clone()]
    add_noise([small, large], 0.05, 0)
    for old, new in zip(before, (small, large), strict=True):
        assert ((new - old).std() / old.std()).item() == pytest.approx(0.05, rel=0.02)
        assert abs(np.corrcoef(old.flatten(), (new - old).flatten())[0, 1]) < 0.02


def test_noise_on_weights_falls_on_what_the_method_would_train(pipeline):
    parts = {part: [p.clone() for p in getattr(pipeline, part).parameters()] for part in ("unet", "text_encoder", "vae")}
    count = perturb(pipeline, METHODS["dreambooth"], Recipe(), ADA, 0.02, 0)
    changed = {
        part: any(not torch.equal(a, b) for a, b in zip(old, getattr(pipeline, part).parameters(), strict=True))
        for part, old in parts.items()
    }
    assert changed == {"unet": True, "text_encoder": True, "vae": False}
    assert count == sum(p.numel() for part in ("unet", "text_encoder") for p in parts[part])


@pytest.mark.parametrize("level", ["noise", "weights", "generic", "wrong", "attributes", "public"])
def test_every_level_is_another_model(lab, level):
    domain = lab.domains[0]
    usual, other = plan.tuned(lab, domain, "dreambooth"), plan.tuned(lab, domain, "dreambooth", knowledge=level)
    assert key(lab, other) != key(lab, usual)
    asked = lab.at({"finetune.knowledge": level, "finetune.methods": ["dreambooth"]})
    assert key(asked, plan.tuned(asked, domain, "dreambooth")) == key(lab, other), "as a profile's own level"


def test_public_photographs_are_in_no_split_and_known_to_no_unet(lab):
    world, domain = lab.params.world, lab.domains[0]
    public = public_photos(world, domain.name, 2, lab.store)
    seen = {photos.paths[i].read_bytes() for photos in domain.splits.values() for i in range(len(photos))}
    assert not seen & {path.read_bytes() for path in public.paths}
    drawn = {x.tobytes() for x in auxiliary_images(world, lab.params.base.auxiliary, lab.store)[0]}
    assert all(np.asarray(Image.open(path)).tobytes() in drawn for path in public.paths)
    assert all("a photo of ada abeck" in caption for caption in public.captions)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"priors.public": ["ada abeck"]}, "'ada abeck' is also one of the private domains; leave it out, or lower priors.domains"),
        ({"priors.public": ["nobody"]}, "priors.public: unknown domain 'nobody'; known: ada abeck, arvo borg"),
        ({"priors.method": "textual_inversion"}, "priors.method is 'textual_inversion'; it must be one of dreambooth, end_to_end"),
        ({"finetune.knowledge": "generic"}, "textual_inversion learns a token in place of the domain's name"),
        (
            {"finetune.knowledge": "weights", "finetune.methods": ["lora"]},
            "lora adds parameters instead of training the model's own; leave in",
        ),
        ({"base.unet.people": 1}, "base.unet.people is 1 but 'arvo borg' of world.domains is not among them"),
        (
            {"extraction.base": "models/lab", "extraction.people": 2},
            r"extraction.base: world.duplicated is 0.25 .* set extraction.base=null",
        ),
        ({"extraction.base": "models/lab", "world.domains": ["bela calder"], "extraction.people": 1}, "none of whom is in world.domains"),
        (
            {"extraction.prompts": "captions", "extraction.draws": 1},
            "clique is 2 and draws is 1: no caption could have so many",
        ),
        ({"finetune.knowledge": "all"}, "finetune.knowledge is 'all'"),
        ({"zero_prior.path": "models/lab"}, "is no DDPMPipeline"),
        ({"priors.transfer.prior_weight": 1.0}, "priors.transfer.prior_weight is 1, but there are no prior images here; set it to 0"),
        ({"sp.steps": 1001}, "sp.steps is 1001; it must be less than or equal to 1000"),
        ({"extraction.delta": 0}, "extraction.delta is 0; it must be greater than 0"),
        ({"extraction.k": 0}, "extraction.k is 0; it must be greater than or equal to 1"),
        ({"extraction.k": 3}, "deltas must hold delta .0.1. and ks must hold k .3."),
    ],
)
def test_what_cannot_run_is_refused_first(overrides, message):
    with pytest.raises(ParamsError, match=message):
        Lab.open("tiny", overrides)


def test_too_few_public_people_or_photographs_are_a_sentence_not_an_error(lab):
    assert priors.no_transfer(lab) == ""
    assert "only 3 of the world's 4 people are not private" in priors.no_transfer(lab.at({"priors.public": 4}))


def test_domain_transfer_starts_from_a_model_that_saw_the_public_domains(lab):
    scores, p = priors.transfer(lab), lab.params.statistics
    table = ablation_table(scores, "fine-tuning", p)
    assert set(table["fine-tuning"]) == {PLAIN, PUBLIC_ALONE, PUBLIC_FIRST}
    plain = scores[(scores["value"] == PLAIN) & (scores["method"] == PLAIN) & (scores["attack"] == "pia")]
    domain = priors.prior_domains(lab)[0]
    usual = read(lab, plan.scoring(lab, domain, plan.tuned(lab, domain, lab.params.priors.method), shifted=False))
    np.testing.assert_array_equal(plain["score"], usual.loc[usual["attack"] == "pia", "score"])
    members, others = (plain.loc[plain["split"] == split, "score"].to_numpy() for split in ("member", "nonmember"))
    shown = table[(table["fine-tuning"] == PLAIN) & (table["attack"] == "pia") & (table["method"] == PLAIN)]
    assert shown["value"].item() == pytest.approx(auc(members, others))
    assert "pre-trained" in printed_changes(table, "fine-tuning").index
    contrast = contrast_table(scores, p)
    deltas = table[table["delta"].notna()].set_index(["attack", "fine-tuning"])["delta"]
    row = contrast[(contrast["attack"] == "loss") & (contrast["against"] == PLAIN)].iloc[0]
    assert row["value"] == pytest.approx(deltas["loss", PUBLIC_FIRST] - deltas["loss", PLAIN])
    assert contrasts(contrast).count("- **") == 2 * 5
    folders = folder(lab, lab.base), made(lab, priors.public_model(lab))
    before, after = (load_file(at / "unet" / "diffusion_pytorch_model.safetensors") for at in folders)
    assert any(not torch.equal(before[name].float(), after[name].float()) for name in before)


def test_the_papers_value_stands_beside_the_public_domains_alone():
    table = pd.DataFrame({"method": [PLAIN, PUBLIC_FIRST, PUBLIC_FIRST, "best: x"], "metric": ["DE", "DE", "false alarms", "DE"]})
    paper = transfer_paper(table)["paper"]
    assert paper.isna().tolist() == [True, False, True]
    assert paper[1] == 44.8


# the unconditional model

SMALL = ZeroPrior(size=16, channels=[16, 32])


@pytest.fixture
def ddpm():
    return new_unconditional(SMALL, 0)


def test_attacks_read_an_unconditional_model_on_pixels(ddpm):
    denoiser, x = Denoiser(ddpm, batch=3), torch.rand(5, 3, 16, 16)
    z0, c = denoiser.encode(x), denoiser.prompts([""])
    torch.testing.assert_close(z0, x * 2 - 1)
    with torch.no_grad():
        expected = -ddpm.unet(z0, 100).sample.flatten(1).norm(dim=1)
    torch.testing.assert_close(ATTACKS["sima"].score(denoiser, z0, c, t=100), expected, rtol=1e-4, atol=1e-4)
    assert denoiser.evaluations == 5
    assert denoiser.size == 16


def test_text_to_image_recipes_refuse_an_unconditional_model_by_name(ddpm):
    nothing = Photos((), (), ())
    with pytest.raises(ParamsError, match="DreamBooth needs a text-to-image model; a DDPMPipeline has no text encoder"):
        finetune(ddpm, METHODS["dreambooth"], Recipe(), nothing, ADA, 0, "")


def test_the_unconditional_model_learns_and_draws_the_same_image_in_any_batch(ddpm):
    x = torch.zeros(8, 3, 16, 16) + torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)
    losses = train_unconditional(ddpm, x, steps=120, batch=8, lr=2e-3, seed=0, what="test")
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:5])
    alone, together = (sample_unconditional(ddpm, 3, 5, 1, batch=batch) for batch in (1, 3))
    assert np.abs(alone.astype(int) - together).max() <= 1


def test_zero_prior_scores_each_change_against_the_model_as_it_is(lab):
    scores = zero_prior.zero_prior(lab)
    assert list(scores["method"].unique()) == list(zero_prior.variants(lab, 0))
    table = zero_table(scores, lab.params.statistics)
    part = scores[(scores["attack"] == "pia") & (scores["method"] == PRETRAINED)]
    sides = lambda person: (person.loc[person["split"] == split, "score"].to_numpy() for split in ("member", "nonmember"))  # noqa: E731
    each = [auc(*sides(person)) for _, person in part.groupby("domain")]
    shown = table[(table["attack"] == "pia") & (table["method"] == PRETRAINED)]
    assert len(each) == 2
    assert shown["value"].item() == pytest.approx(np.mean(each))
    assert zero_verdict(table).count("- **") == len(zero_prior.variants(lab, 0)) - 1


def test_a_shipped_unconditional_model_says_which_people_it_knows(lab):
    folder = str(made(lab, zero_prior.unconditional_model(lab)))
    assert str(zero_prior.unconditional_model(Lab.open("tiny", {"zero_prior.path": folder})).path) == folder
    with pytest.raises(ParamsError, match=r"zero_prior.path: zero_prior.people is 1 but .* was trained on 2 people; set it to that"):
        Lab.open("tiny", {"zero_prior.path": folder, "zero_prior.people": 1})
    with pytest.raises(ParamsError, match=r"zero_prior.path: world.seed is 6 but .* was trained with 5.*set zero_prior.path=null"):
        Lab.open("tiny", {"zero_prior.path": folder, "world.seed": 6})


def test_a_sentence_says_what_the_zero_prior_did():
    row = {"method": "noise", "delta": 0.1, "delta_low": 0.02, "delta_high": 0.2, "p_adjusted": 0.03}
    before = {"method": PRETRAINED, "attack": "secmi", "value": 0.6}
    table = pd.DataFrame([before, row | {"attack": "secmi", "value": 0.7}, row | {"attack": "pia", "value": 0.48}])
    assert zero_verdict(table).splitlines()[0] == (
        "- **noise**: SecMI: rises away from 0.5 (+0.100 [+0.020, +0.200]); PIA: rises towards 0.5 (+0.100 [+0.020, +0.200])."
        " The highest AUC of any attack: 0.700 (SecMI), before: 0.600 (SecMI)."
    )
