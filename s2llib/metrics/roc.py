"""ROC statistics of membership scores, exact under ties."""

import numpy as np

__all__ = ["auc", "pair_order", "roc_curve", "tpr_at_fpr"]


def pair_order(members: np.ndarray, nonmembers: np.ndarray) -> np.ndarray:
    """[m, n]: 1 where the member scores higher, 1/2 on a tie, else 0. Its mean is the AUC (Mann-Whitney)."""
    difference = members[:, None] - nonmembers[None, :]
    return (np.sign(difference) + 1) / 2


def auc(members: np.ndarray, nonmembers: np.ndarray) -> float:
    """Area under the ROC curve."""
    return float(pair_order(members, nonmembers).mean())


def _cumulated(members, nonmembers, member_weights, nonmember_weights) -> tuple[np.ndarray, np.ndarray]:
    """FPR and TPR [..., g] at each distinct threshold, descending; weights are [..., n] bootstrap counts."""
    scores = np.concatenate([members, nonmembers])
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    is_member = order < len(members)

    def rate(weights: np.ndarray, mine: np.ndarray) -> np.ndarray:
        spread = np.zeros((*weights.shape[:-1], len(order)))
        spread[..., mine] = weights[..., order[mine] - (0 if mine is is_member else len(members))]
        return (spread.cumsum(-1) / weights.sum(-1, keepdims=True))[..., last_of_tie]

    return rate(nonmember_weights, ~is_member), rate(member_weights, is_member)


def tpr_at_fpr(members, nonmembers, fpr: float = 0.01, member_weights=None, nonmember_weights=None) -> np.ndarray:
    """Largest TPR of a threshold whose FPR is at most `fpr`; with weights [b, n], one value for each of b resamples."""
    wm = np.ones(len(members)) if member_weights is None else member_weights
    wn = np.ones(len(nonmembers)) if nonmember_weights is None else nonmember_weights
    false, true = _cumulated(np.asarray(members), np.asarray(nonmembers), wm, wn)
    return np.where(false <= fpr + 1e-12, true, 0).max(-1)


def roc_curve(members: np.ndarray, nonmembers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(FPR, TPR) at each distinct threshold, from (0, 0) to (1, 1)."""
    ones = np.ones(len(members)), np.ones(len(nonmembers))
    false, true = _cumulated(np.asarray(members), np.asarray(nonmembers), *ones)
    return np.append(0, false), np.append(0, true)
