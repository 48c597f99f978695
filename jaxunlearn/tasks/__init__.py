"""What is being unlearned: tasks as pure functions (`jaxunlearn.types.Task`)."""

from jaxunlearn.tasks.classification import classification
from jaxunlearn.tasks.diffusion import diffusion

__all__ = ["classification", "diffusion"]
