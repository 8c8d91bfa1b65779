"""The same cells side by side: on this machine's cores or GPUs, or on a Dask cluster.

The result of a cell is an artifact, so computing cells elsewhere means filling the shared store; reading the results
afterwards is the same code as ever. `$S2L_DASK` (`--executor`) names a scheduler's address, whose workers see the store's
folder, or `local` for workers on this machine, one for each GPU, or for each core where there is none; small models on a processor
are computed that way unasked (`Lab.workers`), for they do not fill several threads.
"""

import json
import logging
import os
import platform
import sys
import threading
import uuid
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from s2llib.artifact import REGISTRY, about, finished, key, made, needed, parts
from s2llib.lab import Lab
from s2llib.models.hardware import cores
from s2llib.models.pipeline import pick_device
from s2llib.params import Params, ParamsError, first_line
from s2llib.progress import PROGRESS_FILE, track
from s2llib.scores import tables_only
from s2llib.store import FRESH, DiskFull

if TYPE_CHECKING:
    from dask.distributed import Client, SpecCluster

__all__ = ["EXECUTOR", "check_executor", "places", "run", "side_by_side"]

EXECUTOR = "S2L_DASK"
RETRIES = 2  # of a cell that failed, and of one whose worker died
ANSWER = "20 s"  # until an address that does not answer is given up
WORKER = 600  # seconds until a cluster without a worker is given up: a batch queue takes its time

_one_cell = threading.Lock()  # in a process: fine-tuning seeds torch's global generator


@lru_cache(maxsize=1)
def _lab(params: str, root: str) -> Lab:
    """On a worker: the lab of its cells, whose base model stays in memory."""
    return Lab(Params.model_validate_json(params), root)


def _make(params: dict, root: str, spec: object, fresh: str | None, _after: list) -> str:
    """On a worker: make what a specification says, after its parts. Returns why it cannot be made, where trying again would not help."""
    with _one_cell:
        os.environ.pop(FRESH, None)  # of an earlier run that this worker served
        os.environ |= {FRESH: fresh} if fresh else {}
        os.environ[PROGRESS_FILE] = os.devnull  # the line of progress is that of whoever hands out the cells
        torch.set_num_threads(1)
        try:
            made(_lab(json.dumps(params), root), spec)
        except (ParamsError, DiskFull) as error:
            return str(error)
    return ""


def places(workers: int | None, gpus: list[str]) -> list[dict[str, str]]:
    """The environment of every worker on this machine: so many, GPUs in turn; None: one for each GPU, else for each core."""
    count = workers or len(gpus) or cores()
    return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {} for i in range(count)]


def _gpus(device: str) -> list[str]:
    """The GPUs that a study may use, as $CUDA_VISIBLE_DEVICES calls them."""
    if device == "cpu":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())])[: torch.cuda.device_count()]


@cache
def _has_dashboard() -> bool:
    """Whether the dashboard can be drawn: bokeh, and what Dask makes of it, can be imported."""
    try:
        import distributed.dashboard.scheduler  # noqa: F401
    except Exception:  # a package that is broken, not only one that is missing; Dask itself survives the latter alone
        return False
    return True


def _local_cluster(device: str, workers: int | None) -> "SpecCluster":
    """Single-threaded workers in processes of their own; one that dies is started again."""
    from dask.distributed import Nanny, Scheduler, SpecCluster

    served = {"dashboard_address": "127.0.0.1:0", "dashboard": _has_dashboard(), "host": "127.0.0.1", "allowed_failures": RETRIES}
    options = {"nthreads": 1, "memory_limit": None, "dashboard": False, "host": "127.0.0.1"}
    each = {i: {"cls": Nanny, "options": options | {"env": env}} for i, env in enumerate(places(workers, _gpus(device)))}
    return SpecCluster(workers=each, scheduler={"cls": Scheduler, "options": served}, silence_logs=logging.ERROR)


def _dask() -> type:
    """Dask's client; raises ParamsError where it is not installed."""
    try:
        from dask.distributed import Client
    except Exception as error:
        raise ParamsError(
            f"${EXECUTOR} is set but Dask cannot be imported ({first_line(error)}); pip install -e '.[cluster]', or unset it."
        ) from None
    return Client


