import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.transform import SimilarityTransform, resize, warp

from s2llib import Study
from s2llib.attacks import extraction
from s2llib.attacks.extraction import agreeing, aligned, candidates, crowd, eidetic, nearest, nearest_aligned, rms
from s2llib.data.domain import Photos
from s2llib.params import ParamsError, load_params
from s2llib.report.extraction import copies_table, curves_table, extraction_table, verdict

SIZE = 16


def photos(folder, images, copies=None):
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    paths = tuple(folder / f"{i}.png" for i in range(len(images)))
    return Photos(paths, ("",) * len(images), tuple(copies or [1] * len(images)))


def noise(rng, count):
    return rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def shifted(image, distance):
    """A copy of a grey image at (nearly) this RMS distance: some of its pixels differ by 100 of 255."""
    flat = image.reshape(-1).copy()
    flat[: round(flat.size * (distance * 255 / 100) ** 2)] += 100
    return flat.reshape(image.shape)


def brute_force(generated, training, copies, k, delta):
    """Definition 2, one pair at a time, in float64."""
    rms = lambda a, b: np.sqrt(np.mean((a / 255.0 - b / 255.0) ** 2))  # noqa: E731
    found = []
    for x in training:
        twins = sum(n for y, n in zip(training, copies, strict=True) if rms(x, y) <= delta)
        found.append(any(rms(g, x) <= delta for g in generated) and twins <= k)
    return found


def ours(generated, training, k, delta, tiles=1):
    distance, _ = nearest(training, generated, SIZE, tiles)
    return eidetic(distance, crowd(training, training, SIZE, [delta], tiles)[0], k, delta).tolist()


