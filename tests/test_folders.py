"""Folders as people have them: what is read, what is left out and why, whose it is, and where captions come from."""

import json
import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from s2llib import Lab, ParamsError
from s2llib.data.domain import load_image
from s2llib.data.folders import check_images, in_folder, read_folder
from s2llib.data.reading import Reading, check_prompts, cut_prompts, prompts_made_same
from s2llib.data.worlds import check_used_captions, private_pool, read_world, reading
from s2llib.finetune.methods import PRETRAINED
from s2llib.models.base import base_tokenizer
from s2llib.params import World, load_params
from s2llib.store import Store
from s2llib.studies import s2l
from s2llib.studies.prompts import asked_prompts, private_prompts


def paint(path, seed=None, **how):
    """An image file that no other seed has; its format is that of the suffix unless `format` says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(abs(hash(path.name)) % 2**32 if seed is None else seed)
    Image.fromarray(rng.integers(0, 255, (24, 20, 3), dtype=np.uint8)).save(path, **how)
    return path


@pytest.fixture
def sides(tmp_path):
    """Two folders of three images each: of `zoe`."""
    for side, start in (("in", 0), ("out", 10)):
        for i in range(3):
            paint(tmp_path / side / f"{i}.png", start + i)
    return tmp_path


def world(at, **more):
    folders = {"member": str(at / "in"), "nonmember": str(at / "out")}
    return World(kind="folder", folders=folders, subject="zoe", **more)


def names(at, split="member", subject="zoe"):
    return [path.name for path in read_world(world(at))[subject][split].paths]


def left_out(at):
    return {path.relative_to(at).as_posix(): reason for path, reason in reading(world(at)).left_out}


def listed(folder, rows, name="metadata.jsonl", encoding="utf-8", end="\n"):
    text = "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)
    (folder / name).write_bytes(text.encode(encoding))


def rows_of(folder, **more):
    """A line for each of 2 members and 2 non-members, which are painted."""
    found = [
        {"file_name": f"{split}{i}.png", "domain": "zoe", "split": split} | more for split in ("member", "nonmember") for i in range(2)
    ]
    for row in found:
        paint(folder / row["file_name"])
    return found


# images are known by their content


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jfif", "JPEG"),
        ("a.jpe", "JPEG"),
        ("a.JPG", "JPEG"),
        ("a", "JPEG"),
        ("IMG.2024", "PNG"),
        ("a.jpg", "PNG"),
        ("a.jpg_large", "JPEG"),
        ("a.png", "WEBP"),
        ("a.avif", "AVIF"),
        ("a.jp2", "JPEG2000"),
        ("a.gif", "GIF"),
    ],
)
def test_an_image_is_known_by_its_content(sides, name, kind):
    path = paint(sides / "in" / name, 5, format=kind)
    assert name in names(sides)
    check_images(read_world(world(sides)))
    assert load_image(path, 8).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic", r"a.heic cannot be read; save it as .png or .jpg\."),
        ("a.jpg", b"\0\0\0\x18ftypheic", r"a.jpg cannot be read; save it as .png or .jpg\."),
        ("a", b"\0\0\0\x18ftypheic", r"in/a cannot be read; save it as .png or .jpg\."),
        ("a.CR3", b"raw", r"a.CR3 cannot be read; save it as"),
        ("a.jpg", b"", r"a.jpg cannot be read as an image \(it is empty\); replace or remove it\."),
        ("a.jpg", b"<html>403", r"a.jpg cannot be read as an image; replace or remove it\."),
        (
            "a.png",
            b"version https://git-lfs.github.com/spec/v1",
            r"a.png .* \(it is a pointer of Git LFS\); fetch it with `git lfs pull`\.",
        ),
        (".a.jpg.icloud", b"bplist00", r"a.jpg is in iCloud and not on this disk; download it\."),
        ("a\nb.jpg", b"x", r"a\\nb.jpg cannot be read as an image"),
    ],
)
def test_what_is_meant_as_a_photograph_and_cannot_be_read_stops(sides, name, content, message):
    (sides / "in" / name).write_bytes(content)
    with pytest.raises(ParamsError, match=message) as error:
        read_world(world(sides))
    assert "\n" not in str(error.value)


def test_a_raw_photograph_is_not_read_as_its_thumbnail(sides):
    paint(sides / "in" / "a.dng", 5, format="TIFF")
    with pytest.raises(ParamsError, match=r"a.dng cannot be read; save it as"):
        read_world(world(sides))


def test_formats_that_run_programs_are_not_tried(sides):
    (sides / "in" / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert left_out(sides) == {"in/a.eps": "no image"}


def test_exif_that_is_damaged_turns_nothing(sides):
    path = paint(sides / "in" / "a.png", 5, exif=b"garbage")
    check_images(read_world(world(sides)))
    assert load_image(path, 8).equal(load_image(paint(sides / "b.png", 5), 8))


def test_an_image_of_too_many_pixels_is_named_with_the_mend(sides, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(ParamsError, match=r"0.png has more than 400 pixels; save a smaller copy of it\."):
        check_images(read_world(world(sides)))


def test_an_animated_file_of_one_frame_is_a_still_image(sides):
    one = paint(sides / "in" / "a.gif", 5)
    two = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    check_images(read_world(world(sides)))
    two[0].save(one, save_all=True, append_images=two[1:])
    with pytest.raises(ParamsError, match=r"a.gif is animated \(2 frames\)"):
        check_images(read_world(world(sides)))


# links


def test_a_folder_and_a_file_that_are_links_are_read(sides):
    paint(sides / "elsewhere" / "max" / "m.png", 50)
    (sides / "in" / "max").symlink_to(sides / "elsewhere" / "max")
    paint(sides / "out" / "max" / "n.png", 51)
    (sides / "in" / "linked.jpg").symlink_to(paint(sides / "elsewhere" / "z.png", 52))
    assert names(sides, subject="max") == ["m.png"]
    assert "linked.jpg" in names(sides)


def test_a_link_that_leads_in_a_circle_is_left_out(sides):
    (sides / "in" / "again").symlink_to(sides / "in")
    (sides / "in" / "above").symlink_to(sides)
    assert left_out(sides) == dict.fromkeys(["in/again", "in/above"], "a link to a folder that holds it")
    assert len(names(sides)) == 3


def test_a_broken_link_is_named(sides):
    (sides / "in" / "x.png").symlink_to("/no/such.png")
    with pytest.raises(ParamsError, match=r"in/x.png is a broken link \(to /no/such.png\); mend or remove it\."):
        read_world(world(sides))


# what is left out


SYSTEM, HIDDEN = "of the operating system", "hidden"
OTHERS = {
    ".DS_Store": SYSTEM,
    "Thumbs.db": SYSTEM,
    "desktop.ini": SYSTEM,
    "Icon\r": SYSTEM,
    "._0.png": SYSTEM,
    "__MACOSX/zoe/0.png": SYSTEM,
    "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg": SYSTEM,
    ".ipynb_checkpoints/0-checkpoint.png": HIDDEN,
    "0.npz": "no image but what a trainer or a program keeps",
    "7.caption": "a caption or text that belongs to no image here",
    "README.txt": "a caption or text that belongs to no image here",
    "LICENSE": "no image",
    "empty": "empty",
    "settings.json": "a table or settings, which are not read",
    "images.zip": "an archive; unpack it if its images are meant",
    "IMG_1.MOV": "a video",
    "0.png.lnk": "a shortcut, which is not followed; put the image itself there if it is meant",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_photograph_is_left_out_with_the_reason(sides, name):
    path = sides / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"" if name == "empty" else b"something else")
    top = path.relative_to(sides).parts[1] if OTHERS[name] in (SYSTEM, HIDDEN) else name  # a folder is named and not what is in it
    assert left_out(sides) == {f"in/{top}": OTHERS[name]}
    assert names(sides) == ["0.png", "1.png", "2.png"]


def test_an_empty_folder_is_named(sides):
    (sides / "in" / "max").mkdir()
    assert left_out(sides) == {"in/max": "an empty folder"}


def test_a_pipe_is_not_waited_for(sides):
    os.mkfifo(sides / "in" / "pipe.png")
    assert left_out(sides) == {"in/pipe.png": "no file but a device or a pipe"}


def test_images_that_no_line_lists_are_left_out_by_name(tmp_path):
    rows = rows_of(tmp_path, text="a photo of zoe")
    listed(tmp_path, rows)
    paint(tmp_path / "more" / "extra.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"x")
    (tmp_path / "README.md").write_text("x")
    paint(tmp_path / "more" / "lone.png")
    found = reading(World(kind="folder", folder=str(tmp_path)))
    unlisted = "an image that no line of the listing names"
    assert {path.name: reason for path, reason in found.left_out} == {
        "extra.jpg": unlisted, "broken.jpg": unlisted, "lone.png": unlisted, "README.md": "a caption or text that belongs to no image here",
    }  # fmt: skip


def test_people_whom_the_profile_leaves_out_are_named(sides):
    for side in ("in", "out"):
        paint(sides / side / "max" / "0.png", 70 + len(side))
    found = reading(world(sides, domains=["zoe"]))
    assert found.left_out == ((sides / "in" / "max", "images of 'max', whom world.domains leaves out"),)
    assert found.captions == {"member": {"template": 3}, "nonmember": {"template": 3}}


def test_a_built_in_world_has_nothing_to_say():
    assert reading(World(kind="portraits")) == Reading()


def test_the_black_boxs_own_folder_is_told_of_too(tmp_path):
    listed(tmp_path, rows_of(tmp_path, caption="a photo of zoe"))
    paint(tmp_path / "extra.png")
    found = reading(World(kind="portraits"), private=str(tmp_path))
    assert [path.name for path, _ in found.left_out] == ["extra.png"]
    assert found.captions["member"] == {"metadata.jsonl: caption": 2}


def test_a_folder_is_looked_at_once_and_a_change_is_seen(sides, monkeypatch):
    from s2llib.data import files

    read_world(world(sides))
    monkeypatch.setattr(files, "open_image", lambda path: pytest.fail(f"{path} was opened again"))
    assert len(names(sides)) == 3
    (sides / "in" / "0.txt").write_text("zoe at sea")
    assert read_world(world(sides))["zoe"]["member"].captions[0] == "zoe at sea"


# whose an image is


@pytest.mark.parametrize(
    ("inside", "outside", "name"),
    [
        ("max", "max", "max"),
        ("max/2023/beach", "max", "max"),
        ("10_max person", "max person", "max person"),
        ("10_max", "5_max", "max"),
        ("Max", "max", "Max"),
        ("max ", "max", "max"),
        (unicodedata.normalize("NFD", "Zoë"), unicodedata.normalize("NFC", "Zoë"), unicodedata.normalize("NFC", "Zoë")),
    ],
)
def test_one_subject_spelled_in_two_ways_is_one(sides, inside, outside, name):
    paint(sides / "in" / inside / "m.png", 60)
    paint(sides / "out" / outside / "n.png", 61)
    assert set(read_world(world(sides))) == {"zoe", name}


def test_a_subfolder_of_the_subjects_own_name_is_the_subjects(sides):
    paint(sides / "in" / "Zoe" / "m.png", 60)
    assert names(sides) == ["0.png", "1.png", "2.png", "m.png"]


def test_a_trainers_repeats_are_said_to_be_no_part_of_a_name(sides):
    for side, seed in (("in", 60), ("out", 61)):
        paint(sides / side / "10_max" / "m.png", seed)
    reason = "the 10_ in front of 'max' alone: how often a trainer repeats the images"
    assert left_out(sides) == {"in/10_max": reason, "out/10_max": reason}
    assert set(read_world(world(sides))["max"]["member"].copies) == {1}, "repeats are no copies"


def test_subjects_that_are_called_differently_are_said_to_be_perhaps_the_same(sides):
    shutil.rmtree(sides / "in")
    paint(sides / "in" / "10_zoe person" / "m.png", 60)
    message = r"member: .*/in has no image of 'zoe'; put some there, or give 'zoe person' and 'zoe' one name if they are the same\."
    with pytest.raises(ParamsError, match=message):
        read_world(world(sides))


@pytest.mark.parametrize("inner", ["train", "Images", "img/10_zoe"])
def test_a_part_of_a_data_set_is_no_subject(sides, inner):
    paint(sides / "in" / inner / "m.png", 60)
    with pytest.raises(ParamsError, match=r"is called like a part of a data set and not like a subject; set world.folders.member to it"):
        read_world(world(sides))


def test_a_subjects_name_that_is_no_text_is_refused(sides):
    paint(sides / "in" / os.fsdecode(b"m\xfcller") / "m.png", 60)
    with pytest.raises(ParamsError, match=r"has a name that is no text; rename it\.") as error:
        read_world(world(sides))
    str(error.value).encode()


@pytest.mark.parametrize("outside", ["in", "in/max"])
def test_one_folder_for_both_splits_is_refused(sides, outside):
    paint(sides / "in" / "max" / "m.png", 60)
    folders = {"member": str(sides / "in"), "nonmember": str(sides / outside)}
    with pytest.raises(ParamsError, match=r"world.folders.member and world.folders.nonmember hold the same images"):
        read_world(World(kind="folder", folders=folders))


@pytest.mark.parametrize("key", ["world.folders.member", "world.folder", "blackbox.folder"])
def test_a_file_in_a_folders_place_is_named_with_its_parameter(sides, key, tmp_path):
    file, message = tmp_path / "images.zip", rf"images.zip is a file; set {key} to a folder"
    file.write_bytes(b"PK")
    with pytest.raises(ParamsError, match=message):
        if key == "world.folders.member":
            read_world(World(kind="folder", folders={"member": str(file), "nonmember": str(sides / "out")}))
        elif key == "world.folder":
            read_world(World(kind="folder", folder=str(file)))
        else:
            private_pool(World(kind="portraits"), 4, Store(tmp_path), str(file))


def test_a_name_of_255_bytes_is_read(sides):
    name = "a" * 251 + ".png"
    paint(sides / "in" / name, 60)
    assert name in names(sides)
    listed(sides / "in", [{"file_name": name, "domain": "zoe", "split": "member"}, {"file_name": "0.png", "domain": "zoe", "split": "x"}])
    assert len(in_folder(sides / "in")) == 2


def load(at, pipeline_folder, **more):
    given = {"world": world(at).model_dump() | {"domains": 40}, "base.path": str(pipeline_folder)}
    return Lab.open("tiny", given | more, root=at / "artifacts")


def scores(lab):
    """What every attack says of every photograph, asked of the base model."""
    table = s2l.membership(lab, [PRETRAINED])
    return table[table["split"] != "reference"]["score"]


def test_copies_within_one_split_are_refused_with_how_many_there_are(sides, pipeline_folder):
    for name in ("0 copy.png", "0 (1).png"):
        shutil.copy(sides / "in" / "0.png", sides / "in" / name)
    message = r"0 copy.png is the same image as .*0 \(1\).png, and would count twice; remove one of them, and 1 more such copies\.$"
    with pytest.raises(ParamsError, match=message):
        load(sides, pipeline_folder)


def test_images_of_any_suffix_behind_any_link_have_the_scores_of_plain_ones(sides, pipeline_folder):
    plain = scores(load(sides, pipeline_folder))
    os.rename(sides / "in" / "0.png", sides / "in" / "0.jfif")
    os.rename(sides / "in" / "1.png", sides / "in" / "1")
    (sides / "in").rename(sides / "kept")
    (sides / "in").symlink_to(sides / "kept")
    again = load(sides, pipeline_folder)
    assert [path.name for path in again.domains[0].members.paths] == ["0.jfif", "1", "2.png"]
    assert scores(again).equals(plain)


# listings


@pytest.mark.parametrize(
    "how", ["mark", "crlf", "backslashes", "absolute", "csv", "csv mark", "more columns", "line separator", "decomposed"]
)
def test_a_listing_as_people_write_it_is_read(tmp_path, how):
    rows = rows_of(tmp_path, text="a photo of zoe, at sea")
    if how in ("backslashes", "decomposed"):
        folder = "sub" if how == "backslashes" else unicodedata.normalize("NFD", "Zoë")
        (tmp_path / folder).mkdir()
        for row in rows:
            (tmp_path / row["file_name"]).rename(tmp_path / folder / row["file_name"])
            row["file_name"] = f"sub\\{row['file_name']}" if how == "backslashes" else f"Zoë/{row['file_name']}"
    if how == "absolute":
        rows = [row | {"file_name": str(tmp_path / row["file_name"])} for row in rows]
    if how == "more columns":
        rows = [row | {"additional_feature": "x", "licence": 3} for row in rows]
    if how == "line separator":
        rows = [row | {"text": "a photo of zoe\u2028at sea"} for row in rows]
    if how.startswith("csv"):
        lines = ["file_name,text,domain,split,copies", *(f'{r["file_name"]},"{r["text"]}",{r["domain"]},{r["split"]},1' for r in rows)]
        (tmp_path / "metadata.csv").write_text("\r\n".join(lines), encoding="utf-8-sig" if "mark" in how else "utf-8", newline="")
    else:
        listed(tmp_path, rows, encoding="utf-8-sig" if how == "mark" else "utf-8", end="\r\n" if how == "crlf" else "\n")
    found = read_folder(tmp_path)["zoe"]
    assert [len(found["member"]), len(found["nonmember"])] == [2, 2]
    assert found["member"].captions[0] == rows[0]["text"]


def test_splits_and_people_spelled_in_two_ways_are_those_that_are_meant(tmp_path):
    rows = rows_of(tmp_path)
    for row, split, domain in zip(rows, ("Member", "members ", "non-member", "nonmember"), ("zoe", "Zoe ", "zoe", "ZOE"), strict=True):
        row |= {"split": split, "domain": domain}
    listed(tmp_path, rows)
    assert {name: {split: len(some) for split, some in splits.items()} for name, splits in read_folder(tmp_path).items()} == {
        "zoe": {"member": 2, "nonmember": 2}
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "metadata.csv",
            "name;text\n",
            r"metadata.csv has no column 'file_name'; begin it with a line such as file_name,text,domain,split\.",
        ),
        (
            "metadata.csv",
            "file_name,text\na.png,zoe, at sea\n",
            r"metadata.csv, line 2 has not as many fields as the first line; put quotes",
        ),
        ("metadata.csv", 'file_name,text\n"a.png,zoe\n', r"metadata.csv, line \d is no CSV \(.*\); save it again\."),
        ("metadata.parquet", "PAR1", r"metadata.parquet is not read; save it as metadata.jsonl or metadata.csv\."),
        ("metadata.jsonl", '{"file_name": "a.png"}\n'.encode("utf-16"), r"metadata.jsonl is not UTF-8 text; save it as UTF-8\."),
        ("metadata.jsonl", '{"file_name": "a.png"}\n'.encode("utf-16-le"), r"metadata.jsonl is not UTF-8 text; save it as UTF-8\."),
        ("metadata.jsonl", '{"text": "Zoë"}\n'.encode("cp1252"), r"metadata.jsonl is not UTF-8 text; save it as UTF-8\."),
    ],
)
def test_a_listing_that_cannot_be_read_is_named_with_the_mend(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParamsError, match=message) as error:
        read_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_two_listings_are_refused(tmp_path):
    listed(tmp_path, rows_of(tmp_path))
    (tmp_path / "metadata.csv").write_text("file_name\n")
    with pytest.raises(ParamsError, match=r"has both metadata.jsonl and metadata.csv; keep one of them\."):
        read_folder(tmp_path)


def test_a_file_that_is_listed_twice_is_named_as_that(tmp_path, pipeline_folder):
    rows = rows_of(tmp_path)
    listed(tmp_path, [*rows, rows[0]])
    given = {"world": {"kind": "folder", "folder": str(tmp_path), "domains": 40}, "base.path": str(pipeline_folder)}
    with pytest.raises(ParamsError, match=r"member0.png is listed twice; remove one of the lines \(in metadata.jsonl, `copies` says"):
        Lab.open("tiny", given, root=tmp_path / "artifacts")


# captions


def give(at, make):
    """A caption for every image of both sides."""
    for side in ("in", "out"):
        for i in range(3):
            make(at / side / f"{i}.png", f"a photo of zoe, {side} {i}")


CAPTIONED = {
    ".txt file": lambda path, text: path.with_suffix(".txt").write_text(f"{text}\n"),
    ".txt file ": lambda path, text: path.with_suffix(".TXT").write_text(f"{text}\r\n", encoding="utf-8-sig", newline=""),
    ".txt file  ": lambda path, text: path.with_name(f"{path.name}.txt").write_text(text),
    ".caption file": lambda path, text: path.with_suffix(".caption").write_text(text),
}


@pytest.mark.parametrize("source", CAPTIONED)
def test_a_caption_beside_an_image_is_used_and_its_source_counted(sides, source):
    give(sides, CAPTIONED[source])
    assert read_world(world(sides))["zoe"]["member"].captions == tuple(f"a photo of zoe, in {i}" for i in range(3))
    assert reading(world(sides)) == Reading((), {"member": {source.strip(): 3}, "nonmember": {source.strip(): 3}})
    check_used_captions(world(sides), "attacks.caption")


@pytest.mark.parametrize("key", ["text", "caption"])
def test_a_listing_in_a_folder_of_images_holds_captions(sides, key):
    """As diffusers' text_to_image example has them: file_name and text, a line of a file elsewhere among them."""
    for side in ("in", "out"):
        rows = [{"file_name": f"{i}.png", key: f"a photo of zoe, {side} {i}", "additional_feature": "x"} for i in range(4)]
        listed(sides / side, rows)
    assert read_world(world(sides))["zoe"]["nonmember"].captions[2] == "a photo of zoe, out 2"
    found = reading(world(sides))
    assert found.captions["member"] == {f"metadata.jsonl: {key}": 3}
    assert {reason for _, reason in found.left_out} == {"1 of its lines name no image here"}


