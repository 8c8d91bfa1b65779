"""The Olivetti photographs (AT&T Laboratories Cambridge): 40 people, 10 grey photographs of 64 x 64 each."""

import os
import socket
from pathlib import Path

import numpy as np

from s2llib.params import ParamsError, resolved

__all__ = ["olivetti"]

_FILE = "olivetti_py3.pkz"


def olivetti(data_home: str | None) -> np.ndarray:
    """[40, 10, 64, 64, 3] uint8, through scikit-learn, which downloads them (4 MB) unless they are in its data_home.

    Raises ParamsError when they are not there and cannot be downloaded.
    """
    from sklearn.datasets import fetch_olivetti_faces

    home = resolved(data_home) if data_home else Path(os.environ.get("SCIKIT_LEARN_DATA") or "~/scikit_learn_data").expanduser()
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(15)
    try:
        faces = fetch_olivetti_faces(data_home=str(home), n_retries=1, delay=0.1).images
    except Exception:  # no network, no right to write, or a damaged file: one mend for all
        raise ParamsError(
            f"The Olivetti photographs are not in {home} (or damaged there) and cannot be downloaded; on a machine with a network run"
            f" `python -c 'from sklearn.datasets import fetch_olivetti_faces as f; f()'`, copy {_FILE} from its"
            f" ~/scikit_learn_data to {home}, or set world.data_home to the folder that holds it."
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
    grey = (faces.reshape(40, 10, 64, 64) * 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
