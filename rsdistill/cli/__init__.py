"""The command line: arguments and YAML to the same functions that a notebook calls; nothing else."""