def test_a_listing_with_splits_is_for_another_parameter(sides):
    listed(sides / "in", [{"file_name": "0.png", "split": "nonmember", "domain": "zoe"}])
    with pytest.raises(ParamsError, match=r"world.folders.member: .*line 1 is of split 'nonmember'; set world.folder to .*in instead\."):
        read_world(world(sides))


def test_captions_of_a_listing_are_counted_by_key(tmp_path):
    rows = rows_of(tmp_path)
    rows[0] |= {"text": "a photo of zoe, 0"}
    rows[1] |= {"caption": "a photo of zoe, 1"}
    rows[2] |= {"text": None}
    (tmp_path / "nonmember1.txt").write_text("a photo of zoe, 3")
    listed(tmp_path, rows)
    given = World(kind="folder", folder=str(tmp_path))
    assert reading(given) == Reading(
        (), {"member": {"metadata.jsonl: caption": 1, "metadata.jsonl: text": 1}, "nonmember": {".txt file": 1, "template": 1}}
    )
    assert read_world(given)["zoe"]["nonmember"].captions == ("a photo of zoe", "a photo of zoe, 3")


def test_a_listing_has_the_last_word_on_a_caption(tmp_path):
    rows = rows_of(tmp_path, text="a photo of zoe at sea")
    (tmp_path / "member0.txt").write_text("zoe, 1girl, solo")
    listed(tmp_path, rows)
    found = reading(World(kind="folder", folder=str(tmp_path)))
    assert found.left_out == ((tmp_path / "member0.txt", "a caption whose image has another in metadata.jsonl"),)
    assert read_folder(tmp_path)["zoe"]["member"].captions[0] == "a photo of zoe at sea"


