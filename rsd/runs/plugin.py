"""A user's own object, named ``module:name`` on the command line. Importing it runs that module's code."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def find(spec: str, *, what: str, example: str) -> Any:
    """The object that ``spec`` (``module:name``) names, from a module of the current folder or an installed one.

    ``what`` is what the object is for, as errors call it; ``example`` a well-formed name. Raises ValueError for a
    malformed name or one the module lacks, ImportError (its cause being the module's own) if it does not import.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ValueError(f'The {what} "{spec}" is not of the form module:name, e.g. {example}.')
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ImportError(f'The {what} "{spec}" cannot be imported ({error}); is its file in {here}?') from error
    except Exception as error:  # the user's own code runs here
        raise ImportError(f'The {what} "{spec}" cannot be imported ({_told(error)}); mend its module.') from error
    finally:
        sys.path.remove(here)
    if not hasattr(module, attribute):
        raise ValueError(f'The {what} "{spec}" was not found: module {module_name} has no "{attribute}".')
    return getattr(module, attribute)
