"""The command line: `main` has the commands and their options."""