def spoil(at, how):
    first = at / "in" / "0.png"
    match how:
        case "differ":
            first.with_suffix(".caption").write_text("another")
        case "latin":
            first.with_suffix(".txt").write_bytes("zoë".encode("cp1252"))
        case "utf-16":
            first.with_suffix(".txt").write_bytes("zoe".encode("utf-16"))
        case "lines":
            first.with_suffix(".txt").write_text("a photo of zoe\n\nNegative prompt: blurry\n")
        case "empty":
            first.with_suffix(".txt").write_text(" \n")
        case "none":
            for text in at.glob("*/*.txt"):
                text.unlink()
        case "prompt":
            spoil(at, "none")
            listed(at / "in", [{"file_name": "0.png", "prompt": "a photo of zoe"}])
        case "damaged":
            (at / "in" / "metadata.jsonl").write_text("{")
        case "number":
            listed(at / "in", [{"file_name": "0.png", "text": 3}])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("differ", r"0.png has captions that differ \(.txt file, .caption file\); keep the one that it was trained with\."),
        ("latin", r"0.txt is not UTF-8 text; save it as UTF-8\."),
        ("utf-16", r"0.txt is not UTF-8 text; save it as UTF-8\."),
        ("lines", r"0.txt has 2 lines of text; keep the one that the image was trained with\."),
        ("empty", r"attacks.caption: of 'zoe', 2 of 3 member images have captions of their own and 3 of 3 nonmember images, so that the"),
        ("none", r"attacks.caption: no image has a caption of its own; put a .txt beside each, or drop attacks.caption\."),
        ("prompt", r"metadata.jsonl, line 1 has no `text` or `caption` \(but prompt\); call its caption `text`\."),
        ("damaged", r"metadata.jsonl, line 1 is not JSON"),
        ("number", r"metadata.jsonl, line 1: text is 3; it must be a caption in quotes\."),
    ],
)
def test_captions_that_cannot_be_used_are_refused_where_they_are_used(sides, pipeline_folder, how, message):
    give(sides, CAPTIONED[".txt file"])
    spoil(sides, how)
    reading(world(sides))  # an audit that does not use them goes on
    with pytest.raises(ParamsError, match=message) as error:
        load(sides, pipeline_folder, **{"attacks.caption": True})
    assert "\n" not in str(error.value)


