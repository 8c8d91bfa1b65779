"""Stage 4 of a study: what its models generate, and which training images that comes close to."""

from functools import cached_property
from pathlib import Path

import pandas as pd

from s2llib.data.domain import MEMBER, NONMEMBER, Domain, Photos
from s2llib.data.worlds import check_unchanged, domain_names, everyone, known_names
from s2llib.finetune.methods import METHODS, PRETRAINED
from s2llib.params import ParamsError
from s2llib.progress import track
from s2llib.scale import precompute
from s2llib.store import number

__all__ = ["ExtractionStage", "crowd_column"]

EXTRACTION_VERSION = 1
CROWD_VERSION = 1
OPTIONS_VERSION = 1
SIDES = (MEMBER, NONMEMBER)


def crowd_column(delta: float) -> str:
    """The column of `Study.extraction` with the number of training images within delta."""
    return f"crowd_{delta:g}"


class ExtractionStage:
    """What `Study` knows about data extraction."""

    def check_extraction(self) -> None:
        """Refuse what cannot run: raises ParamsError."""
        from s2llib.models.base import image_edge

        p = self.params.extraction
        bases = [self.params, *([self.params.changed(self.memorising_overrides())] if p.base else [])]
        for edge in map(image_edge, bases):
            for key, tiles in p.model_dump(include={"tiles", "other_tiles"}).items():
                if edge % tiles:
                    raise ParamsError(
                        f"extraction.{key} is {tiles} but images of {edge} x {edge} pixels cannot be cut into {tiles} x {tiles} tiles; set"
                        " it to a divisor."
                    )

    def generations(self, domain: Domain, method: str = PRETRAINED, seed: int | None = None) -> Photos:
        """What a model of the grid generates, to find photographs in: the same prompts and noise for every model.

        extraction.prompts `sp`: SP prompts; `captions`: the caption of every member and of every iid non-member, `draws` times, so
        that the two are looked for in the same images. Textual Inversion's token stands for the instance prompt as a whole: where an
        SP prompt lacks that, its models are asked for the instance prompt itself.
        """
        from s2llib.generate import draw_prompts

        p, seed = self.params.extraction, self._which(method, seed)
        if p.prompts == "captions":
            prompts = [text for split in SIDES for text in domain.splits[split].captions] * p.draws
        else:
            prompts = draw_prompts(domain.name, p.images, self.params.sp, number(f"extraction/{domain.name}") + self.params.seed)
            if method != PRETRAINED and "tokens" in METHODS[method].trains:
                prompts = [text if domain.instance_prompt in text else domain.instance_prompt for text in prompts]
        return self._drawn(domain, method, seed, prompts, "extraction", p.guidance)

    def extraction(self, methods: list[str] | None = None, domains: list[Domain] | None = None) -> pd.DataFrame:
        """Each member's and each iid non-member's distance to what the models of its domain generate.

        Columns: domain, method, seed, split, image, copies, generated (how many), distance, nearest (generated image), matches
        (generated images whose nearest of the split it is and that lie within extraction.delta), crowd_D (training images
        within D of it, for every D of extraction.deltas; of a non-member: non-members within D of it).
        """
        cells = list(self.cells(methods, domains))
        precompute(self, "extracted", cells)
        return pd.concat([self.extracted(*cell) for cell in track(cells, "extraction")], ignore_index=True)

    def _extraction_inputs(self, domain: Domain, method: str, seed: int) -> dict:
        from s2llib.generate import SAMPLES_VERSION

        p = self.params
        drawn = p.extraction.model_dump(include={"prompts", "images", "draws", "tiles", "delta"})
        inputs = {
            "sampling": p.sp.model_dump(),
            "seed": p.seed,
            "domain": domain.digest,
            "device": self._machine("precision"),
            "samples": SAMPLES_VERSION,
        }
        inputs |= {} if p.extraction.guidance is None else {"guidance": p.extraction.guidance}
        return self._model_inputs(domain, method, seed) | inputs | drawn

    def extracted(self, domain: Domain, method: str, seed: int | None = None) -> pd.DataFrame:
        """One cell of `extraction`; seed: the first."""
        seed = self._which(method, seed)
        inputs = self._extraction_inputs(domain, method, seed)
        make = lambda new: self._extract(domain, method, seed, new)  # noqa: E731
        table = pd.read_parquet(self.store.get("extraction", EXTRACTION_VERSION, inputs, make) / "extraction.parquet")
        table = table.merge(self._crowds(domain, self.params.extraction.tiles), on=["split", "image"], validate="one_to_one")
        return table.assign(domain=domain.name, method=method, seed=seed)

    def _extract(self, domain: Domain, method: str, seed: int, new: Path) -> None:
        from s2llib.attacks.extraction import both_ways

        p, generated, tables = self.params.extraction, self.generations(domain, method, seed), []
        check_unchanged(self.params.world, domain, self.store)
        for split in SIDES:
            photos = domain.splits[split]
            (distance, which), (back, whose) = both_ways(photos, generated, self.image_size, p.tiles, self._device)
            row = {"split": split, "image": range(len(photos)), "copies": photos.copies, "generated": len(generated)}
            matches = whose[back <= p.delta].bincount(minlength=len(photos))
            tables.append(pd.DataFrame(row | {"distance": distance, "nearest": which, "matches": matches}))
        pd.concat(tables, ignore_index=True).to_parquet(new / "extraction.parquet")

    @cached_property
    def everyone(self) -> list[Domain]:
        """The people whose members the base model was trained on, attacked or not."""
        return everyone(self.params.world, self.store)[: self.params.base.unet.people]

    @cached_property
    def memorising(self) -> "ExtractionStage":
        """The study of the base model whose images are extracted (extraction.base); this one, if the profile names none."""
        p = self.params.extraction
        return self.variant(self.memorising_overrides()) if p.base else self

    def memorising_overrides(self) -> dict:
        """What the study of extraction.base has otherwise; raises ParamsError if that base knows none of the domains."""
        from s2llib.study import other_base

        p, world = self.params.extraction, self.params.world
        names = [name for name in domain_names(world) if name in known_names(world)[: p.people]]
        if not names:
            raise ParamsError(
                f"extraction.people: {p.base} was trained on the first {p.people} people, none of whom is in world.domains; add one, or"
                " set extraction.base=null."
            )
        return other_base(p.base) | {
            "extraction.base": None,
            "base.unet.people": p.people,
            "world.domains": names[: p.domains],
            "finetune.seeds": self.params.finetune.seeds[:1],  # what varies most are the people, and there are few
        }

    def _crowds(self, domain: Domain, tiles: int) -> pd.DataFrame:
        """Columns split, image, crowd_D for every D of extraction.deltas; the same for every model."""
        deltas, training = self.params.extraction.deltas, [person.digest for person in self.everyone]
        inputs = {"domain": domain.digest, "training": training, "size": self.image_size, "deltas": deltas, "tiles": tiles}
        make = lambda new: self._crowd(domain, tiles, new)  # noqa: E731
        return pd.read_parquet(self.store.get("crowd", CROWD_VERSION, inputs, make) / "crowd.parquet")

    def _crowd(self, domain: Domain, tiles: int, new: Path) -> None:
        from s2llib.attacks.extraction import crowd

        p, tables = self.params.extraction, []
        for person in self.everyone:
            check_unchanged(self.params.world, person, self.store)
        for split in SIDES:
            world = Photos.join(person.splits[split] for person in self.everyone)
            counts = crowd(domain.splits[split], world, self.image_size, p.deltas, tiles, self._device).numpy()
            row = {"split": split, "image": range(counts.shape[1])}
            tables.append(pd.DataFrame(row | dict(zip(map(crowd_column, p.deltas), counts, strict=True))))
        pd.concat(tables, ignore_index=True).to_parquet(new / "crowd.parquet")

    def extraction_options(self, method: str) -> pd.DataFrame:
        """Distances under other ways to look for a match, of the pre-trained model and one method, on the first few domains.

        Columns: option, domain, method, seed, split, image, copies, distance, generated, crowd_D.
        """
        domains = self.domains[: self.params.extraction.option_domains]
        cells = list(self.cells([PRETRAINED, method], domains))
        return pd.concat([self._options(*cell) for cell in track(cells, "extraction, other ways")], ignore_index=True)

    def _options(self, domain: Domain, method: str, seed: int) -> pd.DataFrame:
        p = self.params.extraction
        inputs = self._extraction_inputs(domain, method, seed) | p.model_dump(include={"candidates", "clique", "other_tiles"})
        inputs |= {"clip": (self.base_folder / "clip").is_dir()}
        make = lambda new: self._look(domain, method, seed, new)  # noqa: E731
        table = pd.read_parquet(self.store.get("extraction_options", OPTIONS_VERSION, inputs, make) / "options.parquet")
        parts = [
            part.merge(self._crowds(domain, tiles), on=["split", "image"], validate="many_to_one") for tiles, part in table.groupby("tiles")
        ]
        return pd.concat(parts, ignore_index=True).assign(domain=domain.name, method=method, seed=seed)

    def _look(self, domain: Domain, method: str, seed: int, new: Path) -> None:
        from s2llib.attacks.extraction import agreeing, candidates, nearest, nearest_aligned
        from s2llib.metrics.clip import image_features

        p, size, generated, tables = self.params.extraction, self.image_size, self.generations(domain, method, seed), []
        search = {"size": size, "device": self._device}
        agree = generated.where(agreeing(generated, delta=p.delta, clique=p.clique, tiles=p.tiles, **search).tolist())
        for split in SIDES:
            photos = domain.splits[split]
            found = {
                ("every pair", p.tiles): nearest(photos, generated, tiles=p.tiles, **search)[0],
                (f"{p.other_tiles} x {p.other_tiles} tiles", p.other_tiles): nearest(photos, generated, tiles=p.other_tiles, **search)[0],
                (f"cliques of {p.clique}", p.tiles): nearest(photos, agree, tiles=p.tiles, **search)[0],
            }
            if (self.base_folder / "clip").is_dir():
                x, y = photos.pixels(size), generated.pixels(size)
                which = candidates(*(image_features(self.base_folder, pixels) for pixels in (x, y)), p.candidates)
                found[f"{p.candidates} candidates by CLIP", 1] = (x[:, None] - y[which]).square().mean((2, 3, 4)).sqrt().amin(1).double()
                found[f"{p.candidates} candidates by CLIP, SIFT-aligned", 1] = nearest_aligned(x, y, which)
            for (option, tiles), distance in found.items():
                row = {"option": option, "tiles": tiles, "split": split, "image": range(len(photos)), "copies": photos.copies}
                tables.append(pd.DataFrame(row | {"distance": distance, "generated": len(generated)}))
        pd.concat(tables, ignore_index=True).to_parquet(new / "options.parquet")
