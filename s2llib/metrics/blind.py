"""The blind baseline: how well members and non-members separate when the model is never queried."""

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

__all__ = ["blind_scores", "caption_features", "image_features"]


def image_features(pixels: Tensor) -> np.ndarray:
    """[n, 46] of pixels [n, 3, h, w]: colour moments, gradient energy at three scales, a 4 x 4 luminance thumbnail."""
    x = pixels.double().numpy()
    moments = [x.mean((2, 3)), x.std((2, 3)), np.quantile(x, [0.05, 0.95], axis=(2, 3)).transpose(1, 2, 0).reshape(len(x), -1)]
    grey = x.mean(1)
    energy = []
    for stride in (1, 2, 4):
        small = grey[:, ::stride, ::stride]
        for axis in (1, 2):
            step = np.abs(np.diff(small, axis=axis))
            energy += [step.mean((1, 2)), step.std((1, 2)), np.quantile(step, 0.95, axis=(1, 2))]
    edge = grey.shape[1] // 4
    blocks = grey[:, : 4 * edge, : 4 * edge].reshape(len(x), 4, edge, 4, edge).mean((2, 4)).reshape(len(x), 16)
    return np.concatenate([*moments, np.stack(energy, 1), blocks], axis=1)


def caption_features(captions: tuple[str, ...]) -> np.ndarray:
    """[n, 256]: counts of the captions' words, hashed."""
    return HashingVectorizer(n_features=256, norm=None, alternate_sign=False).transform(captions).toarray()


def blind_scores(members: np.ndarray, nonmembers: np.ndarray, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Out-of-fold membership log-odds of a logistic regression on features [n, f], for members and for non-members."""
    x = np.concatenate([members, nonmembers])
    y = np.repeat([1, 0], [len(members), len(nonmembers)])
    folds = min(folds, len(members), len(nonmembers))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    odds = cross_val_predict(model, x, y, cv=split, method="decision_function")
    return odds[: len(members)], odds[len(members) :]
