"""The base model of a profile: a folder that the user names, or the mini Stable Diffusion trained stage by stage."""

import hashlib
import json
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from s2llib.data.domain import MEMBER, Domain, open_image
from s2llib.data.portraits import SIZE
from s2llib.data.worlds import auxiliary_images, data_version, training_photos
from s2llib.models import mini
from s2llib.models.loading import load_part
from s2llib.models.lora import check_lora, fuse, lora_files
from s2llib.models.pipeline import PARTS, base_folder, check_folder, load_pipeline
from s2llib.models.tokens import encoder_config, load_tokenizer
from s2llib.params import Params, ParamsError, resolved
from s2llib.store import Store, digest, file_digest, folder_digest

__all__ = [
    "PIXELS",
    "WORLD",
    "auxiliary_inputs",
    "base_key",
    "base_model",
    "base_name",
    "base_tokenizer",
    "check_base",
    "check_drawn",
    "check_trained_on",
    "check_world",
    "content",
    "edge_of",
    "image_edge",
    "pixel_digest",
    "training_world",
]

VAE_VERSION = 1
CLIP_VERSION = 2
UNET_VERSION = 2
BASE_VERSION = 2
FUSED_VERSION = 1

PIXELS = "pixels"  # in WORLD: {person: `pixel_digest`} of a model that is shipped
WORLD = "world.json"  # in a base model's folder: what its UNet was trained on


def auxiliary_inputs(p: Params) -> dict:
    """What the images that VAE and CLIP train on depend on."""
    keys = {"kind", "seed", "people", "bystanders"} | ({"members", "nonmembers"} if p.world.kind == "olivetti" else set())
    world = p.world.model_dump(include=keys)
    return {"world": world, "data": data_version(p.world), "auxiliary": p.base.auxiliary, "seed": p.seed}


def training_world(p: Params, people: int | None) -> dict:
    """What the members of the world's first few people (None: all) depend on; written beside a model that was trained on them."""
    keys = {"kind", "seed", "people", "bystanders", "members", "duplicated", "copies"}
    keys |= {"nonmembers"} if p.world.kind == "olivetti" else set()
    some = {"unet_people": people} if people else {}
    return p.world.model_dump(include=keys) | {"data": data_version(p.world)} | some


def _inputs(p: Params) -> dict[str, dict]:
    """What each stage of pre-training depends on."""
    auxiliary = auxiliary_inputs(p)
    vae = auxiliary | {"vae": p.base.vae.model_dump(), "version": VAE_VERSION}
    clip = auxiliary | {"clip": p.base.clip.model_dump(), "version": CLIP_VERSION}
    unet = {
        "vae": vae,
        "clip": clip,
        "training": training_world(p, p.base.unet.people),
        "unet": p.base.unet.model_dump(exclude={"people"}),
        "version": UNET_VERSION,
    }
    return {"vae": vae, "clip": clip, "unet": unet}


def base_key(p: Params) -> str:
    """What the base model is addressed by: the content of the files that are loaded, or everything its training depends on."""
    folder = base_folder(p)
    if not folder:
        return digest([BASE_VERSION, _inputs(p)["unet"]])
    key = _key_of(folder)
    return digest([FUSED_VERSION, _fused_inputs(p, key)]) if p.base.lora else key


def _key_of(folder: Path) -> str:
    parts = {part: content(folder / part) for part in (*PARTS, "clip") if (folder / part).is_dir()}
    return digest(parts | {"index": file_digest(folder / "model_index.json")})


def _fused_inputs(p: Params, base: str) -> dict:
    """What a base with a LoRA in it depends on: the base's own key, the LoRA's files, the scale."""
    files = [path for file in lora_files(resolved(p.base.lora)).values() for path in (file, file.with_name("adapter_config.json"))]
    return {"base": base, "lora": [content(path) for path in files if path.is_file()], "scale": p.base.lora_scale}


def base_name(p: Params) -> str:
    """What the base model is called: its name on the hub or its folder's, with its LoRA's; or `trained here`."""
    if p.trains_base:
        return "trained here"
    lora = f" + {resolved(p.base.lora).absolute().name} at {p.base.lora_scale:g}" if p.base.lora else ""
    return (p.base.hub or base_folder(p).name) + lora


def check_base(p: Params) -> None:
    """Raises ParamsError unless the base, where it is not trained here, is a pipeline, and its LoRA is one of it."""
    if p.trains_base:
        if p.base.lora:
            raise ParamsError(
                "base.lora goes onto the base in base.path, but retrain_base trains another; set retrain_base=false, or no LoRA."
            )
        return
    folder = base_folder(p)
    check_folder(folder)
    if p.base.lora:
        check_lora(resolved(p.base.lora), folder)
    elif (beside := folder / "pytorch_lora_weights.safetensors").is_file():
        raise ParamsError(f"base.path: {folder} holds a LoRA beside the pipeline; set base.lora={beside} to fuse it, or move it elsewhere.")


