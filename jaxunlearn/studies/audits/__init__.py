"""Evidence beyond accuracies: relearning, probes, calibration, and worst-case requests."""
