"""From the `world` parameters to domains, and to the images that a base model is trained on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from s2llib.data.domain import MEMBER, NONMEMBER, PUBLIC, Domain, Photos
from s2llib.data.folders import Found, check_images, check_splits, in_folder, in_folders, photos_of, read_folder, unlisted, write_folder
from s2llib.data.people import person_name
from s2llib.data.photographs import olivetti
from s2llib.data.portraits import STYLES, caption, portrait
from s2llib.data.reading import Reading, caption_sources, check_own_captions
from s2llib.params import ParamsError, World, resolved
from s2llib.store import Store, digest, file_digest

__all__ = [
    "auxiliary_images",
    "check_unchanged",
    "check_used_captions",
    "data_version",
    "domain_names",
    "everyone",
    "known_names",
    "load_domains",
    "private_pool",
    "public_photos",
    "read_world",
    "reading",
    "training_photos",
    "without_caption",
]  # fmt: skip

PORTRAITS_VERSION = 1
OLIVETTI_VERSION = 1
FOLDER_VERSION = 1
CHECK_VERSION = 3  # of how images are read and which are refused


def data_version(world: World) -> int:
    """Code version of the world's photographs."""
    return {"portraits": PORTRAITS_VERSION, "olivetti": OLIVETTI_VERSION, "folder": FOLDER_VERSION}[world.kind]


def _copies(world: World) -> list[int]:
    """How often the training set holds each member of a domain: single ones first, then the duplicated share."""
    duplicated = round(world.duplicated * world.members)
    return [1] * (world.members - duplicated) + [world.copies[i % len(world.copies)] for i in range(duplicated)]


def _portrait_folder(folder: Path, world: World, who: int) -> None:
    counts = {"member": world.members, "nonmember": world.nonmembers} | dict.fromkeys(STYLES[1:], world.shifted)
    rows, images = [], []
    for stream, count in counts.items():
        for i in range(count):
            pixels, caption = portrait(world.seed, who, stream, i)
            row = {"file_name": f"{stream}/{i:04d}.png", "text": caption, "domain": person_name(who), "split": stream}
            rows.append(row | ({"copies": _copies(world)[i]} if stream == "member" else {}))
            images.append(Image.fromarray(pixels))
    write_folder(folder, rows, images)


def _olivetti_folder(folder: Path, world: World, who: int) -> None:
    order = np.random.default_rng([world.seed, who]).permutation(10)
    splits = {MEMBER: order[: world.members], NONMEMBER: order[world.members : world.members + world.nonmembers]}
    faces, name = olivetti(world.data_home)[who], person_name(who)
    rows, images = [], []
    for split, chosen in splits.items():
        for i in chosen:
            rows.append({"file_name": f"{split}/{i}.png", "text": f"a photo of {name}", "domain": name, "split": split})
            images.append(Image.fromarray(faces[i]))
    write_folder(folder, rows, images)


def _person_inputs(world: World, who: int) -> dict:
    keys = {"kind", "seed", "members", "nonmembers"}
    if world.kind == "portraits":
        keys |= {"shifted", "duplicated", "copies"}
    return world.model_dump(include=keys) | {"who": who}


def _person(world: World, who: int, store: Store, counted: bool = False) -> Domain:
    make = _portrait_folder if world.kind == "portraits" else _olivetti_folder
    version = data_version(world)
    inputs = _person_inputs(world, who)
    if counted and world.kind == "portraits":
        name, splits = person_name(who), _counted(world)
    else:
        folder = store.get("domain", version, inputs, lambda new: make(new, world, who))
        ((name, splits),) = read_folder(folder).items()
    return Domain(name, splits, digest([version, inputs]), world.instance, world.condition)


def _counted(world: World) -> dict[str, Photos]:
    """The splits of a person before any portrait is drawn: so many images each, and no files."""
    copies = {MEMBER: _copies(world), NONMEMBER: [1] * world.nonmembers} | dict.fromkeys(STYLES[1:], [1] * world.shifted)
    return {split: Photos((Path(),) * len(n), ("",) * len(n), tuple(n)) for split, n in copies.items()}


