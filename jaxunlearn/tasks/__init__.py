"""Losses per example of the models to unlearn from, as pure functions (`jaxunlearn.types.Task`)."""

from jaxunlearn.tasks.autoencoding import autoencoding
from jaxunlearn.tasks.classification import classification
from jaxunlearn.tasks.diffusion import diffusion
from jaxunlearn.tasks.latent_diffusion import latent_diffusion

__all__ = ["autoencoding", "classification", "diffusion", "latent_diffusion"]
