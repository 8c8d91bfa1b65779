import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats
from skimage import data
from skimage.transform import SimilarityTransform, resize, warp

from s2llib import Lab
from s2llib.attacks import extraction as search
from s2llib.attacks.extraction import agreeing, aligned, candidates, crowd, eidetic, nearest, nearest_aligned, rms
from s2llib.compute.images import photos as drawn
from s2llib.compute.models import folder
from s2llib.data.domain import Photos
from s2llib.params import ParamsError, load_params
from s2llib.report.extraction import copies_table, curves_table, extraction_note, extraction_table, options_table, verdict
from s2llib.studies.extraction import extracted, memorising, options
from s2llib.studies.plan import generations, tuned

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
    monkeypatch.setattr(search, "BLOCK", block)
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
    monkeypatch.setattr(search, "BLOCK", 3 * 8 * 3 * SIZE * SIZE)
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
    monkeypatch.setattr(search, "BLOCK", block)
    monkeypatch.setattr(search, "HELD", held)
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
    """The columns of `extracted` for {(domain, method): (member distances, non-member distances)}, no crowds."""
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


def hits(members, nonmembers, domains, method="pretrained", seed=0):
    """Every domain has 4 members and 4 non-members, as many hits each as stated."""
    side = lambda n: [0.05] * n + [0.3] * (4 - n)  # noqa: E731
    pairs = zip(members, nonmembers, strict=True)
    return found({(name, method): (side(m), side(n)) for name, (m, n) in zip(domains, pairs, strict=True)}).assign(seed=seed)


def test_intervals_are_t_over_people_and_paired():
    params, names = load_params("tiny"), "abcde"
    before, after, alarms = [0, 1, 1, 2, 0], [1, 3, 2, 4, 1], [0, 0, 1, 0, 0]
    table = extraction_table(pd.concat([hits(before, alarms, names), hits(after, alarms, names, "lora")]), params)
    rows = table.set_index(["method", "metric"])
    for metric, column, values in (
        ("DE", "delta", np.subtract(after, before)),
        ("DE", "delta_chance", np.subtract(after, alarms)),
        ("beyond chance", "value", np.subtract(after, alarms)),
    ):
        row, (low, high) = rows.loc[("lora", metric)], stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
        ends = ("low", "high") if column == "value" else (f"{column}_low", f"{column}_high")
        assert row[[column, *ends]].tolist() == pytest.approx([np.mean(values), low, high])
    assert rows.loc[("lora", "DE"), "p"] == pytest.approx(stats.ttest_1samp(np.subtract(after, before), 0).pvalue)
    assert rows.loc[("lora", "DE"), "p_chance"] == pytest.approx(stats.ttest_1samp(np.subtract(after, alarms), 0).pvalue)
    assert rows.loc[("lora", "DE"), "interval"] == "t over 5 domains, one training"


def test_seeds_of_a_method_are_trainings_of_their_domain():
    params, names = load_params("tiny"), "abcde"
    parts = [hits([0, 1, 1, 2, 0], [0] * 5, names), hits([1, 3, 2, 4, 1], [0] * 5, names, "lora")]
    parts.append(hits([2, 2, 2, 3, 1], [0] * 5, names, "lora", seed=1))
    row = extraction_table(pd.concat(parts), params).set_index(["method", "metric"]).loc[("lora", "DE")]
    assert (row["value"], row["delta"], row["seeds"]) == (2.1, pytest.approx(1.3), "2")
    assert row["interval"].startswith("t over 5 domains and 2 trainings")


@pytest.mark.parametrize(("domains", "high"), [("abcdefghij", -np.log(0.05) / 10), ("a", -np.log(0.05))])
def test_where_every_count_is_0_the_interval_is_that_of_the_rule_of_three(domains, high):
    """At most 0.3 images a domain after 10 domains without one, at most 3 in a domain whose images all are none."""
    nothing = [0] * len(domains)
    frame = pd.concat([hits(nothing, nothing, domains), hits(nothing, nothing, domains, "lora")])
    table = extraction_table(frame, load_params("tiny")).set_index(["method", "metric"])
    assert table.loc[("lora", "DE"), ["value", "low", "high"]].tolist() == pytest.approx([0, 0, high])
    assert table.loc[("lora", "precision (%)"), "high"] == pytest.approx(high * 100 / 8)
    two_sided = high * np.log(0.025) / np.log(0.05)
    assert table.loc[("lora", "DE"), ["delta_low", "delta_high"]].tolist() == pytest.approx([-two_sided, two_sided])
    assert table.loc[("lora", "DE"), ["delta", "p"]].tolist() == [0, 1]
    assert table.loc[("lora", "DE"), "interval"].startswith("rule of three over")


def test_with_one_domain_the_interval_is_over_its_images():
    frame = pd.concat([hits([1], [0], "a"), hits([3], [0], "a", "lora")])
    row = extraction_table(frame, load_params("tiny")).set_index(["method", "metric"]).loc[("lora", "DE")]
    changed = 4 * np.array([0, 1, 1, 0])  # the first member is a hit before and after
    reach = stats.norm.ppf(0.975) * stats.sem(changed)
    assert row[["delta", "delta_low", "delta_high"]].tolist() == pytest.approx([2, 2 - reach, 2 + reach])
    assert row["interval"] == "normal over images of one domain"
    assert 0 < row["low"] < 3 < row["high"] < 4


