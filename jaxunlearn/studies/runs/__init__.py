"""One run in one folder: trained, evaluated, verified."""