def _folder_domains(world: World, store: Store) -> list[Domain]:
    found = read_world(world)
    wanted = {name: found[name] for name in domain_names(world)}
    files = {
        name: {split: [file_digest(path) for path in photos.paths] for split, photos in splits.items()} for name, splits in wanted.items()
    }
    labels = {name: {split: [photos.captions, photos.copies] for split, photos in splits.items()} for name, splits in wanted.items()}
    content = digest([files, labels])
    check_splits(wanted, files, listed=bool(world.folder))
    # decoding every image once per content is enough
    store.get("folder_check", CHECK_VERSION, {"content": content}, lambda new: check_images(wanted))
    own = {
        name: digest([CHECK_VERSION, name, files[name], labels[name]]) for name in wanted
    }  # another domain's images do not void this one's results
    return [Domain(name, splits, own[name], world.instance, world.condition) for name, splits in wanted.items()]


def read_world(world: World) -> dict[str, dict[str, Photos]]:
    """{domain: {split: Photos}} of `world.folder` or `world.folders`."""
    return photos_of(_found(world)[0])


def _found(world: World) -> tuple[list[Found], list[tuple[Path, str]]]:
    """The images of `world.folder` or `world.folders`, and what lies in the latter and is not used, with the reason."""
    if world.folder:
        return in_folder(resolved(world.folder)), []
    return in_folders({split: resolved(folder) for split, folder in world.folders.items()}, world.subject)


def reading(world: World, private: str | None = None) -> Reading:
    """What was read of a world of kind folder: captions of the attacked domains by source, and everything that was left out.

    private: an image folder with a listing besides (blackbox.folder). A built-in world has nothing to say.
    """
    left_out, captions = [], {}
    if world.kind == "folder":
        (found, left_out), names = _found(world), domain_names(world)
        left_out = [*left_out, *(unlisted(resolved(world.folder), found) if world.folder else []), *_unattacked(found, names)]
        captions = caption_sources(one for one in found if one.domain in names)
    if private:
        found = in_folder(resolved(private), "blackbox.folder")
        left_out, captions = [*left_out, *unlisted(resolved(private), found)], captions | caption_sources(found)
    return Reading(tuple(left_out), captions)


def _unattacked(found: list[Found], names: list[str]) -> list[tuple[Path, str]]:
    """People whom world.domains leaves out."""
    others = {one.domain: one.path.parent for one in reversed(found) if one.domain not in names and one.split != PUBLIC}
    return [(folder, f"images of '{name}', whom world.domains leaves out") for name, folder in sorted(others.items())]


def check_used_captions(world: World, key: str) -> None:
    """Raises ParamsError unless the captions of the attacked domains of a world of kind folder can be used; key: of what uses them."""
    names = domain_names(world)
    check_own_captions([one for one in _found(world)[0] if one.domain in names], key)


def without_caption(world: World) -> dict[Path, str]:
    """{image: why its caption cannot be used, if it has one} of those of `world.folders` that have no caption of their own."""
    return {one.path: one.caption.problem for one in _found(world)[0] if not one.caption.text}


def known_names(world: World) -> list[str]:
    """Names of all people of a world, attacked or not."""
    if world.kind == "folder":
        return list(read_world(world))
    return [person_name(i) for i in range(world.people)]


def domain_names(world: World) -> list[str]:
    """Names of the attacked domains: the first N, or those listed. Raises ParamsError for a name the world lacks."""
    known = known_names(world)
    wanted = known[: world.domains] if isinstance(world.domains, int) else world.domains
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ParamsError(f"world.domains: unknown domain '{unknown[0]}'; known: {', '.join(known)}.")
    if world.folders and len(known) > len(wanted) and isinstance(world.domains, int):
        raise ParamsError(f"world.domains is {world.domains} but the folders hold {len(known)} domains; raise it, or list those you want.")
    if not wanted:
        raise ParamsError("world.domains is empty; name at least one domain or give their number.")
    return wanted


