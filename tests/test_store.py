import pytest

from s2llib.store import Store, digest


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
        assert not Store(store.root).has("stage", 1, {})


def test_a_failed_stage_leaves_nothing_behind(store):
    def fails(folder):
        (folder / "half.txt").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.get("stage", 1, {}, fails)
    assert not [path for path in (store.root / "stage").iterdir() if path.is_dir()]


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
