import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from s2llib.data.portraits import caption, portrait
from s2llib.data.worlds import auxiliary_images, load_domains, training_photos
from s2llib.params import ParamsError, World
from s2llib.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


WORLD = World(kind="portraits", seed=3, people=5, domains=3, members=10, nonmembers=6, shifted=4, duplicated=0.3, copies=[2, 4])


def hashes(photos):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in photos.paths]


def test_no_two_splits_of_any_domain_share_an_image(store):
    everything = Counter(h for d in load_domains(WORLD, store) for photos in d.splits.values() for h in hashes(photos))
    assert set(everything.values()) == {1}


def test_vae_and_clip_never_see_an_image_of_any_split(store):
    pixels, captions = auxiliary_images(WORLD, 12, store)
    seen = {x.tobytes() for x in pixels}
    assert len(seen) == len(pixels) == len(captions) == 60
    for domain in load_domains(WORLD, store):
        for photos in domain.splits.values():
            mine = (photos.pixels(64).permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
            assert not seen & {x.tobytes() for x in mine}


def test_the_training_set_holds_members_and_only_members(store):
    training = {h for photos in training_photos(WORLD, store).values() for h in hashes(photos)}
    for domain in load_domains(WORLD, store):
        for split, photos in domain.splits.items():
            assert (set(hashes(photos)) <= training) == (split == "member")
            assert split == "member" or not set(hashes(photos)) & training


def test_the_stated_share_is_duplicated_and_tables_use_the_rest(store):
    domain = load_domains(WORLD, store)[0]
    assert Counter(domain.splits["member"].copies) == {1: 7, 2: 2, 4: 1}
    assert len(domain.members) == 7
    assert set(domain.members.copies) == {1}


def test_a_portrait_depends_on_its_seed_alone():
    first, caption = portrait(3, 1, "member", 0)
    again, _ = portrait(3, 1, "member", 0)
    np.testing.assert_array_equal(first, again)
    assert caption.startswith("a photo of arvo borg, ")
    for other in ((4, 1, "member", 0), (3, 2, "member", 0), (3, 1, "nonmember", 0), (3, 1, "member", 1)):
        assert (portrait(*other)[0] != first).mean() > 0.5


def test_members_and_nonmembers_are_alike_and_the_shifted_styles_are_not():
    """Mean gradient energy: equal within noise for the iid splits, lower in the studio, higher in the street."""

    def energy(stream):
        images = [portrait(3, who, stream, i)[0].astype(float) for who in range(20) for i in range(15)]
        each = np.array([np.abs(np.diff(image, axis=1)).mean() for image in images])
        return each.mean(), each.std() / np.sqrt(len(each))

    (member, error), (nonmember, _), (studio, _), (street, _) = map(energy, ("member", "nonmember", "studio", "street"))
    assert abs(member - nonmember) < 4 * error
    assert studio < member - 4 * error
    assert street > member + 4 * error


def test_the_world_is_readable_as_a_datasets_imagefolder(store):
    datasets = pytest.importorskip("datasets")
    domain = load_domains(WORLD, store)[0]
    folder = domain.splits["member"].paths[0].parent.parent
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(store.root / "datasets"))
    assert len(loaded) == sum(len(photos) for photos in domain.splits.values())
    assert {"image", "text", "domain"} <= set(loaded.column_names)


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """A data_home with made-up photographs in scikit-learn's own file format."""
    joblib = pytest.importorskip("joblib")
    pixels = np.random.default_rng(0).random((400, 4096), dtype=np.float32)
    joblib.dump(pixels, tmp_path / "olivetti_py3.pkz")
    return str(tmp_path)


def test_olivetti_members_and_nonmembers_are_ten_different_photographs(faces, store):
    world = World(kind="olivetti", data_home=faces, members=5, nonmembers=5, shifted=0, duplicated=0, domains=2)
    for domain in load_domains(world, store):
        assert [len(domain.members), len(domain.nonmembers), len(domain.shifted)] == [5, 5, 0]
        assert len({*hashes(domain.members), *hashes(domain.nonmembers)}) == 10
    assert len(auxiliary_images(world, 1, store)[0]) == 200


def test_a_relative_data_home_is_below_the_repository(faces, store, monkeypatch):
    monkeypatch.setattr("s2llib.params.section.PARAMS_DIR", Path(faces).parent / "params")
    world = World(kind="olivetti", data_home=Path(faces).name, members=5, nonmembers=5, shifted=0, duplicated=0, domains=1, seed=9)
    assert len(load_domains(world, store)[0].members) == 5


def test_olivetti_without_data_says_what_to_download_and_where_to_put_it(tmp_path, monkeypatch):
    def no_network(*_args, **_more):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr("urllib.request.urlretrieve", no_network)
    world = World(kind="olivetti", data_home=str(tmp_path), members=5, nonmembers=5, shifted=0, duplicated=0)
    with pytest.raises(ParamsError, match=rf"not in {tmp_path} .*cannot be downloaded.*copy olivetti_py3.pkz"):
        load_domains(world, Store(tmp_path / "artifacts"))


@pytest.mark.parametrize(
    ("stream", "content"),
    [("member", "f5ff95feb18de220ef18"), ("studio", "3f284b5ac4b64be60d2d"), ("street", "db803133983dc9118e54")],
)
def test_a_portrait_of_every_style_has_the_pixels_that_the_shipped_models_were_trained_on(stream, content):
    pixels, text = portrait(2024, 3, stream, 5)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:20] == content
    assert caption(2024, 3, stream, 5) == text
