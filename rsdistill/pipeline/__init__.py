"""A run: its configuration, its stages, and how they are kept and resumed."""
