from s2llib import Study


def test_cells_computed_on_a_cluster_are_those_computed_here(study, tmp_path, monkeypatch):
    here = Study.from_profile("tiny", {"finetune.methods": ["lora"]})
    model = str(here.base_folder)
    monkeypatch.setenv("S2L_DASK", "local")
    there = Study.from_profile("tiny", {"finetune.methods": ["lora"], "base.path": model}, root=tmp_path)
    scores = there.membership()
    monkeypatch.delenv("S2L_DASK")
    again = Study.from_profile("tiny", {"finetune.methods": ["lora"], "base.path": model}, root=tmp_path)
    made = sorted(path.name for path in (tmp_path / "finetune").iterdir() if path.is_dir())
    assert again.membership().equals(scores)
    assert len(made) == 2
    assert sorted(path.name for path in (tmp_path / "finetune").iterdir() if path.is_dir()) == made