@pytest.mark.parametrize("k", [1, 2, 5, 10])
@pytest.mark.parametrize("block", [2**28, 4 * 8 * 3 * SIZE * SIZE])
def test_extraction_equals_a_brute_force_count(k, block, tmp_path, monkeypatch):
    """Duplicates, near-duplicates at delta plus and minus 1 %, twins, copies and strangers, in blocks of many and of four."""
    monkeypatch.setattr(extraction, "BLOCK", block)
    rng, delta = np.random.default_rng(0), 0.1
    greys = [np.full((SIZE, SIZE, 3), 5 * i, np.uint8) for i in range(4)]
    strangers = noise(rng, 5)
    training = np.stack([*strangers, greys[0], *([greys[3]] * 3), shifted(strangers[4] // 2, 0.05)])
    copies = [1, 1, 4, 1, 1, 1, 1, 1, 1, 12]
    generated = np.stack([strangers[0], strangers[2], shifted(greys[0], 0.099), training[9], noise(rng, 1)[0]])
    saved = photos(tmp_path / "g", generated), photos(tmp_path / "t", training, copies)
    expected = brute_force(generated, training, copies, k, delta)
    assert ours(*saved, k, delta) == expected
    assert any(expected)
    assert not all(expected)


@pytest.mark.parametrize(("factor", "inside"), [(0.99, True), (1.01, False)])
def test_one_percent_decides(factor, inside, tmp_path):
    grey = np.full((SIZE, SIZE, 3), 50, np.uint8)
    near = shifted(grey, 0.1 * factor)
    assert brute_force([near], [grey], [1], 10, 0.1) == [inside]
    assert ours(photos(tmp_path / "g", [near]), photos(tmp_path / "t", [grey]), 10, 0.1) == [inside]


def test_an_image_with_more_than_k_twins_is_not_eidetic(tmp_path):
    grey = np.full((SIZE, SIZE, 3), 50, np.uint8)
    generated = photos(tmp_path / "g", [grey])
    assert ours(generated, photos(tmp_path / "a", [grey] * 3), 3, 0.1) == [True] * 3
    assert ours(generated, photos(tmp_path / "a", [grey] * 3), 2, 0.1) == [False] * 3
    assert ours(generated, photos(tmp_path / "b", [grey], [11]), 10, 0.1) == [False]


def test_nothing_near_is_an_empty_result(tmp_path):
    rng = np.random.default_rng(1)
    generated, training = photos(tmp_path / "g", noise(rng, 3)), photos(tmp_path / "t", noise(rng, 6))
    assert ours(generated, training, 10, 0.1) == [False] * 6
    assert nearest(training, generated[:0], SIZE)[0].tolist() == [float("inf")] * 6


def test_tiles_take_the_worst_part_of_an_image(tmp_path):
    """Equal but for one quarter that differs by 51 of 255: 0.1 over the image, 0.2 in that tile."""
    plain = np.full((SIZE, SIZE, 3), 50, np.uint8)
    other = plain.copy()
    other[: SIZE // 2, SIZE // 2 :] += 51
    a, b = photos(tmp_path / "a", [plain]), photos(tmp_path / "b", [other])
    assert nearest(a, b, SIZE)[0].item() == pytest.approx(0.1, abs=1e-12)
    assert nearest(a, b, SIZE, tiles=2)[0].item() == pytest.approx(0.2, abs=1e-12)


def test_the_nearest_is_the_nearest_in_any_block(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK", 3 * 8 * 3 * SIZE * SIZE)
    rng = np.random.default_rng(2)
    a, b = noise(rng, 7), noise(rng, 10)
    distance, which = nearest(photos(tmp_path / "a", a), photos(tmp_path / "b", b), SIZE)
    full = np.sqrt(((a[:, None] / 255.0 - b[None] / 255.0) ** 2).mean((2, 3, 4)))
    np.testing.assert_allclose(distance.numpy(), full.min(1), rtol=1e-12)
    assert which.tolist() == full.argmin(1).tolist()


def test_generations_that_agree_are_those_in_a_clique(tmp_path):
    """Against every subset of the size asked for, tried one by one."""
    rng = np.random.default_rng(3)
    grey = np.full((SIZE, SIZE, 3), 60, np.uint8)
    images = [shifted(grey, d) for d in (0, 0.02, 0.04, 0.06, 0.2, 0.22)] + list(noise(rng, 3))
    kept = agreeing(photos(tmp_path / "g", images), SIZE, delta=0.07, clique=3).tolist()
    close = lambda i, j: np.sqrt(np.mean((images[i] / 255.0 - images[j] / 255.0) ** 2)) <= 0.07  # noqa: E731
    expected = set()
    for some in itertools.combinations(range(len(images)), 3):
        if all(close(i, j) for i, j in itertools.combinations(some, 2)):
            expected |= set(some)
    assert {i for i, keep in enumerate(kept) if keep} == expected
    assert 0 < len(expected) < len(images)


def test_images_that_do_not_divide_into_tiles_are_refused(tmp_path):
    one = photos(tmp_path / "a", noise(np.random.default_rng(0), 1))
    with pytest.raises(ParamsError, match=r"16 x 16 pixels cannot be cut into 3 x 3 tiles; set extraction.tiles to a divisor"):
        nearest(one, one, SIZE, tiles=3)


class Many:
    """Random images that are drawn when they are read."""

    def __init__(self, count):
        self.count, self.copies = count, (1,) * count

    def __len__(self):
        return self.count

    def __getitem__(self, which):
        return Many(len(range(self.count)[which]))

    def batches(self, size, batch):
        for start in range(0, self.count, batch):
            yield torch.rand(min(batch, self.count - start), 3, size, size)


@pytest.mark.parametrize("tiles", [1, 4])
@pytest.mark.parametrize("sizes", [(300, 40), (40, 300)])
def test_no_tensor_of_the_search_is_larger_than_its_bound(sizes, tiles, monkeypatch):
    """Every tensor that any operation of torch makes, but for one value per image."""
    block, held = 2**17, 2**16
    monkeypatch.setattr(extraction, "BLOCK", block)
    monkeypatch.setattr(extraction, "HELD", held)
    made = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            made.extend(x.numel() * x.element_size() for x in [result] if isinstance(x, torch.Tensor))
            return result

    with Watch():
        nearest(Many(sizes[0]), Many(sizes[1]), SIZE, tiles)
        crowd(Many(sizes[0]), Many(sizes[1]), SIZE, [0.1, 0.2], tiles)
    assert sizes[0] * sizes[1] * 8 * tiles**2 > block / 2, "all pairs at once would be too large, or nearly"
    assert max(made) <= block


def test_images_of_different_size_are_not_compared():
    with pytest.raises(ValueError, match="images of 12 and of 48 values cannot be compared; bring them to one size"):
        rms(torch.zeros(1, 1, 12, dtype=torch.uint8), torch.zeros(1, 1, 48, dtype=torch.uint8))


def test_a_moved_picture_is_aligned_onto_its_original():
    """A photograph of scikit-image, turned by 8 degrees and shrunk: aligned again, it is closer by far; a blank one is left alone."""
    original = resize(data.astronaut()[:256, 96:352] / 255.0, (128, 128), anti_aliasing=True)
    moved = warp(original, SimilarityTransform(scale=1.1, rotation=0.14, translation=(4, -9)), mode="edge")
    distance = lambda x: np.sqrt(np.mean((x[16:-16, 16:-16] - original[16:-16, 16:-16]) ** 2))  # noqa: E731
    assert distance(aligned(moved, original)) < 0.35 * distance(moved)
    blank = np.full((64, 64, 3), 0.5)
    assert aligned(blank, blank) is blank
    pixels = lambda x: torch.from_numpy(x).permute(2, 0, 1)[None]  # noqa: E731
    found = nearest_aligned(pixels(original), pixels(moved), torch.tensor([[0]])).item()
    assert found <= np.sqrt(np.mean((moved - original) ** 2))


def test_candidates_are_the_most_similar_by_cosine():
    photos, generated = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0], [9.0, 1.0], [0.5, 0.4]])
    assert candidates(photos, generated, 2).tolist() == [[1, 2]]
    assert candidates(photos, generated, 9).shape == (1, 3)


def found(hits):
    """Study.extraction's columns for {(domain, method): (member distances, non-member distances)}, no crowds."""
    rows = []
    for (domain, method), sides in hits.items():
        for split, distances in zip(("member", "nonmember"), sides, strict=True):
            for i, distance in enumerate(distances):
                row = {"domain": domain, "method": method, "seed": 0, "split": split, "image": i, "copies": 1 + 7 * (i == 0)}
                more = {"distance": distance, "nearest": 0, "generated": 8, "matches": int(distance <= 0.1), "crowd_0.1": 1, "crowd_0.2": 1}
                rows.append(row | more)
    return pd.DataFrame(rows)


def test_the_table_counts_distinct_images_and_scales_false_alarms():
    params = load_params("tiny", {"extraction.deltas": [0.1, 0.2], "extraction.ks": [1, 10]})
    hits = {
        ("a", "pretrained"): ([0.05, 0.3, 0.3, 0.3], [0.3, 0.3]),
        ("b", "pretrained"): ([0.3, 0.3, 0.3, 0.3], [0.09, 0.3]),
        ("a", "lora"): ([0.05, 0.1, 0.3, 0.3], [0.3, 0.3]),
        ("b", "lora"): ([0.08, 0.3, 0.3, 0.11], [0.3, 0.3]),
    }
    table = extraction_table(found(hits), params).set_index(["method", "metric"])
    assert table.loc[("pretrained", "DE"), "value"] == 0.5
    assert table.loc[("pretrained", "false alarms"), "value"] == 1.0  # 1 of 2 non-members in one of two domains, for 4 members
    assert table.loc[("lora", "DE"), "value"] == 1.5
    assert table.loc[("lora", "DE"), "delta"] == 1.0
    assert table.loc[("lora", "beyond chance"), "value"] == 1.5
    assert table.loc[("lora", "beyond chance"), "delta"] == 2.0
    assert table.loc[("lora", "precision (%)"), "value"] == pytest.approx(100 * (2 / 8 + 1 / 8) / 2)
    assert table.loc[("best: lora", "DE"), "paper"] == 15.8
    copies = copies_table(found(hits), params).set_index(["copies", "method"])["value"]
    assert copies[8, "pretrained"] == 50
    assert copies[1, "lora"] == pytest.approx(100 / 6)
    assert copies[0, "pretrained"] == 25
    curves = curves_table(found(hits), params).set_index(["axis", "x", "method", "metric"])["value"]
    assert curves["delta", 0.2, "lora", "DE"] == 2.0
    assert curves["k", 10, "lora", "DE"] == 1.5
    assert curves["k", 1, "pretrained", "false alarms"] == 1.0


def test_captions_of_both_splits_are_drawn_equally_often_into_one_pool(study):
    variant = study.variant({"extraction.prompts": "captions", "extraction.draws": 2})
    domain = study.domains[0]
    prompts = variant.generations(domain).captions
    captions = [*domain.splits["member"].captions, *domain.nonmembers.captions]
    assert sorted(prompts) == sorted(2 * captions)
    table = variant.extracted(domain, "pretrained")
    assert set(table["generated"]) == {len(prompts)}


def test_every_pair_is_what_the_table_counts_and_each_filter_finds_no_more(study):
    options, table = study.extraction_options("lora"), study.extracted(study.domains[0], "lora")
    part = options[(options["method"] == "lora") & (options["domain"] == study.domains[0].name)]
    found = {option: some.sort_values(["split", "image"])["distance"].to_numpy() for option, some in part.groupby("option")}
    every = found.pop("every pair")
    np.testing.assert_array_equal(every, table.sort_values(["split", "image"])["distance"])
    aligned = found.pop("2 candidates by CLIP, SIFT-aligned")
    assert (aligned <= found["2 candidates by CLIP"] + 1e-6).all(), "an alignment that does not help is not used"
    assert all((distance >= every - 1e-6).all() for distance in found.values())
    assert set(found) == {"2 candidates by CLIP", "4 x 4 tiles", "cliques of 2"}


def test_extraction_may_attack_another_base_model_of_the_same_world(tmp_path):
    small = {"base.unet.people": 2, "base.unet.epochs": 2}
    other = Study.from_profile("tiny", small)
    folder = other.base_folder
    study = Study.from_profile("tiny", {"extraction.base": str(folder), "extraction.people": 2, "extraction.domains": 1})
    assert [domain.name for domain in study.memorising.domains] == ["ada abeck"]
    assert [person.name for person in study.memorising.everyone] == ["ada abeck", "arvo borg"]
    assert study.memorising.base_folder == folder
    assert study.memorising.domains[0].digest == study.domains[0].digest
    with pytest.raises(ParamsError, match=r"extraction.base: base.unet.people .* is 4 but .* was trained on 2 people; set it to that"):
        Study.from_profile("tiny", {"extraction.base": str(folder), "extraction.people": 4})


def test_the_verdict_follows_the_interval_of_what_is_beyond_chance():
    row = {"method": "lora", "domains": 3, "delta": 1.0, "delta_low": 0.5, "delta_high": 1.5}
    values = {"DE": (3, 2, 4), "false alarms": (1, 0, 3), "beyond chance": (2, 0.1, 4)}
    table = pd.DataFrame([row | {"metric": m, "value": v, "low": low, "high": high} for m, (v, low, high) in values.items()])
    assert verdict(table) == (
        "- **LoRA** (3 domains): 3.00 [2.00, 4.00] images a domain, more than the false alarms (1.00 [0.00, 3.00]); what is beyond chance"
        " rises against the pre-trained model (+1.00 [+0.50, +1.50])."
    )


def test_every_model_draws_with_the_same_noise_and_members_are_compared_with_its_images(study):
    table = study.extraction(["pretrained", "lora"])
    domain = study.domains[0]
    part = table[(table["domain"] == domain.name) & (table["method"] == "lora") & (table["split"] == "member")]
    assert part["copies"].tolist() == list(domain.splits["member"].copies)
    generated = np.stack([np.asarray(Image.open(path)) for path in study.generations(domain, "lora").paths]) / 255.0
    member = np.asarray(Image.open(domain.splits["member"].paths[3])) / 255.0
    assert part["distance"].iloc[3] == pytest.approx(np.sqrt(((generated - member) ** 2).mean((1, 2, 3))).min(), rel=1e-9)
    assert study.generations(domain).captions == study.generations(domain, "lora").captions
