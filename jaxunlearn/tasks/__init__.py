"""What is being unlearned: tasks as pure functions (`jaxunlearn.types.Task`)."""

from jaxunlearn.tasks.classification import classification

__all__ = ["classification"]