def test_captions_are_refused_where_extraction_asks_for_them(sides, pipeline_folder):
    with pytest.raises(ParamsError, match=r"extraction.prompts: no image has a caption of its own"):
        load(sides, pipeline_folder, **{"extraction.prompts": "captions"})


def test_the_attack_sees_the_same_captions_in_every_form(sides, pipeline_folder):
    """Byte-order marks, kinds of file and listings change no score; a caption does."""
    found = []
    for how in (None, *CAPTIONED, "listing"):
        for path in [path for side in ("in", "out") for path in (sides / side).iterdir() if path.suffix != ".png"]:
            path.unlink()
        if how == "listing":
            for side in ("in", "out"):
                listed(sides / side, [{"file_name": f"{i}.png", "caption": f"a photo of zoe, {side} {i}"} for i in range(3)])
        elif how:
            give(sides, CAPTIONED[how])
        found.append(scores(load(sides, pipeline_folder, **{"attacks.caption": how is not None})))
    assert all(one.equals(found[1]) for one in found[2:])
    assert not found[0].equals(found[1])


# prompts that are cut


@pytest.fixture(scope="module")
def tokenizer():
    return base_tokenizer(load_params("tiny"))


def test_prompts_longer_than_the_encoder_reads_are_told_once(tokenizer):
    long = "a photo of " + "ada " * 30
    fits = "ada " * 22
    assert len(tokenizer(fits).input_ids) == 24
    assert cut_prompts(tokenizer, 24, [long, "a photo of ada", fits, long]) == [long]
    assert cut_prompts(tokenizer, 24, []) == []


