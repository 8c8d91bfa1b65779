"""The same cells on this machine's cores or on a Dask cluster.

The result of a cell is an artifact, so computing cells elsewhere means filling the shared store; reading the results
afterwards is the same code as ever. `$S2L_DASK` turns it on: a scheduler's address (its workers must see the store's
folder), or `local` for one single-threaded worker per core of this machine.
"""

import os
from typing import TYPE_CHECKING

from s2llib.params import Params, ParamsError
from s2llib.progress import track

if TYPE_CHECKING:
    from s2llib.study import Study

__all__ = ["precompute"]


def _compute(params: dict, root: str, stage: str, cell: tuple[str, str, int]) -> None:
    """On a worker: make the artifact of one cell."""
    import torch

    from s2llib.study import Study

    torch.set_num_threads(1)
    study = Study(Params.model_validate(params), root)
    domain, method, seed = cell
    getattr(study, stage)({d.name: d for d in study.domains}[domain], method, seed)


def precompute(study: "Study", stage: str, cells: list[tuple]) -> None:
    """Make the artifacts of cells (domain, method, seed) on the cluster that $S2L_DASK names; without it, do nothing.

    stage: the method of Study that makes one, such as `finetuned`.
    """
    address = os.environ.get("S2L_DASK")
    if not address:
        return
    try:
        from dask.distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise ParamsError("S2L_DASK is set but Dask is not installed; pip install 's2llib[cluster]' or unset it.") from None
    study.base_folder  # noqa: B018  trained once, here, not by every worker
    where = LocalCluster(n_workers=os.cpu_count(), threads_per_worker=1, dashboard_address=None) if address == "local" else address
    with Client(where) as client:
        params, root = study.params.model_dump(), str(study.store.root.resolve())
        futures = [client.submit(_compute, params, root, stage, (d.name, method, seed), pure=False) for d, method, seed in cells]
        for future in track(as_completed(futures), f"{stage} on the cluster", len(futures)):
            future.result()
    if address == "local":
        where.close()
