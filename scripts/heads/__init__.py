"""Train the built-in "heads" models from scratch: ``python -m scripts.heads --help``."""