def test_different_prompts_that_the_encoder_reads_as_one_are_told(tokenizer):
    a, b, c = (f"a photo of {'ada ' * 30}{end}" for end in ("in a red coat", "in a green coat", ""))
    other = f"a face of {'ada ' * 30}"
    assert prompts_made_same(tokenizer, 24, [a, b, c, other, "a photo", a]) == [[a, b, c]]
    assert prompts_made_same(tokenizer, 24, ["a photo of ada", "A photo of ada"]) == [], "which no cut made the same"
    ids = [tokenizer(text, truncation=True, max_length=24).input_ids for text in (a, b)]
    assert ids[0] == ids[1]


def test_captions_that_are_all_cut_to_the_same_are_refused(sides, pipeline_folder):
    give(sides, lambda path, text: path.with_suffix(".txt").write_text("a photo of zoe, " + "smiling, " * 20 + text))
    message = (
        r"attacks.caption \('zoe'\): its 6 different prompts, such as 'a photo of zoe, smiling.* \.\.\.', are the same in the 24 tokens"
        r" that the text encoder reads; shorten them, so that what differs stands there\."
    )
    with pytest.raises(ParamsError, match=message):
        load(sides, pipeline_folder, **{"attacks.caption": True})
    load(sides, pipeline_folder)


def test_one_caption_that_differs_is_not_refused(tokenizer):
    long = ["ada " * 30, "ada " * 31]
    check_prompts(tokenizer, 24, {"attacks.caption": [*long, "a photo of ada"], "sp.negative": long[:1], "none": []})
    with pytest.raises(ParamsError, match="blackbox: its 2 different prompts"):
        check_prompts(tokenizer, 24, {"blackbox": long})


def test_all_prompts_are_named_by_what_says_so(sides):
    give(sides, CAPTIONED[".txt file"])
    change = {"sp.suffix": "sharp", "sp.negative": "blurry", "attacks.caption": True, "world": world(sides).model_dump()}
    asked = asked_prompts(load_params("tiny", change | {"world.domains": 1}))
    assert asked["world.condition"] == ["a photo of zoe"]
    assert asked["sp.templates"] == ["photo of zoe, sharp", "face of zoe, sharp"]
    assert asked["sp.negative"] == ["blurry"]
    assert asked["attacks.caption ('zoe')"][:2] == ["a photo of zoe, in 0", "a photo of zoe, in 1"]
    assert asked["finetune.attributes"][0].startswith("photo of zoe, ")
    private = private_prompts(["a photo of zoe, at sea"], {"short": "{name}{rest}"})
    assert private == {"blackbox": ["a photo of zoe, at sea"], "blackbox.wordings 'short'": ["zoe, at sea"]}