def _checked(world: World) -> None:
    if world.kind == "olivetti":
        if world.people > 40 or world.members + world.nonmembers > 10:
            raise ParamsError("world: Olivetti has 40 people of 10 photographs; lower people, or members + nonmembers to 10.")
        if world.shifted or world.duplicated:
            raise ParamsError("world: Olivetti has no shifted set and no duplicates; set shifted and duplicated to 0.")


def load_domains(world: World, store: Store, counted: bool = False) -> list[Domain]:
    """The attacked domains of a world, in order. counted: of one of portraits without any file, only as many as there will be."""
    _checked(world)
    if world.kind == "folder":
        return _folder_domains(world, store)
    everybody = known_names(world)
    return [_person(world, everybody.index(name), store, counted) for name in domain_names(world)]


def check_unchanged(world: World, domain: Domain, store: Store) -> None:
    """Raises ParamsError if images or captions of a folder's domain are no longer those that were indexed when the study began."""
    if world.kind == "folder":
        (now,) = _folder_domains(world.model_copy(update={"domains": [domain.name]}), store)
        if now.digest != domain.digest:
            raise ParamsError(
                f"world.folder: images or captions of '{domain.name}' changed while the study ran; run the same command again: what they"
                " concern is made anew."
            )


def everyone(world: World, store: Store, counted: bool = False) -> list[Domain]:
    """All people of a world, attacked or not (bystanders too): whose members are its training set. counted: as `load_domains`."""
    _checked(world)
    if world.kind == "folder":
        trained = [name for name, splits in read_world(world).items() if set(splits) != {PUBLIC}]
        return _folder_domains(world.model_copy(update={"domains": trained}), store)
    return [_person(world, who, store, counted) for who in range(world.people + world.bystanders)]


def training_photos(world: World, store: Store, people: int | None = None) -> dict[str, Photos]:
    """What the base model trains on: the members of all people (or the first few), and of bystanders, who are never attacked."""
    return {person.name: person.splits[MEMBER] for person in everyone(world, store)[:people]}


def public_photos(world: World, name: str, count: int, store: Store) -> Photos:
    """Real photographs of somebody that are in no split: portraits of the auxiliary stream; of a folder, its split `public`.

    The portraits are among those that VAE and CLIP train on; no UNet ever saw them. Raises ParamsError where there are too few.
    """
    if world.kind == "portraits":
        who = known_names(world).index(name)
        inputs = {"seed": world.seed, "who": who, "count": count}
        make = lambda new: _public_folder(new, world, who, count)  # noqa: E731
        ((_, splits),) = read_folder(store.get("public_photos", PORTRAITS_VERSION, inputs, make)).items()
        return splits[PUBLIC]
    if world.kind != "folder":
        raise ParamsError(f"Prior knowledge: the {world.kind} world has no public photographs; leave 'public' out.")
    known = read_world(world).get(name, {})
    if len(known.get(PUBLIC, ())) < count:
        raise ParamsError(
            f"Prior knowledge: '{name}' has {len(known.get(PUBLIC, ()))} public photographs and {count} are asked for; add images of split"
            f" '{PUBLIC}' to world.folder, or lower finetune.public_images and priors.public_images."
        )
    return known[PUBLIC][:count]


def _public_folder(folder: Path, world: World, who: int, count: int) -> None:
    rows, images = [], []
    for i in range(count):
        pixels, caption = portrait(world.seed, who, "auxiliary", _AUXILIARY_OFFSET + 6 * i + 1)  # of the members' style
        rows.append({"file_name": f"{i:04d}.png", "text": caption, "domain": person_name(who), "split": PUBLIC})
        images.append(Image.fromarray(pixels))
    write_folder(folder, rows, images)


