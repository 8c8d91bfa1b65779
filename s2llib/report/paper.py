"""Values that the papers print and that are public. What is not here is unknown, and a report leaves it empty."""

__all__ = ["MIXSYN_CLEAN", "S2L_BEST_DE", "S2L_BEST_GAIN", "S2L_TRANSFER_DE"]

# Shake to Leak: largest change in SecMI AUC against the pre-trained model, over its methods
S2L_BEST_GAIN = 0.054
# Shake to Leak: (10, l2, 0.1)-eidetically memorised images per domain after fine-tuning, best method (about 0 before)
S2L_BEST_DE = 15.8
# the same after fine-tuning on public domains first, at most
S2L_TRANSFER_DE = 44.8

# MixSyn, Table 1 (fine-tuning on the clean SP set, i.e. Shake-to-Leak): (AUC, TPR@1%FPR)
MIXSYN_CLEAN = {
    ("pretrained", "secmi"): (0.715, 0.165),
    ("pretrained", "pia"): (0.712, 0.162),
    ("dreambooth", "secmi"): (0.752, 0.170),
    ("dreambooth", "pia"): (0.749, 0.169),
    ("lora", "secmi"): (0.741, 0.167),
    ("lora", "pia"): (0.738, 0.166),
    ("dreambooth_lora", "secmi"): (0.761, 0.174),
    ("dreambooth_lora", "pia"): (0.758, 0.172),
    ("textual_inversion", "secmi"): (0.735, 0.168),
    ("textual_inversion", "pia"): (0.733, 0.167),
}
