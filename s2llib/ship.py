"""Train the lab's base model and write it to models/lab in half precision, with its card: `python -m s2llib.ship`."""

import json
import shutil
from pathlib import Path

import torch

from s2llib.report.base import base_metrics
from s2llib.report.provenance import provenance
from s2llib.study import Study

SHIPPED = Path(__file__).resolve().parent.parent / "models" / "lab"

CARD = """# The lab's base model

A `StableDiffusionPipeline` in half precision that plain diffusers loads, and the CLIP pair (`clip/`) whose text tower is its text encoder.
Made by `python -m s2llib.ship`; `--set retrain_base=true` trains it again in any run of the `lab` profiles.

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


def card(study: Study, metrics: dict[str, float], log: str) -> str:
    """The model card: data, seeds, steps, metrics, and the log of the search that chose them."""
    p, source = study.params, provenance(study.params)
    training = json.loads((study.base_folder / "training.json").read_text())
    stages = [
        f"{name}: {report['steps']} steps, loss {report['loss'][0]:.3f} to {report['loss'][-1]:.3f}" for name, report in training.items()
    ]
    return CARD.format(
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
    study = Study.from_profile("lab-full", {"retrain_base": True})
    log = (SHIPPED / "calibration.md").read_text() if (SHIPPED / "calibration.md").is_file() else ""
    metrics = base_metrics(study)
    for part in ("vae", "unet", "text_encoder"):
        getattr(study.base, part).to(torch.float16).save_pretrained(SHIPPED / part)
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(study.base_folder / part, SHIPPED / part, dirs_exist_ok=True)
    for name in ("model_index.json", "training.json", "world.json"):
        shutil.copy(study.base_folder / name, SHIPPED / name)
    from transformers import CLIPModel

    CLIPModel.from_pretrained(study.base_folder / "clip", dtype=torch.float16).save_pretrained(SHIPPED / "clip")
    for part in ("vae", "unet", "text_encoder", "clip"):
        path = SHIPPED / part / "config.json"
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}  # a folder of this machine
        if part in ("text_encoder", "clip"):  # so that plain from_pretrained loads every part in one precision
            config |= {"dtype": "float32"}
        path.write_text(json.dumps(config, indent=2) + "\n")
    (SHIPPED / "README.md").write_text(card(study, metrics, log))
    print(f"{SHIPPED}: {sum(path.stat().st_size for path in SHIPPED.rglob('*') if path.is_file()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
