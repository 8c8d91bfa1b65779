"""Train a shipped base model and write it to its folder in half precision, with its card.

python -m s2llib.ship            # models/lab
python -m s2llib.ship lab-large  # the base of params/lab-large.yaml
"""

import json
import shutil
import sys

import torch
from transformers import CLIPModel

from s2llib.models.pipeline import base_folder
from s2llib.params import load_params
from s2llib.report.base import base_metrics
from s2llib.report.provenance import provenance
from s2llib.study import Study

CARD = """# A base model of the lab (`{profile}`)

A `StableDiffusionPipeline` in half precision that plain diffusers loads, and the CLIP pair (`clip/`) whose text tower is its text encoder.
Made by `python -m s2llib.ship {profile}`; `--profile {profile} --set retrain_base=true` trains it again.

## Data

Procedural portraits of {people} invented people (world seed {world_seed}); no real person. UNet: {members} members a person,
{duplicated:.0%} of them in {copies} copies. VAE and CLIP: {auxiliary} other photographs a person, in no split of any study.

## Training

Seed {seed}. {stages}

Card written on {processor}, torch {torch}.

## Metrics

On non-members, which no part of the model was trained on.

{metrics}

{log}
"""
OWN_LOG = "How its settings and those of attacks and fine-tuning were found: [calibration.md](calibration.md)."
OTHER_LOG = "Its settings are those of [the lab](../lab/README.md), but for the width of the UNet."


def card(study: Study, metrics: dict[str, float], log: str) -> str:
    """The model card: data, seeds, steps, metrics, and where its settings come from."""
    p, source = study.params, provenance(study.params)
    training = json.loads((study.base_folder / "training.json").read_text())
    stages = [
        f"{name}: {report['steps']} steps, loss {report['loss'][0]:.3f} to {report['loss'][-1]:.3f}" for name, report in training.items()
    ]
    return CARD.format(
        profile=p.profile,
        people=p.world.people,
        world_seed=p.world.seed,
        members=p.world.members,
        duplicated=p.world.duplicated,
        copies=", ".join(map(str, p.world.copies)),
        auxiliary=p.base.auxiliary,
        seed=p.seed,
        stages="; ".join(stages) + f"; UNet: {p.base.unet.epochs} epochs.",
        processor=source["hardware"]["processor"],
        torch=source["packages"]["torch"],
        metrics="\n".join(f"- {name}: {value:.4g}" for name, value in metrics.items()),
        log=log,
    )


def main() -> None:
    profile = sys.argv[1] if len(sys.argv) > 1 else "lab-full"
    shipped = base_folder(load_params(profile))
    study = Study.from_profile(profile, {"retrain_base": True})
    log = OWN_LOG if (shipped / "calibration.md").is_file() else OTHER_LOG
    metrics = base_metrics(study)
    for part in ("vae", "unet", "text_encoder"):
        getattr(study.base, part).to(torch.float16).save_pretrained(shipped / part)
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(study.base_folder / part, shipped / part, dirs_exist_ok=True)
    for name in ("model_index.json", "training.json", "world.json"):
        shutil.copy(study.base_folder / name, shipped / name)
    CLIPModel.from_pretrained(study.base_folder / "clip", dtype=torch.float16).save_pretrained(shipped / "clip")
    for part in ("vae", "unet", "text_encoder", "clip"):
        path = shipped / part / "config.json"
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}  # a folder of this machine
        if part in ("text_encoder", "clip"):  # so that plain from_pretrained loads every part in one precision
            config |= {"dtype": "float32"}
        path.write_text(json.dumps(config, indent=2) + "\n")
    (shipped / "README.md").write_text(card(study, metrics, log))
    print(f"{shipped}: {sum(path.stat().st_size for path in shipped.rglob('*') if path.is_file()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