def content(at: Path) -> str:
    """A file's or a folder's digest, computed once as long as names, sizes and times stay: every variant of a study asks for it."""
    files = [at] if at.is_file() else sorted(path for path in at.rglob("*") if path.is_file())
    return _digest_of(at, tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=64)
def _digest_of(at: Path, _files: tuple) -> str:
    return file_digest(at) if at.is_file() else folder_digest(at)


def base_tokenizer(p: Params):
    """The base model's tokenizer, also before the model is trained."""
    if folder := base_folder(p):
        return load_tokenizer(folder / "tokenizer", encoder_config(folder), "base.path")
    with tempfile.TemporaryDirectory() as scratch:
        return mini.build_tokenizer(Path(scratch))


def image_edge(p: Params) -> int:
    """Edge of the base model's images in pixels, also before the model is trained or loaded."""
    folder = base_folder(p)
    return edge_of(folder) if folder else SIZE


def edge_of(folder: Path) -> int:
    """Edge of the images of a pipeline's folder in pixels."""
    unet, vae = (json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae"))
    return unet["sample_size"] * 2 ** (len(vae.get("block_out_channels", [0])) - 1)


def check_world(p: Params, mend: str = "set retrain_base=true to train a base for this world") -> None:
    """Raises ParamsError if the base model says that it was trained on another world than the one that is attacked."""
    folder = base_folder(p)
    if folder and p.world.kind != "folder":  # one's own folders say for themselves who is suspected
        knob = "base.unet.people (extraction.people for extraction.base)"
        check_trained_on(folder, training_world(p, p.base.unet.people), knob, mend)


def check_trained_on(folder: Path, attacked: dict, people: str, mend: str) -> None:
    """Raises ParamsError if a model's folder says that it was trained on other people than `attacked`, of `training_world`.

    people: the parameter that says on how many; mend: what to do if the worlds differ otherwise.
    """
    if not (folder / WORLD).is_file():
        return
    trained, attacked = json.loads((folder / WORLD).read_text()), json.loads(json.dumps(attacked))
    for key in sorted((trained | attacked).keys() - {PIXELS}):
        if trained.get(key) != attacked.get(key):
            if key == "unet_people":
                raise ParamsError(
                    f"{people} is {attacked.get(key)} but {folder} was trained on {trained.get(key) or 'all'} people; set it to that."
                )
            raise ParamsError(
                f"world.{key} is {attacked.get(key)!r} but {folder} was trained with {trained.get(key)!r}: its members would not"
                f" be this world's; {mend}."
            )


def pixel_digest(person: Domain) -> str:
    """SHA-256 of the pixels of a person's members, whatever their files are."""
    return _pixel_digest_of(person.splits[MEMBER].paths)


@lru_cache(maxsize=1000)  # every variant of a lab asks
def _pixel_digest_of(paths: tuple[Path, ...]) -> str:
    found = hashlib.sha256()
    for path in paths:
        with open_image(path) as image:
            found.update(image.convert("RGB").tobytes())
    return found.hexdigest()


def check_drawn(folder: Path | None, people: list[Domain], mend: str) -> None:
    """Raises ParamsError if the members of one of these people have other pixels than a model's folder says it was trained on."""
    if folder is None or not (folder / WORLD).is_file():
        return
    trained = json.loads((folder / WORLD).read_text()).get(PIXELS, {})
    for person in people:
        if trained.get(person.name, "") not in ("", pixel_digest(person)):
            raise ParamsError(
                f"The photographs of '{person.name}' come out here in other pixels than those that {folder} was trained on, as under"
                " another Pillow or numpy or on another processor, so that its members would not be these; pip install -c constraints.txt"
                f" -e . and remove {person.splits[MEMBER].paths[0].parents[2]}, where they are kept, or {mend}."
            )


def base_model(p: Params, store: Store) -> Path:
    """The folder of the base pipeline (beside its parts, a trained one has `clip/` and `training.json`)."""
    folder = base_folder(p)
    if folder and p.base.lora:
        return store.get("fused", FUSED_VERSION, _fused_inputs(p, _key_of(folder)), lambda new: _fuse(p, folder, new))
    if folder:
        return folder
    return store.get("base", BASE_VERSION, _inputs(p)["unet"], lambda new: _assemble(p, store, new))


def _fuse(p: Params, folder: Path, new: Path) -> None:
    """The pipeline of a folder with the LoRA in its weights, in float32, and what lies beside the pipeline."""
    pipeline = load_pipeline(folder)
    fuse(pipeline, resolved(p.base.lora), p.base.lora_scale)
    pipeline.save_pretrained(new)
    if (folder / "clip").is_dir():
        shutil.copytree(folder / "clip", new / "clip")
    for name in ("training.json", WORLD):
        if (folder / name).is_file():
            shutil.copy(folder / name, new / name)


def _assemble(p: Params, store: Store, new: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTokenizer

    inputs = _inputs(p)
    images: list = []  # drawn once, if any stage needs them

    def auxiliary():
        return images or images.extend(auxiliary_images(p.world, p.base.auxiliary, store)) or images

    augment = p.world.kind == "olivetti"
    vae_at = store.get("base_vae", VAE_VERSION, inputs["vae"], lambda to: _vae(p, store, inputs["vae"], auxiliary(), augment, to))
    clip_at = store.get("base_clip", CLIP_VERSION, inputs["clip"], lambda to: _clip(p, store, inputs["clip"], auxiliary(), augment, to))
    unet_at = store.get("base_unet", UNET_VERSION, inputs["unet"], lambda to: _unet(p, store, inputs["unet"], vae_at, clip_at, to))
    clip = load_part(CLIPModel, clip_at / "clip", "base.clip")
    pipeline = mini.assemble(
        load_part(AutoencoderKL, vae_at / "vae", "base.vae"),
        mini.text_encoder(clip),
        CLIPTokenizer.from_pretrained(clip_at / "tokenizer"),
        load_part(UNet2DConditionModel, unet_at / "unet", "base.unet"),
    )
    pipeline.save_pretrained(new)
    clip.save_pretrained(new / "clip")
    report = {
        stage: json.loads((at / "training.json").read_text()) for stage, at in (("vae", vae_at), ("clip", clip_at), ("unet", unet_at))
    }
    (new / "training.json").write_text(json.dumps(report, indent=1))
    (new / WORLD).write_text(json.dumps(training_world(p, p.base.unet.people), indent=1))


def _report(folder: Path, stage: str, losses: list[float], **metrics) -> None:
    """Write training.json; raises RuntimeError if the loss ever rose far above its lowest, even if it half recovered."""
    smooth = [float(np.mean(part)) for part in np.array_split(losses, min(50, len(losses)))]
    rise = np.array(smooth) / np.minimum.accumulate(smooth)
    if len(losses) >= 1000 and rise.max() > 1.5:
        at = int(rise.argmax())
        raise RuntimeError(
            f"The base model's {stage} diverged: loss {min(smooth[:at]):.3f} rose to {smooth[at]:.3f}; lower its learning rate in params/."
        )
    (folder / "training.json").write_text(json.dumps({"steps": len(losses), "loss": smooth, **metrics}))


def _vae(p: Params, store: Store, inputs: dict, auxiliary, augment: bool, to: Path) -> None:
    images, _ = auxiliary
    vae, losses = mini.train_vae(images, p.base.vae, p.seed, augment, store.scratch("base_vae", VAE_VERSION, inputs))
    vae.save_pretrained(to / "vae")
    x = torch.from_numpy(images[:: max(1, len(images) // 200)]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        error = F.mse_loss(vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1), x).sqrt().item() / 2
    _report(to, "VAE", losses, rms_error=error)


def _clip(p: Params, store: Store, inputs: dict, auxiliary, augment: bool, to: Path) -> None:
    images, captions = auxiliary
    tokenizer = mini.build_tokenizer(to / "tokenizer")
    bare = [text.split(",")[0] for text in captions]
    at = store.scratch("base_clip", CLIP_VERSION, inputs)
    clip, losses = mini.train_clip(images, captions, bare, tokenizer, p.base.clip, p.seed, augment, at)
    clip.save_pretrained(to / "clip")
    _report(to, "CLIP", losses)


def _unet(p: Params, store: Store, inputs: dict, vae_at: Path, clip_at: Path, to: Path) -> None:
    from diffusers import AutoencoderKL
    from transformers import CLIPModel, CLIPTokenizer

    vae = load_part(AutoencoderKL, vae_at / "vae", "base.vae")
    encoder = mini.text_encoder(load_part(CLIPModel, clip_at / "clip", "base.clip")).requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(clip_at / "tokenizer")
    photos = training_photos(p.world, store, p.base.unet.people)
    with torch.no_grad():
        z = [vae.encode(x * 2 - 1).latent_dist.mode() for some in photos.values() for x in some.batches(64, 256)]
    unet, losses = mini.train_unet(
        torch.cat(z) * vae.config.scaling_factor,
        [text for some in photos.values() for text in some.captions],
        [name for name, some in photos.items() for _ in some.captions],
        [n for some in photos.values() for n in some.copies],
        encoder, tokenizer, p.base.unet, p.seed, store.scratch("base_unet", UNET_VERSION, inputs),
    )  # fmt: skip
    unet.save_pretrained(to / "unet")
    _report(to, "UNet", losses)
