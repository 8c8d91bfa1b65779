"""Cells on a cluster: the same tables, and what happens when workers, addresses and cells fail."""

import os
import platform
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s2llib import Lab, ParamsError, artifact, scale
from s2llib.models.hardware import cores
from s2llib.progress import PROGRESS_FILE
from s2llib.report.membership import membership_table
from s2llib.scale import EXECUTOR, check_executor, places
from s2llib.specs import Scoring, Tune
from s2llib.store import FRESH
from s2llib.studies import s2l
from s2llib.studies.plan import cells, sp_set, tuned

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def changes(pipeline_folder):
    return {"finetune.methods": ["lora", "dreambooth"], "base.path": str(pipeline_folder), "device": "cpu", "hardware.workers": 2}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def csv(lab):
    return membership_table(s2l.membership(lab), s2l.blind(lab), lab.params.statistics).to_csv(index=False, float_format="%.6g")


def broken(monkeypatch, kind):
    """Let this process make no artifact of a kind: only workers, which are other processes, can."""
    monkeypatch.setitem(artifact.REGISTRY, kind, replace(artifact.REGISTRY[kind], make=lambda *_: 1 / 0))


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "unasked"])
def test_two_workers_give_the_tables_of_one_process_byte_for_byte(asked, changes, tmp_path, monkeypatch, one_thread):
    scale._client.cache_clear()
    here = Lab.open("tiny", changes | {"hardware.workers": 1}, root=tmp_path / "here")
    expected = csv(here)
    broken(monkeypatch, Scoring)
    if asked:
        monkeypatch.setenv(EXECUTOR, "local")
    assert csv(Lab.open("tiny", changes, root=tmp_path / "there")) == expected
    client = scale._client("local", "cpu", 2)
    client.cluster.close()
    client.close()
    scale._client.cache_clear()


@pytest.fixture
def cluster():
    """Two workers on this machine, reached by their scheduler's address as those of other machines are."""
    from dask.distributed import Client

    with scale._local_cluster("cpu", 2) as cluster, Client(cluster) as client:
        yield client
        scale._client(client.scheduler.address, "cpu", 2).close()
        scale._client.cache_clear()


def finished(lab):
    found = (lab.store.root / "tuned").glob("*/manifest.json")
    return {path.parent: path.stat().st_mtime_ns for path in found if ".new-" not in path.parent.name}


def test_a_killed_worker_costs_its_cell_alone(cluster, changes, tmp_path, monkeypatch):
    more = changes | {"finetune.seeds": [0, 1, 2], "finetune.lora.steps": 40}
    lab = Lab.open("tiny", more, root=tmp_path)
    monkeypatch.setenv(EXECUTOR, cluster.scheduler.address)
    processes = cluster.run(os.getpid)
    models = [tuned(lab, *cell) for cell in cells(lab, ["lora"])]
    work = threading.Thread(target=scale.run, args=(lab, models, "fine-tuning"))
    work.start()
    while work.is_alive() and not (finished(lab) and list((lab.store.root / "tuned").glob("*.new-*"))):
        time.sleep(0.02)
    assert work.is_alive(), "the cells end too soon for one to be killed"
    busy = next(worker for worker, tasks in cluster.processing().items() if tasks)
    before = finished(lab)
    os.kill(processes[busy], signal.SIGKILL)
    work.join()
    after = finished(lab)
    assert len(after) == len(models)
    assert before.items() <= after.items(), "what was finished is not made again"
    broken(monkeypatch, Tune)
    assert all(artifact.made(Lab.open("tiny", more, root=tmp_path), model).is_dir() for model in models)


def test_a_cell_that_fails_is_named_and_does_not_stop_the_others(cluster, changes, tmp_path, monkeypatch):
    lab = Lab.open("tiny", changes, root=tmp_path)
    monkeypatch.setenv(EXECUTOR, cluster.scheduler.address)
    check_executor(lab)  # these workers have all that is needed
    good = tuned(lab, lab.domains[0], "lora")
    with pytest.raises(RuntimeError, match=r"tuned of 'ada abeck', no such method: it failed 3 times"):
        scale.run(lab, [replace(good, method="no such method"), good], "fine-tuning")
    assert len(finished(lab)) == 1