def test_the_note_says_with_how_many_images_and_what_could_have_been_seen():
    params = load_params("tiny")
    frame = pd.concat([hits([0, 1, 1, 2, 0], [0] * 5, "abcde"), hits([1, 3, 2, 4, 1], [0] * 5, "abcde", "lora")])
    table = extraction_table(frame, params)
    note = extraction_note(params.extraction, table)
    assert "some of 8 generated images (SP prompts) matches within RMS distance 0.1" in note
    smallest = table.set_index(["method", "metric"]).loc[("lora", "DE"), "smallest_visible"]
    assert "DE: p adjusted by Holm (5 domains are too few for sign flips), 1 change. Smallest change that could have been shown" in note
    assert f"(80 % power): {smallest:.3f}." in note
    assert note.endswith("15.8 after with the best method.")
    assert "Shake-to-Leak" not in extraction_note(params.extraction, table, paper=False)


def test_captions_of_both_splits_are_drawn_equally_often_into_one_pool(lab):
    variant, domain = lab.at({"extraction.prompts": "captions", "extraction.draws": 2}), lab.domains[0]
    prompts = generations(variant, domain, lab.base).prompts
    captions = [*domain.splits["member"].captions, *domain.nonmembers.captions]
    assert sorted(prompts) == sorted(2 * captions)
    table = extracted(variant, ["pretrained"], [domain])
    assert set(table["generated"]) == {len(prompts)}


def test_every_pair_is_what_the_table_counts_and_each_filter_finds_no_more(lab):
    tried, table = options(lab, "lora"), extracted(lab, ["lora"], lab.domains[:1])
    part = tried[(tried["method"] == "lora") & (tried["domain"] == lab.domains[0].name)]
    found = {option: some.sort_values(["split", "image"])["distance"].to_numpy() for option, some in part.groupby("option")}
    every = found.pop("every pair")
    np.testing.assert_array_equal(every, table.sort_values(["split", "image"])["distance"])
    aligned = found.pop("2 candidates by CLIP, SIFT-aligned")
    assert (aligned <= found["2 candidates by CLIP"] + 1e-6).all(), "an alignment that does not help is not used"
    assert all((distance >= every - 1e-6).all() for distance in found.values())
    assert set(found) == {"2 candidates by CLIP", "4 x 4 tiles", "cliques of 2"}
    rows = options_table(tried, lab.params)
    assert rows.groupby("option").size().tolist() == [2 * 3] * 5, "before and after: DE, false alarms, the difference"


def test_extraction_may_attack_another_base_model_of_the_same_world():
    small = {"base.unet.people": 2, "base.unet.epochs": 2}
    other = Lab.open("tiny", small)
    at = folder(other, other.base)
    lab = Lab.open("tiny", {"extraction.base": str(at), "extraction.people": 2, "extraction.domains": 1})
    attacked = memorising(lab)
    assert [domain.name for domain in attacked.domains] == ["ada abeck"]
    assert [person.name for person in attacked.everyone] == ["ada abeck", "arvo borg"]
    assert folder(attacked, attacked.base) == at
    assert attacked.domains[0].digest == lab.domains[0].digest
    assert memorising(attacked) is attacked
    with pytest.raises(ParamsError, match=r"extraction.base: base.unet.people .* is 4 but .* was trained on 2 people; set it to that"):
        Lab.open("tiny", {"extraction.base": str(at), "extraction.people": 4})


ROW = {"method": "lora", "domains": 3, "delta": 1.0, "delta_low": 0.5, "delta_high": 1.5, "smallest_visible": 0.6}
COUNTS = {"DE": (3, 2, 4), "false alarms": (1, 0, 3), "beyond chance": (2, 0.1, 4)}


@pytest.mark.parametrize(
    ("chance", "moved", "says"),
    [
        (0.01, 0.01, "more than the false alarms (1.00 [0.00, 3.00]); what is beyond chance rises against the pre-trained model (+1.00"),
        (0.06, 0.01, "not shown to be more than the false alarms (1.00 [0.00, 3.00]); what is beyond chance rises"),
        (0.01, 0.06, "more than the false alarms (1.00 [0.00, 3.00]); no change of what is beyond chance is shown against the pre-trained"),
    ],
)
def test_the_verdict_follows_the_adjusted_p_of_what_is_beyond_chance(chance, moved, says):
    row = ROW | {"p_adjusted": moved, "p_chance_adjusted": chance, "delta_chance": 2.0}
    table = pd.DataFrame([row | {"metric": m, "value": v, "low": low, "high": high} for m, (v, low, high) in COUNTS.items()])
    text = verdict(table)
    assert text.startswith(f"- **LoRA** (3 domains): 3.00 [2.00, 4.00] images a domain, {says}")
    assert text.endswith("(+1.00 [+0.50, +1.50])" + ("." if moved < 0.05 else " (smallest visible: 0.60)."))


def test_every_model_draws_with_the_same_noise_and_members_are_compared_with_its_images(lab):
    domain = lab.domains[0]
    table = extracted(lab, ["pretrained", "lora"])
    part = table[(table["domain"] == domain.name) & (table["method"] == "lora") & (table["split"] == "member")]
    assert part["copies"].tolist() == list(domain.splits["member"].copies)
    before, after = (generations(lab, domain, model) for model in (lab.base, tuned(lab, domain, "lora")))
    generated = np.stack([np.asarray(Image.open(path)) for path in drawn(lab, after).paths]) / 255.0
    member = np.asarray(Image.open(domain.splits["member"].paths[3])) / 255.0
    assert part["distance"].iloc[3] == pytest.approx(np.sqrt(((generated - member) ** 2).mean((1, 2, 3))).min(), rel=1e-9)
    assert (before.prompts, before.seed) == (after.prompts, after.seed)
