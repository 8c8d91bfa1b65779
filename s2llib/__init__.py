"""s2llib: can fine-tuning shake private training images out of an image generator, and can that be stopped?"""

from s2llib.params import ParamsError
from s2llib.study import Study

__all__ = ["ParamsError", "Study"]
