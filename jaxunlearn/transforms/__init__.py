# ruff: noqa: I001 (one import of each module)
"""The core: the update rules of both papers as optax transformations. Imports jax and optax only.

- *Surgery* (`surgery.py`): a multiplier weighs the retain loss against the forget loss, and follows
  the change of the retain loss in each step. `aggregation.py` has the exact forms, from two
  gradients.
- *Fast and slow weights* (`fast_slow.py`): the curvature of the retain loss bends each step.
- *Saliency* (`saliency.py`): masks of parameters, and weights of examples.

Nothing here reduces across devices: gradients, losses and the result of `grad_fn` are global means.
The helpers that compute them take `axis_name`.

The imports below define the exports of `jaxunlearn`.
"""

from jaxunlearn.transforms.aggregation import (
    CagradState as CagradState,
    FamoState as FamoState,
    GdrGmaState as GdrGmaState,
    UnilateralSurgeryState as UnilateralSurgeryState,
    cagrad as cagrad,
    famo as famo,
    gdr_gma as gdr_gma,
    mgda as mgda,
    nash as nash,
    pcgrad as pcgrad,
    unilateral_surgery as unilateral_surgery,
)
from jaxunlearn.transforms.fast_slow import (
    FastSlowState as FastSlowState,
    fast_slow as fast_slow,
    fast_slow_carry as fast_slow_carry,
    shared_fast_slow as shared_fast_slow,
)
from jaxunlearn.transforms.saliency import (
    SaliencyMaskState as SaliencyMaskState,
    adaptive_weights as adaptive_weights,
    fisher_diagonal as fisher_diagonal,
    fisher_ratio_mask as fisher_ratio_mask,
    saliency_mask as saliency_mask,
    top_fraction_mask as top_fraction_mask,
)
from jaxunlearn.transforms.surgery import (
    ImplicitSurgeryState as ImplicitSurgeryState,
    LastStep as LastStep,
    dual_gradient as dual_gradient,
    implicit_surgery as implicit_surgery,
    loss_weights as loss_weights,
    multiplier as multiplier,
    surgery_value_and_grad as surgery_value_and_grad,
)
from jaxunlearn.types import InputError as InputError
from jaxunlearn.types import LossPair as LossPair