@cache
def _client(address: str, device: str, workers: int | None) -> "Client":
    """A connection, kept for the next cells; raises ParamsError where nothing answers."""
    Client = _dask()
    logging.getLogger("distributed").setLevel(logging.ERROR)  # when this process ends, too
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "error")  # of workers on this machine
    try:
        client = Client(_local_cluster(device, workers) if address == "local" else address, timeout=ANSWER)
    except (OSError, ValueError):
        raise ParamsError(
            f"--executor {address}: no Dask scheduler answers there within {ANSWER}; check the address and that `dask scheduler` runs, or"
            " give `local`."
        ) from None
    except Exception as error:  # of another version of Dask there, or an encrypted address without keys
        raise ParamsError(
            f"--executor {address}: there is no speaking with the scheduler ({first_line(error)}); install there the Dask that is here."
        ) from None
    try:
        client.wait_for_workers(1, timeout=WORKER)
    except TimeoutError:
        raise ParamsError(
            f"--executor {address}: the scheduler has had no worker for {WORKER} s; start some: dask worker {address} --nthreads 1"
        ) from None
    if address == "local" and _has_dashboard():
        print(f"Dask's dashboard: {client.dashboard_link}", file=sys.stderr)
    return client


def check_executor(lab: Lab) -> None:
    """Raises ParamsError unless the cluster of $S2L_DASK answers and its workers compute for this store; nothing without one."""
    address = os.environ.get(EXECUTOR)
    if not address:
        return
    if address != "local" and "://" not in address:
        raise ParamsError(f"--executor {address}: write `local`, or a scheduler's address such as tcp://10.0.0.1:8786.")
    if address == "local":
        _dask()
        return
    client = _client(address, lab.params.device, lab.params.hardware.workers)
    _check_software(client, address)
    _check_shared(client, address, lab.store.root.resolve())
    _check_devices(client, address, lab)
    _check_inputs(client, address, lab)


