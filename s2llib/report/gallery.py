"""`figures/README.md`: the tables and figures of one profile on a page that GitHub renders."""

import json

from s2llib.scores import figures_root
from s2llib.store import write_atomic

__all__ = ["write_gallery"]

# name: what it shows, in the order of the page
CAPTIONS = {
    "world": "The world: members, iid non-members and the two shifted styles of two people.",
    "base_model": "The base model: size and quality.",
    "base_reconstruction": "Photographs that no part of the model was trained on, and what the autoencoder makes of them.",
    "base_samples": "What the base model generates for a name, beside members.",
    "sp_sets": "SP sets: what the attacker generates, beside the members, which the attacker never sees.",
    "s2l_finetuning": "Fine-tuning methods: what trains, for how long.",
    "s2l_finetuning_loss": "Training loss, averaged over domains.",
    "s2l_before_after": "The same noise and prompt through the base model and each fine-tuned one.",
    "s2l_membership": "Membership inference before and after fine-tuning on self-generated images.",
    "s2l_methods": "Every method: trainable parameters, seconds, CLIP-R precision, change in AUC (iid).",
    "s2l_membership_changes": "Paired change in AUC against the pre-trained model.",
    "s2l_roc": "ROC curves (iid), logarithmic axes.",
    "s2l_timesteps": "AUC against the attack's timestep, before and after.",
    "s2l_protocols": "What the choice of the non-members does; red: the blind baseline.",
    "s2l_placebo": "Change in AUC under the shifted protocols: members, and photographs that no model saw in their place.",
    "s2l_figure1": "The attack at a glance: SP image, what the fine-tuned model draws from the same noise, the nearest private photograph.",
    "s2l_main": "Membership inference (SecMI) and extraction side by side.",
    "s2l_extraction": "Data extraction before and after fine-tuning on self-generated images.",
    "s2l_extraction_copies": "Share of photographs that are extracted (%), by how often the training set holds them.",
    "s2l_figure3": "Closest matches: SP image, S2L sample, nearest private photograph.",
    "s2l_figure4": "Extracted images per domain against delta and k; dotted: false alarms.",
    "s2l_extraction_mild": "The same count for the lab's own base model, which memorises no single image.",
    "s2l_extraction_options": "Other ways to look for a match: tiles, agreeing generations, the released code's steps.",
    "s2l_figure2_left": "Change in AUC against the LoRA rank (DreamBooth+LoRA).",
    "s2l_figure2_right": "Change in AUC against the tokens that Textual Inversion adds or removes.",
    "s2l_sp_images": "Change in AUC against the size of the SP set (DreamBooth).",
    "s2l_steps": "Change in AUC against fine-tuning steps (DreamBooth).",
    "s2l_model_scale": "Change in AUC against the size of the base model (DreamBooth).",
    "s2l_prior_sets": "Prior knowledge: what the attacker fine-tunes on, by what is known.",
    "s2l_prior_knowledge": "AUC (iid) by prior knowledge, and its change against the pre-trained model.",
    "s2l_prior_knowledge_trend": "How the change in AUC moves from no prior knowledge to public photographs.",
    "s2l_prior_extraction": "Data extraction by prior knowledge.",
    "s2l_zero_prior": "No prior knowledge, on a small unconditional model: AUC (iid) and its change.",
    "s2l_domain_transfer": "Public domains first: AUC (iid) and its change.",
    "s2l_domain_transfer_contrasts": "Public domains first against S2L alone, and against the public photographs alone.",
    "s2l_domain_transfer_extraction": "Public domains first: data extraction.",
    "bb_figure1": "The black-box attack at a glance: a query photograph, and what its caption brings out of the fine-tuned model.",
    "bb_captioner": "Captions for Attack-II and IV: share (%) of the true captions that the captioner finds.",
    "bb_scenarios": "Black-box membership inference: four scenarios, three inference models.",
    "bb_controls": "Controls: a model that is to leak, and models that never saw the photographs.",
    "bb_blind": "A classifier that sees photographs and captions and never asks a model.",
    "bb_figure2": "Accuracy of the hard decision against the threshold.",
    "bb_figure3": "AUC by image encoder (Attack-I).",
    "bb_similarity": "AUC by similarity measure, form and aggregate over generations (Attack-I).",
    "bb_figure4": "AUC against fine-tuning steps (Attack-I).",
    "bb_train_size": "AUC against the size of the fine-tuning set, at equal epochs (Attack-I).",
    "bb_figure5": "AUC against inference steps, one generation a query (Attack-I).",
    "bb_queries": "AUC against the number of generations a query (Attack-I).",
    "bb_wording": "AUC when the caption is asked for in other words (Attack-I).",
    "bb_dp_sgd": "DP-SGD: privacy guarantee, what was learnt, AUC (Attack-I), CLIP-R precision.",
    "mixsyn_figure1": "MixSyn at a glance: SP images, perturbed, mixed; what the base, S2L and the defended model then draw.",
    "mixsyn_figure2": "The perturbation, magnified, beside Gaussian noise of the same size.",
    "mixsyn_figure3": "The mixing strategies: by image, by pixel, by one part; below each what it perturbs, magnified.",
    "mixsyn_table1": "MixSyn, Table 1: fine-tuning on the clean SP set (plain S2L).",
    "mixsyn_table2": "MixSyn, Table 2: fine-tuning on the fully perturbed SP set.",
    "mixsyn_table3": "MixSyn, Table 3: Mixup-I.",
    "mixsyn_table4": "MixSyn, Table 4: Mixup-P.",
    "mixsyn_table5": "MixSyn, Table 5: the part that is fine-tuned.",
    "mixsyn_figure4": "AUC against the mixup ratio; dashed: the pre-trained model; crosses: the paper's values.",
    "mixsyn_baselines": "The defence and its baselines.",
    "mixsyn_gaussian": "The adversarial perturbation against Gaussian noise of the same size: difference in AUC.",
    "mixsyn_adaptive": "An attacker who chooses attack, timestep and sign on models with the same defence.",
    "mixsyn_again": "Shake-to-Leak on top of a defended model: difference in AUC from the defended and the pre-trained one.",
    "mixsyn_extraction": "Data extraction from defended models.",
    "audit_membership": "An audit of the base model: every attack, and the one named beforehand.",
    "audit_roc": "The audit's ROC curves, logarithmic axes.",
    "audit_changes": "The audit before and after Shake-to-Leak, plain and on MixSyn's set.",
    "audit_extraction": "The audit's extraction.",
    "audit_gallery": "Closest matches: suspected image, the nearest generated one, the nearest after S2L.",
    "audit_trials": "Seeded audits where the truth is known.",
}

