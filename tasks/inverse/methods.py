"""The methods that there are: what each is, which priors and operators it takes, what it may be told, and its works.

Imports nothing heavy. ``rsd methods`` prints this table.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rsd.settings import known, nearest

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
    sampler = getattr(import_module(f".{module}", __package__), kind)
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
    entry = FIELD[method]
    mine = "latents" if latent else "pixels"
    if entry.space not in (None, mine):
        others = ", ".join(name for name, other in FIELD.items() if other.space == mine)
        raise ValueError(
            f"Method {method} works on a prior of {entry.space}, but {prior} is one of {mine}; take another "
            f"--prior, or one of {others}."
        )
    if entry.linear and not linear:
        raise ValueError(
            f"Method {method} needs a linear operator, but {operator} is not (or is not known to be: see "
            "docs/operators.md); take another --method."
        )


def check_method(name: str) -> None:
    """Raise ValueError, with the nearest one, if there is no method of that name."""
    if name not in FIELD:
        raise known("method", name, tuple(FIELD))