def software() -> dict[str, str]:
    """What results depend on: Python, the packages that compute, and a digest of this library's sources.

    It is sent to workers by value and knows nothing of this module: the library may be missing there, or be another version.
    """
    import hashlib
    import platform
    from importlib import metadata
    from pathlib import Path

    try:
        import s2llib
    except Exception as error:
        return {"missing": f"{type(error).__name__}: {error}".splitlines()[0]}
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("torch", "diffusers", "transformers", "peft", "numpy", "pillow"):
        try:
            found[package] = metadata.version(package).split("+")[0]  # after it: for which GPU it was built
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    root, sources = Path(s2llib.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sources.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return found | {"s2llib": sources.hexdigest()[:12]}


def _check_software(client: "Client", address: str) -> None:
    """Every worker has this library, its very sources, and the same versions of what computes: what it makes is addressed as ours."""
    import cloudpickle

    own, mend = software(), "install it there from the same folder, or from the same commit with constraints.txt, and start the worker anew"
    for worker, python in client.run(platform.python_version).items():  # first: another Python does not read functions of this one
        if python.split(".")[:2] != own["Python"].split("."):
            raise ParamsError(f"--executor {address}: the worker {worker} runs Python {python} and this machine {own['Python']}; {mend}.")
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        answers = client.run(software)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    for worker, theirs in answers.items():
        if reason := theirs.get("missing"):
            raise ParamsError(f"--executor {address}: the worker {worker} cannot import s2llib ({reason}); {mend}.")
        for name, version in own.items():
            if theirs[name] != version:
                raise ParamsError(
                    f"--executor {address}: the worker {worker} has {name} {theirs[name]} and this machine {version}, whose results may"
                    f" differ; {mend}."
                )


def _check_inputs(client: "Client", address: str, lab: Lab) -> None:
    """Every worker finds the same model and images, and would refuse nothing that is admitted here."""
    own = _addresses(lab)
    for worker, found in client.run(_inputs, lab.params.model_dump(), str(lab.store.root.resolve())).items():
        if isinstance(found, str):
            raise ParamsError(f"--executor {address}: the worker {worker} refuses: {found}")
        if found != own:
            raise ParamsError(
                f"--executor {address}: the worker {worker} reads another base model or other images under the same names; give paths on a"
                " file system that all machines share."
            )


def _inputs(params: dict, root: str) -> list | str:
    """On a worker: what the model and the images there are addressed by, or why they cannot be used."""
    try:
        lab = Lab(Params.model_validate(params), root)
        lab.check()
        return _addresses(lab)
    except (ParamsError, DiskFull) as error:
        return str(error)


def _check_devices(client: "Client", address: str, lab: Lab) -> None:
    """Every worker computes on the kind of device that is here: an artifact is addressed by it."""
    for worker, found in client.run(_device, lab.params.device).items():
        if found != lab.device.type:
            raise ParamsError(
                f"--executor {address}: the worker {worker} has {found} and this machine {lab.device.type}, whose results differ in"
                " their last digits; start the study on a machine like its workers, or set device=cpu."
            )


def _device(wanted: str) -> str:
    """On a worker: what it would compute on, or why it cannot."""
    try:
        return pick_device(wanted).type
    except ParamsError as error:
        return f"no such device ({error})"


def _addresses(lab: Lab) -> list:
    """What a study's model and, of a folder, its images are addressed by."""
    return [lab.base.content, [domain.digest for domain in lab.domains] if lab.params.world.kind == "folder" else []]


def _check_shared(client: "Client", address: str, root: Path) -> None:
    """Every worker sees a file that is written here."""
    root.mkdir(parents=True, exist_ok=True)
    token = root / f".{uuid.uuid4().hex}"
    token.touch()
    try:
        blind = [worker for worker, sees in client.run(os.path.exists, str(token)).items() if not sees]
    finally:
        token.unlink()
    if blind:
        raise ParamsError(
            f"--executor {address}: the worker {blind[0]} does not see {root}; put the store on a file system that all machines share and"
            " set $S2L_HOME to it."
        )


def side_by_side(lab: Lab) -> str:
    """Where artifacts are made side by side: the address that $S2L_DASK holds, or `local`; empty: nowhere."""
    return "" if tables_only() else os.environ.get(EXECUTOR) or ("local" if lab.workers > 1 else "")


def run(lab: Lab, specs: list, what: str) -> None:
    """Make what these specifications say, and their parts, on the cluster that $S2L_DASK names or by `lab.workers` processes here; do
    nothing where this process is alone: what is missing is made where it is asked for.

    One that fails, or whose worker dies, is tried again and does not stop the others; raises ParamsError or RuntimeError for the first
    that cannot be made, when all the others are.
    """
    address = side_by_side(lab)
    missing = [spec for spec in needed(lab, specs) if not finished(lab, spec)] if address else []
    if len(missing) < (1 if os.environ.get(EXECUTOR) else 2):
        return
    client = _client(address, lab.params.device, lab.params.hardware.workers or lab.workers)
    from dask.distributed import as_completed

    params, root, fresh = lab.params.model_dump(mode="json"), str(lab.store.root.resolve()), os.environ.get(FRESH)
    named: dict = {}  # {key: (future, specification)}, parts first
    for spec in missing:
        after = [named[each][0] for part in parts(spec) if (each := key(lab, part)) in named]
        named[key(lab, spec)] = client.submit(_make, params, root, spec, fresh, after, pure=False, retries=RETRIES), spec
    for _ in track(as_completed([future for future, _ in named.values()]), what, len(named)):
        pass
    for future, spec in named.values():
        if future.status == "error":
            raise RuntimeError(_sentence(spec, future.exception()))
        if refusal := future.result():
            raise ParamsError(refusal)


def _sentence(spec: object, error: BaseException) -> str:
    """What became of a specification that could not be made."""
    from dask.distributed import KilledWorker

    if isinstance(error, KilledWorker):
        why = (
            "its worker died each time, most likely for want of memory; start workers with --memory-limit 0, or lower attacks.batch,"
            " sp.batch or hardware.workers"
        )
    else:
        why = f"it failed {RETRIES + 1} times: {first_line(error)}"
    return f"{REGISTRY[type(spec)].name} of {about(spec)}: {why}. Run the same command again to go on from here."