def test_what_something_is_made_of_is_made_before_it_and_once(cluster, changes, tmp_path, monkeypatch):
    lab = Lab.open("tiny", changes, root=tmp_path)
    monkeypatch.setenv(EXECUTOR, cluster.scheduler.address)
    for kind in (type(sp_set(lab, lab.domains[0])), Tune, Scoring):
        broken(monkeypatch, kind)
    specs = [spec for spec, _ in s2l.membership_cells(lab)]
    scale.run(lab, specs, "membership")
    made = {name: len(list((lab.store.root / name).glob("*/manifest.json"))) for name in ("generated", "tuned", "scores")}
    assert made == {"generated": 2, "tuned": 4, "scores": 6}
    assert all(artifact.finished(lab, spec) for spec in artifact.needed(lab, specs))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:9", "--executor tcp://127.0.0.1:9: no Dask scheduler answers there within"),
        ("127.0.0.1:8786", "--executor 127.0.0.1:8786: write `local`, or a scheduler's address such as tcp://"),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_sentence_before_any_compute(lab, address, message, monkeypatch):
    monkeypatch.setattr(scale, "ANSWER", "1 s")
    monkeypatch.setenv(EXECUTOR, address)
    with pytest.raises(ParamsError) as error:
        check_executor(lab)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_scheduler_of_another_dask_is_one_sentence(lab, monkeypatch):
    def refuse(*_, **__):
        raise TypeError("unexpected keyword\nand so on")

    monkeypatch.setattr(scale, "_dask", lambda: refuse)
    monkeypatch.setenv(EXECUTOR, "tcp://10.0.0.1:8786")
    with pytest.raises(ParamsError, match=r"there is no speaking with the scheduler \(TypeError: unexpected keyword\); install there"):
        check_executor(lab)


def test_the_runner_says_so_in_one_line(tmp_path):
    command = [sys.executable, "-m", "s2llib.run", "--profile", "tiny", "--only", "00", "--executor", "somewhere"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"S2L_HOME": str(tmp_path / "artifacts")}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("--executor somewhere: write `local`")
    assert len(done.stderr.strip().splitlines()) == 1


def test_workers_that_do_not_see_the_store_are_refused(tmp_path):
    class Elsewhere:
        def run(self, *_):
            return {"tcp://10.0.0.2:1": True, "tcp://10.0.0.3:1": False}

    with pytest.raises(ParamsError, match=r"the worker tcp://10.0.0.3:1 does not see .*set \$S2L_HOME"):
        scale._check_shared(Elsewhere(), "tcp://10.0.0.1:8786", tmp_path)
    assert not list(tmp_path.iterdir())


class Worker:
    """A cluster of one worker, which answers with what it is given."""

    def __init__(self, python, **others):
        self.python, self.found = python, scale.software() | others

    def run(self, function, *_):
        return {"tcp://10.0.0.2:1": self.python if function is platform.python_version else self.found}


HERE = platform.python_version()


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        (Worker("3.9.1"), f"the worker tcp://10.0.0.2:1 runs Python 3.9.1 and this machine {HERE.rpartition('.')[0]}; install it there"),
        (Worker(HERE, missing="ModuleNotFoundError: No module named 's2llib'"), "cannot import s2llib (ModuleNotFoundError: No module"),
        (Worker(HERE, torch="2.0.0"), f"has torch 2.0.0 and this machine {scale.software()['torch']}, whose results may differ; install"),
        (Worker(HERE, s2llib="0123456789ab"), "has s2llib 0123456789ab and this machine"),
    ],
)
def test_workers_with_other_software_are_refused(worker, message):
    with pytest.raises(ParamsError) as error:
        scale._check_software(worker, "tcp://10.0.0.1:8786")
    assert message in str(error.value)
    scale._check_software(Worker(HERE), "tcp://10.0.0.1:8786")


