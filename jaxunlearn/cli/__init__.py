"""The commands: `main` finds them, `commands` has one function for each, `flags` their flags."""
