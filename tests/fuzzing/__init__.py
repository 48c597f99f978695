"""Damaged input of every kind, drawn by hypothesis; `experiments/verification/fuzz.py` runs it."""
