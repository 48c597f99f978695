"""Unsupported layouts, recognised by names of tensors, and the remedy for each."""

import re
from collections.abc import Iterable

_ONE_FILE = (
    "Stable Diffusion in one file (CompVis): read it by `jaxunlearn.models.pretrained.find(FILE, "
    "tokenizer=FOLDER)`."
)
_KNOWN = (  # a regular expression for one of the names, and the layout that has it
    (
        r"lora",
        "a LoRA, not a whole model: merge it into its model by diffusers' "
        "`load_lora_weights`, `fuse_lora`, `unload_lora_weights` and `save_pretrained`.",
    ),
    (r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\.", _ONE_FILE),
    (r"^(input_blocks|output_blocks|time_embed)\.|^(encoder\.down|decoder\.up)\.\d", _ONE_FILE),
    (
        r"^vision_model\.",
        "a whole CLIP: save its text model alone by transformers' "
        "`CLIPTextModel.from_pretrained(FOLDER).save_pretrained(FOLDER)`.",
    ),
)
_OTHER = "give the file of a model of the same kind and size."


def remedy(names: Iterable[str]) -> str:
    """The end of an error about stored tensors that do not match a model.

    Example:
        >>> print(remedy(["vision_model.embeddings.class_embedding"]))
        these are tensors of a whole CLIP: save its text model alone by transformers' ...
    """
    names = list(names)
    for expression, what in _KNOWN:
        if any(re.search(expression, name) for name in names):
            return f"these are tensors of {what}"
    return _OTHER
