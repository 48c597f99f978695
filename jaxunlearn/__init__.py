"""jaxunlearn: make a trained model forget, with optax gradient transformations.

`import jaxunlearn` is the core and needs jax and optax only. The rest is imported by name:
`jaxunlearn.methods`, `jaxunlearn.tasks`, `jaxunlearn.training`, `jaxunlearn.evaluation`,
`jaxunlearn.models`, `jaxunlearn.data`, `jaxunlearn.report`.
"""

from jaxunlearn.transforms import *  # noqa: F403
from jaxunlearn.transforms import __all__ as _transforms
from jaxunlearn.types import InputError, LossPair
from jaxunlearn.version import __version__


__all__ = [*_transforms, "InputError", "LossPair", "__version__"]
