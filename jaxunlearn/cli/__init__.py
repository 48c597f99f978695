"""The command line: `main` dispatches, `commands` has a function per command, `flags` its flags."""
