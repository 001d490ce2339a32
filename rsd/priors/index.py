"""Read the small JSON files of a pipeline before anything heavy is imported or loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsd.hub import built_in_folder, fetch, read_json
from rsd.priors.families import BY_PIPELINE, FAMILIES, Family, image_side
from rsd.runs.words import with_article

FLOW, FEW = "heads-flow", "heads-flow-few"
FLOWS = {FLOW: "flow", FEW: "flow-few"}
"""Built-in flow priors over heads."""
POSED = "heads-views"
"""The built-in prior over heads that knows where the camera stands, with all but the UNet of "heads"."""
HEADS = {"heads": "latent", POSED: "views", "heads-pixels": "pixel", **FLOWS}
"""Built-in priors over heads: name and folder inside the package's weights."""
SHARED: dict[str, dict[str, str]] = {
    POSED: dict.fromkeys(("vae", "text_encoder", "tokenizer"), "heads"),
    FLOW: {"vae": "heads"},
    FEW: {"vae": "heads", **dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"), FLOW)},
}
"""Parts that built-in priors have from another one, and from which."""
PHOTOS = "photos"
"""The built-in prior of photographs, and its folder."""
BUILT_IN = {**HEADS, PHOTOS: PHOTOS}
"""All built-in priors."""

MARKER = "model_index.json"
SINGLE = ".safetensors"

Parts = dict[str, tuple[str, ...]]
LATENT: Parts = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
PIXEL: Parts = {
    "unet": ("UNet2DConditionModel",),
    "text_encoder": ("T5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
}
PLAIN_PIXEL: Parts = {"unet": ("UNet2DModel",)}
PHOTO: Parts = {"unet": ("PhotoNet",)}
PHOTO_PIPELINE = "PhotoPipeline"
"""The class of pipelines that :func:`rsd.priors.photo.save_photo` writes; their network is of this package."""
PIPELINES = {
    "StableDiffusionPipeline": LATENT,
    "StableDiffusionImg2ImgPipeline": LATENT,
    "IFPipeline": PIXEL,
    "DDPMPipeline": PLAIN_PIXEL,
    "DDIMPipeline": PLAIN_PIXEL,
    PHOTO_PIPELINE: PHOTO,
    **{family.pipeline: family.parts for family in FAMILIES},
}
"""The supported classes of pipelines and of their parts. Nothing else is loaded, and no code of a model is run."""


@dataclass(frozen=True)
class Index:
    """The location of a supported pipeline: its ``folder``, or on the hub at ``commit``."""

    name: str
    folder: Path | None
    parts: Parts
    commit: str | None = None
    family: Family | None = None
    file: Path | None = None
    """A single checkpoint whose weights replace those of the pipeline's network."""

    def home(self, part: str) -> Path | None:
        """Return the folder of a part, which built-in priors may share."""
        if owner := SHARED.get(self.name, {}).get(part):
            return built_in_folder(BUILT_IN[owner], marker=MARKER)
        return self.folder

    def json(self, path: str) -> dict[str, Any]:
        """Read one of its JSON files. Raise ValueError with the remedy if it is not available."""
        folder = self.home(path.split("/")[0])
        if folder is None:
            return read_json(fetch(self.name, path, revision=self.commit, what="prior"))
        if not (folder / path).is_file():
            raise ValueError(
                f'The prior "{self.name}" is incomplete: {folder / path} is missing; write it again with '
                "save_pretrained."
            )
        return read_json(folder / path)


def split(name: str) -> tuple[Path | None, str]:
    """Split FILE.safetensors@PIPELINE into the file and the pipeline's name. Return (None, name) for other names."""
    file, at, pipeline = name.partition(f"{SINGLE}@")
    return (Path(file + SINGLE).expanduser(), pipeline) if at else (None, name)


def find(name: str, revision: str | None = None) -> Index:
    """Find the prior ``name`` and check its classes. Raise ValueError with the remedy."""
    file, name = split(name)
    folder, commit = None, None
    if name in BUILT_IN:
        folder = built_in_folder(BUILT_IN[name], marker=MARKER)
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
    else:
        commit = fetch(name, MARKER, revision=revision, what="prior").parent.name
    listed = Index(name, folder, {}, commit).json(MARKER)
    return Index(name, folder, _check_classes(listed, name), commit, BY_PIPELINE.get(listed["_class_name"]), file)


def image_size(found: Index) -> int:
    """Return the side of its images in pixels. Raise ValueError if it is unknown or they are not square."""
    network = found.family.network if found.family else "unet"
    try:
        if found.family:
            return image_side(found.family, found.json(f"{network}/config.json"), found.json("vae/config.json"))
        side = square_side(found.json("unet/config.json")["sample_size"], found.name)
        if "vae" not in found.parts:
            return side
        return side * 2 ** (len(found.json("vae/config.json")["block_out_channels"]) - 1)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f'The prior "{found.name}" does not specify the size of its images: {network}/config.json needs '
            "sample_size, vae/config.json block_out_channels."
        ) from error


def is_photos(name: str) -> bool:
    """Return whether a prior is the built-in one of photographs, or a local folder of the same kind of pipeline."""
    if name == PHOTOS:
        return True
    file = Path(name).expanduser() / MARKER
    try:
        return name not in BUILT_IN and file.is_file() and read_json(file).get("_class_name") == PHOTO_PIPELINE
    except (ValueError, OSError):
        return False


def square_side(sample_size: Any, name: str) -> int:
    """Return the side of a UNet's ``sample_size``, an int or two equal ones. Raise ValueError otherwise."""
    sides = {sample_size} if isinstance(sample_size, int) else set(sample_size)
    if len(sides) != 1:
        raise ValueError(
            f'The prior "{name}" works on {" x ".join(map(str, sample_size))}, but only square images are supported; '
            "use another --prior."
        )
    return int(sides.pop())


def _check_classes(index: dict[str, Any], name: str) -> Parts:
    """Return the parts of a model_index.json. Raise ValueError for unsupported classes before anything is loaded."""
    found = index.get("_class_name")
    if found not in PIPELINES:
        raise ValueError(f'The prior "{name}" is {with_article(str(found))}; it must be one of {", ".join(PIPELINES)}.')
    libraries = ("rsd",) if found == PHOTO_PIPELINE else ("diffusers", "transformers")
    for part, classes in PIPELINES[found].items():
        library, kind = index.get(part) or (None, None)
        if kind is None and found in BY_PIPELINE and part in BY_PIPELINE[found].may_lack:
            continue
        if kind not in classes or library not in libraries:
            there, wanted = with_article(f"{library}.{kind}"), with_article(classes[0])
            raise ValueError(f'The {part} of the prior "{name}" is {there}; it must be {wanted}.')
    library, kind = index.get("scheduler") or (None, None)
    if library != "diffusers":
        raise ValueError(
            f'The scheduler of the prior "{name}" is {with_article(f"{library}.{kind}")}; it must be one of diffusers.'
        )
    return PIPELINES[found]
