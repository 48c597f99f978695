"""Trying many settings: the blind tuner, and sweeps as one program."""
