"""Every artifact of the studies: importing this fills the registry."""

from s2llib.compute import blackbox, extraction, images, models, quality, scores, soundness, tuning, zero_prior

__all__ = ["blackbox", "extraction", "images", "models", "quality", "scores", "soundness", "tuning", "zero_prior"]
