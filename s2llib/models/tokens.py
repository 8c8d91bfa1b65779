"""Tokenizers of text encoders: loaded in one way, so that every place agrees on how many tokens a prompt has."""

import json
from pathlib import Path

from s2llib.params import ParamsError

__all__ = ["encoder_config", "load_tokenizer"]


def encoder_config(folder: Path) -> dict:
    """What text_encoder/config.json of a pipeline's folder says of the text encoder; of a whole CLIP pair, of its text tower."""
    config = json.loads((folder / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    return config | (config.get("text_config") or {})


def load_tokenizer(folder: Path | str, config: dict, key: str):
    """The CLIP tokenizer of a folder (or of a name on the hub) for the text encoder of this config.

    Its `model_max_length` is the encoder's number of positions where the tokenizer states none: every prompt is padded and cut to it.
    Raises ParamsError, with the mend, for what cannot be read or does not fit the encoder.
    """
    from transformers import CLIPTokenizer

    where, positions, rows = f"{key}: {folder}", config.get("max_position_embeddings", 77), config.get("vocab_size", 49408)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=Path(folder).is_dir())
        stated = float(tokenizer.model_max_length)
    except Exception as error:  # the reader of tokenizer.json raises bare exceptions
        raise ParamsError(f"{where} cannot be read ({_why(Path(folder), error)}); copy the model's tokenizer again.") from None
    if stated > 1e9:  # transformers' number for none
        stated = positions
    if not 3 <= stated <= positions:
        raise ParamsError(
            f"{where} states a model_max_length of {stated:g}, but its text encoder reads 3 to {positions} tokens"
            f" (max_position_embeddings); write {positions} in tokenizer_config.json."
        )
    tokenizer.model_max_length = int(stated)
    if (most := max(tokenizer.get_vocab().values())) >= rows:
        raise ParamsError(
            f"{where} has {most + 1} tokens, but its text encoder embeds {rows} (vocab_size): the last, '{tokenizer.decode([most])}', would"
            " have no embedding; save tokenizer and text encoder together, the latter after resize_token_embeddings(len(tokenizer))."
        )
    if tokenizer.pad_token is None:
        raise ParamsError(f'{where} has no pad_token; write "pad_token": "<|endoftext|>" in tokenizer_config.json.')
    return tokenizer


def _why(folder: Path, error: Exception) -> str:
    """What is wrong with a tokenizer's files, as far as it can be seen; else the library's own words."""
    for name in ("tokenizer_config.json", "tokenizer.json", "vocab.json", "special_tokens_map.json", "added_tokens.json"):
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except ValueError:
            return f"{name} is no JSON"
    for name, other in (("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")):
        if (folder / name).is_file() and not (folder / other).is_file():
            return f"it has {name} but no {other}"
    return " ".join(str(error).split())[:200].rstrip(".")
