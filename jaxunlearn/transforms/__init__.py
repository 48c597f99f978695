"""The core: both papers' update rules as optax transformations. Imports jax and optax only.

Two ideas, and what goes with them:

- *Surgery* (`surgery.py`): a multiplier weighs the retain loss against the forget loss and moves by
  what each step did to the retain loss. `aggregation.py` holds the exact, two-gradient forms.
- *Fast and slow weights* (`fast_slow.py`): a step is bent by the curvature of the retain loss.
- *Saliency* (`saliency.py`): where to forget, and which examples to forget harder.

Nothing here reduces across devices: gradients, losses and what `grad_fn` returns are global means.
`axis_name` appears on the helpers that compute them.
"""

from jaxunlearn.transforms.aggregation import (
    FamoState,
    GdrGmaState,
    UnilateralSurgeryState,
    cagrad,
    famo,
    gdr_gma,
    mgda,
    nash,
    pcgrad,
    unilateral_surgery,
)
from jaxunlearn.transforms.fast_slow import (
    FastSlowState,
    fast_slow,
    fast_slow_carry,
    shared_fast_slow,
)
from jaxunlearn.transforms.saliency import (
    SaliencyMaskState,
    adaptive_weights,
    fisher_diagonal,
    fisher_ratio_mask,
    saliency_mask,
    top_fraction_mask,
)
from jaxunlearn.transforms.surgery import (
    ImplicitSurgeryState,
    dual_gradient,
    implicit_surgery,
    loss_weights,
    multiplier,
    surgery_value_and_grad,
)

__all__ = [
    "FamoState",
    "FastSlowState",
    "GdrGmaState",
    "ImplicitSurgeryState",
    "SaliencyMaskState",
    "UnilateralSurgeryState",
    "adaptive_weights",
    "cagrad",
    "dual_gradient",
    "famo",
    "fast_slow",
    "fast_slow_carry",
    "fisher_diagonal",
    "fisher_ratio_mask",
    "gdr_gma",
    "implicit_surgery",
    "loss_weights",
    "mgda",
    "multiplier",
    "nash",
    "pcgrad",
    "saliency_mask",
    "shared_fast_slow",
    "surgery_value_and_grad",
    "top_fraction_mask",
    "unilateral_surgery",
]
