"""Unsupported layouts, recognised by names of tensors, and the remedy for each."""

import re
from collections.abc import Iterable

_ONE_FILE = (
    "Stable Diffusion in one file (CompVis): convert it by diffusers' "
    "`StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)`."
)
_SUPPORTED = "supported are timm's ResNets and ViTs and torchvision's ResNets."
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
    (r"relative_position_bias_table", f"a Swin transformer; {_SUPPORTED}"),
    (r"^(vit\.)?embeddings\.patch_embeddings\.", f"transformers' ViT; {_SUPPORTED}"),
    (r"^encoder\.layers\.encoder_layer_\d|^conv_proj\.", f"torchvision's ViT; {_SUPPORTED}"),
    (r"^(resnet\.)?embedder\.embedder\.", f"transformers' ResNet; {_SUPPORTED}"),
    (r"^features\.", f"a VGG, a DenseNet or another of torchvision's networks; {_SUPPORTED}"),
)
_OTHER = "give the file of a model of the same kind and size."


def remedy(names: Iterable[str]) -> str:
    """The end of an error about stored tensors that do not match a model.

    Example:
        >>> print(remedy(["features.0.weight", "classifier.6.bias"]))
        these are tensors of a VGG, a DenseNet or another of torchvision's networks; supported ...
    """
    names = list(names)
    for expression, what in _KNOWN:
        if any(re.search(expression, name) for name in names):
            return f"these are tensors of {what}"
    return _OTHER
