"""Tasks: the losses per example of models, as pure functions (`jaxunlearn.types.Task`)."""

from jaxunlearn.tasks.autoencoding import autoencoding
from jaxunlearn.tasks.classification import classification
from jaxunlearn.tasks.diffusion import diffusion
from jaxunlearn.tasks.latent_diffusion import latent_diffusion

__all__ = ["autoencoding", "classification", "diffusion", "latent_diffusion"]
