"""Shadow models: many small ones at once, for the attack U-LiRA and for memorisation."""
