from s2llib import Study


def test_cells_computed_on_a_cluster_are_those_computed_here(study, tmp_path, monkeypatch):
    changes = {"finetune.methods": ["lora"], "world.domains": 1, "base.path": str(study.base_folder)}
    here = Study.from_profile("tiny", changes, root=tmp_path / "here")
    there = Study.from_profile("tiny", changes, root=tmp_path / "there")
    expected = here.membership()

    monkeypatch.setenv("S2L_DASK", "local")
    monkeypatch.setattr(Study, "_score", lambda *_: 1 / 0)  # workers are other processes: only they can score now
    found = there.membership()
    keys = ["domain", "method", "seed", "attack", "setting", "split", "image"]
    assert found[keys].equals(expected[keys])
    assert (found["score"] - expected["score"]).abs().max() <= 1e-4 * expected["score"].abs().max()
