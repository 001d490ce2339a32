"""The older place of run_class."""

from .methods import run_class as run_class