def test_a_worker_without_the_library_is_one_sentence(lab, monkeypatch, tmp_path):
    """A true one, of this interpreter, which sees installed packages but neither this folder nor what is installed from a folder."""
    from dask.distributed import Client, LocalCluster

    begin = f"import sys; sys.path.append({sysconfig.get_path('purelib')!r}); from distributed.cli.dask_worker import main; main()"
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None, host="127.0.0.1", protocol="tcp") as cluster, Client(cluster):
        address = cluster.scheduler.address
        bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [sys.executable, "-S", "-c", begin, address, "--no-nanny", "--no-dashboard", "--nthreads", "1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        worker = subprocess.Popen(command, cwd=tmp_path, env=bare, **quiet)
        try:
            monkeypatch.setenv(EXECUTOR, address)
            with pytest.raises(
                ParamsError, match=r"cannot import s2llib \(ModuleNotFoundError: No module named 's2llib'\); install it there"
            ):
                check_executor(lab)
        finally:
            worker.kill()
            worker.wait()
            scale._client(address, lab.params.device, lab.params.hardware.workers).close()
            scale._client.cache_clear()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (["another key", []], "the worker tcp://10.0.0.2:1 reads another base model or other images under the same names"),
        ("base.path: /m is no pipeline.", "the worker tcp://10.0.0.2:1 refuses: base.path: /m is no pipeline."),
    ],
)
def test_workers_that_read_another_model_or_refuse_it_are_refused(changes, tmp_path, answer, message):
    class Elsewhere:
        def run(self, *_):
            return {"tcp://10.0.0.2:1": answer}

    lab = Lab.open("tiny", changes, root=tmp_path)
    with pytest.raises(ParamsError, match=message):
        scale._check_inputs(Elsewhere(), "tcp://10.0.0.1:8786", lab)


def test_a_worker_checks_its_model_and_images_itself(changes, tmp_path):
    lab = Lab.open("tiny", changes, root=tmp_path)
    params = lab.params
    missing = params.changed({"base.path": "/m"})
    assert scale._inputs(missing.model_dump(), str(tmp_path)).startswith("base.path: /m is no diffusers pipeline")
    assert scale._inputs(params.model_dump(), str(tmp_path)) == [lab.base.content, []]


def test_workers_on_another_kind_of_device_are_refused(tmp_path):
    class OnGPUs:
        def run(self, *_):
            return {"tcp://10.0.0.2:1": "cuda"}

    lab = Lab.open("tiny", {"device": "cpu"}, root=tmp_path)
    with pytest.raises(ParamsError, match=r"the worker tcp://10.0.0.2:1 has cuda and this machine cpu.*start the study on a machine like"):
        scale._check_devices(OnGPUs(), "tcp://10.0.0.1:8786", lab)
    assert scale._device("cpu") == "cpu"


def test_a_worker_forgets_that_an_earlier_run_was_fresh(lab, monkeypatch, one_thread):
    monkeypatch.setenv(FRESH, "1e18")
    monkeypatch.setenv(PROGRESS_FILE, "")
    seen = []
    monkeypatch.setattr(scale, "made", lambda *_: seen.append(os.environ.get(FRESH)))
    for fresh in ("5", None):
        scale._make(lab.params.model_dump(mode="json"), str(lab.store.root), None, fresh, [])
    assert seen == ["5", None]


def test_every_gpu_has_a_worker_of_its_own():
    visible = lambda *given: [place.get("CUDA_VISIBLE_DEVICES") for place in places(*given)]  # noqa: E731
    assert visible(None, ["0", "1"]) == ["0", "1"]
    assert visible(3, ["4", "7"]) == ["4", "7", "4"]
    assert visible(2, []) == [None, None]
    assert len(places(None, [])) == cores()