def private_pool(world: World, count: int, store: Store, folder: str | None = None) -> Photos:
    """`count` photographs that the base model never saw, to be dealt into fine-tuning sets.

    Portraits: of a stream of their own, people in turn; Olivetti and folders: the iid non-members. folder: an image folder to take
    them from instead. Of files with the same content one is taken, of those with the content of a training image of this world none.
    Raises ParamsError where there are too few.
    """
    if world.kind == "portraits" and not folder:
        inputs = {"seed": world.seed, "people": world.people, "count": count}
        make = lambda new: _private_folder(new, world, count)  # noqa: E731
        ((_, splits),) = read_folder(store.get("private_pool", PORTRAITS_VERSION, inputs, make)).items()
        return splits["private"]
    if folder:
        given = read_folder(resolved(folder), "blackbox.folder")
        check_images(given)
        found = [photos for splits in given.values() for photos in splits.values()]
    else:
        found = [person.splits[NONMEMBER] for person in everyone(world, store)]
    photos = Photos.join(found)
    first = {file_digest(path): i for i, path in reversed(list(enumerate(photos.paths)))}
    trained = {file_digest(path) for some in training_photos(world, store).values() for path in some.paths}
    chosen = {i for content, i in first.items() if content not in trained}
    photos = photos.where(i in chosen for i in range(len(photos)))
    if len(photos) < count:
        raise ParamsError(
            f"blackbox: {count} different photographs are needed that the base model never saw and {len(photos)} are there; lower"
            " blackbox.members, or set blackbox.folder to an image folder with more."
        )
    order = np.random.default_rng([world.seed, count]).permutation(len(photos))[:count]
    return Photos(*(tuple(column[i] for i in order) for column in (photos.paths, photos.captions, photos.copies)))


def _private_folder(folder: Path, world: World, count: int) -> None:
    rows, images = [], []
    for i in range(count):
        pixels, caption = portrait(world.seed, i % world.people, "private", i)
        rows.append({"file_name": f"{i:04d}.png", "text": caption, "domain": "everybody", "split": "private"})
        images.append(Image.fromarray(pixels))
    write_folder(folder, rows, images)


def auxiliary_captions(world: World, per_person: int, store: Store) -> list[str]:
    """The captions of `auxiliary_images`, of portraits without drawing them."""
    if world.kind != "portraits":
        return auxiliary_images(world, per_person, store)[1]
    return [caption(world.seed, *each) for each in _auxiliary(world, per_person)]


def _auxiliary(world: World, per_person: int) -> Iterator[tuple[int, str, int]]:
    """(who, stream, index) of every auxiliary portrait."""
    for who in range(world.people + world.bystanders):
        for i in range(per_person):
            yield who, _auxiliary_stream(i), _AUXILIARY_OFFSET + i


def auxiliary_images(world: World, per_person: int, store: Store) -> tuple[np.ndarray, list[str]]:
    """What VAE and CLIP train on: (pixels [n, 64, 64, 3] uint8, captions).

    Portraits: images of their own stream, in no split, a sixth of them in each shifted style. Olivetti: the members
    (ten photographs a person leave no others), which the trainers augment.
    """
    if world.kind == "olivetti":
        members = training_photos(world, store).values()
        pixels = torch.cat([photos.pixels(64) for photos in members]).permute(0, 2, 3, 1)
        captions = [text for photos in members for text in photos.captions]
        return (pixels.numpy() * 255).round().astype(np.uint8), captions
    drawn = [portrait(world.seed, *each) for each in _auxiliary(world, per_person)]
    return np.stack([pixels for pixels, _ in drawn]), [text for _, text in drawn]


_AUXILIARY_OFFSET = 1_000_000  # far from every index that a split uses


def _auxiliary_stream(i: int) -> str:
    return {0: "studio", 3: "street"}.get(i % 6, "auxiliary")
