"""s2llib: can fine-tuning shake private training images out of an image generator, and can that be stopped?"""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its import notes that torchvision, which nothing here needs, is missing
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from s2llib import studies  # noqa: F401  what they refuse, and every artifact
from s2llib.lab import Lab
from s2llib.params import ParamsError

__all__ = ["Lab", "ParamsError"]
