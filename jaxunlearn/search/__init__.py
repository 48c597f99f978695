"""Trying many settings: the blind tuner, and sweeps under one vmap."""
