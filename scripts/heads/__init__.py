"""Train the built-in "heads" models from nothing: ``python -m scripts.heads --help``."""
