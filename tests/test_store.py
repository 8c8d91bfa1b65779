import errno
import json
import platform
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from s2llib.store import DiskFull, Store, digest, write_atomic


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def writer(text, calls):
    def make(folder):
        calls.append(text)
        (folder / "result.txt").write_text(text)

    return make


def test_an_artifact_is_made_once(store):
    calls = []
    for _ in range(3):
        path = store.get("stage", 1, {"a": 1}, writer("x", calls))
    assert calls == ["x"]
    assert (path / "result.txt").read_text() == "x"


@pytest.mark.parametrize(("version", "inputs"), [(2, {"a": 1}), (1, {"a": 2})])
def test_another_version_or_input_is_another_artifact(store, version, inputs):
    calls = []
    first = store.get("stage", 1, {"a": 1}, writer("x", calls))
    assert store.get("stage", version, inputs, writer("y", calls)) != first
    assert len(calls) == 2


def test_one_flipped_byte_is_noticed_and_the_artifact_remade(store):
    calls = []
    path = store.get("stage", 1, {}, writer("hello", calls))
    content = bytearray((path / "result.txt").read_bytes())
    content[2] ^= 1
    (path / "result.txt").write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        again = Store(store.root).get("stage", 1, {}, writer("hello", calls))
    assert (again / "result.txt").read_text() == "hello"
    assert len(calls) == 2


def test_a_missing_file_is_noticed(store):
    path = store.get("stage", 1, {}, writer("hello", []))
    (path / "result.txt").unlink()
    with pytest.warns(UserWarning, match="damaged"):
        again = Store(store.root).get("stage", 1, {}, writer("hello", []))
    assert (again / "result.txt").read_text() == "hello"


def test_a_failed_stage_leaves_nothing_behind(store):
    def fails(folder):
        (folder / "half.txt").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.get("stage", 1, {}, fails)
    assert not [path for path in (store.root / "stage").iterdir() if path.is_dir()]


def no_room(kind, folder):
    """A full disk as its libraries report it: the system's own error, safetensors', and one that came from another."""
    (folder / "half.txt").write_text("half")
    if kind == "safetensors":
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    if kind == "wrapped":
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not be saved") from error
    (folder / "full").symlink_to("/dev/full")  # whatever is written there meets a full disk
    (folder / "full").write_text("x")


@pytest.mark.parametrize("kind", ["system", "safetensors", "wrapped"])
def test_a_full_disk_is_one_sentence_and_leaves_no_artifact(store, kind):
    with pytest.raises(DiskFull, match=r"^The disk of .* is full; make room, or set \$S2L_HOME") as error:
        store.get("outer", 1, {}, lambda _: store.get("stage", 1, {}, lambda folder: no_room(kind, folder)))
    assert "\n" not in str(error.value)
    assert not [path for path in store.root.rglob("*") if path.is_dir() and path.parent != store.root]
    assert store.get("stage", 1, {}, writer("x", [])).is_dir(), "the same store works on when there is room again"


def test_a_disk_that_fills_up_with_the_manifest_leaves_no_artifact(store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(Path, "write_text", full)
        store.get("stage", 1, {}, lambda folder: (folder / "result.txt").write_bytes(b"x"))
    assert not [path for path in store.root.rglob("*") if path.is_dir() and path.parent != store.root]


def test_another_error_is_not_called_a_full_disk(store):
    with pytest.raises(OSError, match="Permission denied") as error:
        store.get("stage", 1, {}, lambda _: (_ for _ in ()).throw(OSError(errno.EACCES, "Permission denied")))
    assert not isinstance(error.value, DiskFull)


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_atomic(tmp_path / "a.json", "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        write_atomic(tmp_path / "a.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_what_a_killed_run_left_over_is_cleared(store):
    path = store.root / "stage" / store.key("stage", 1, {})
    left = path.with_name(f"{path.name}.new-dead")
    left.mkdir(parents=True)
    (left / "half.txt").write_text("half")
    store.get("stage", 1, {}, writer("x", []))
    assert not left.exists()


def test_fresh_makes_an_older_artifact_again(store, monkeypatch):
    import time

    calls = []
    store.get("stage", 1, {}, writer("x", calls))
    monkeypatch.setenv("S2L_FRESH", str(time.time() + 1))
    Store(store.root).get("stage", 1, {}, writer("x", calls))
    assert len(calls) == 2


def test_digest_ignores_the_order_of_keys():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})


def test_an_artifact_says_with_what_it_was_made(tmp_path):
    store = Store(tmp_path)
    made = store.get("thing", 1, {}, lambda folder: (folder / "x").write_text("x"))
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["packages"]["torch"] == torch.__version__
    assert manifest["packages"]["python"] == platform.python_version()
    assert manifest["threads"] == torch.get_num_threads()