# linked, not printed
WIDE_TABLES = (
    "s2l_timesteps",
    "s2l_figure4",
    "s2l_figure2_left",
    "s2l_figure2_right",
    "s2l_sp_images",
    "s2l_steps",
    "s2l_model_scale",
    "bb_figure2",
    "mixsyn_figure4",
)


def write_gallery(profile: str) -> None:
    """Write the gallery of a finished profile."""
    folder = figures_root() / profile
    source = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    hardware, commits = source["hardware"], sorted({made["commit"][:12] for made in source["files"].values()})
    seeds = ", ".join(f"{name} {value}" for name, value in source["seeds"].items())
    lines = [
        f"# Gallery: the `{profile}` run",
        "",
        f"Made with torch {source['packages']['torch']} on {hardware['processor']} ({hardware['threads']} threads),"
        f" seeds: {seeds}; commit {', '.join(commits)}. Every file's provenance: [provenance.json]({profile}/provenance.json).",
    ]
    for name, caption in CAPTIONS.items():
        if not any((folder / f"{name}.{kind}").is_file() for kind in ("png", "md")):
            continue
        links = [f"[{kind}]({profile}/{name}.{kind})" for kind in ("pdf", "csv", "tex") if (folder / f"{name}.{kind}").is_file()]
        lines += ["", f"## {name}", "", f"{caption} {' · '.join(links)}"]
        if (folder / f"{name}.png").is_file():
            lines += ["", f"![{caption}]({profile}/{name}.png)"]
        if (folder / f"{name}.md").is_file() and name not in WIDE_TABLES:
            lines += ["", (folder / f"{name}.md").read_text(encoding="utf-8").strip()]
    write_atomic(figures_root() / "README.md", "\n".join(lines) + "\n")
