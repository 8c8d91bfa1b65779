"""Values that the papers print and that are public. What is not here is unknown, and a report leaves it empty."""

import csv
from pathlib import Path

from s2llib.attacks import TITLES
from s2llib.finetune.methods import METHODS, PRETRAINED

__all__ = ["MIXSYN", "MIXSYN_CLEAN", "S2L_BEST_DE", "S2L_BEST_GAIN", "S2L_TRANSFER_DE"]

# Shake to Leak: largest change in SecMI AUC against the pre-trained model, over its methods
S2L_BEST_GAIN = 0.054
# Shake to Leak: (10, l2, 0.1)-eidetically memorised images per domain after fine-tuning, best method (about 0 before)
S2L_BEST_DE = 15.8
# the same after fine-tuning on public domains first, at most
S2L_TRANSFER_DE = 44.8


def _mixsyn() -> dict[tuple[int, str, str], dict[str, float]]:
    methods = {how.title: name for name, how in METHODS.items()} | {"Pre-trained": PRETRAINED}
    attacks = {title: name for name, title in TITLES.items()}
    columns = {"AUC": "auc", "TPR@1%FPR": "tpr_at_1pct_fpr", "CLIP-R (%)": "clip_r_precision", "BRISQUE": "brisque"}
    with open(Path(__file__).with_name("mixsyn_tables.csv"), newline="") as file:
        return {
            (int(row["table"]), methods[row["method"]], attacks[row["attack"]]): {name: float(row[key]) for name, key in columns.items()}
            for row in csv.DictReader(file)
        }


# MixSyn, Tables 1 to 5: {(table, method, attack): {metric: value}}
MIXSYN = _mixsyn()

# its Table 1 (fine-tuning on the clean SP set, i.e. Shake-to-Leak): (AUC, TPR@1%FPR)
MIXSYN_CLEAN = {(method, attack): (row["AUC"], row["TPR@1%FPR"]) for (table, method, attack), row in MIXSYN.items() if table == 1}
