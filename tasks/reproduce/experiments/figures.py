"""The experiments in the paper's figures: ablations, failures, the toy, text to image and text to 3D."""

from __future__ import annotations

from .entry import Claim, Entry, Row, Values
from .tables import ADAM, FREEFORM, GOOD_DECODER, HALF, NOTHING, TABLES, THROUGHOUT, TUNED, half_face, methods

ABLATION: Values = {**HALF, "method": "rlsd"}
NO_REPULSION: Values = {**HALF, "method": "nonrepuls"}
OF_FIG_17: Values = {"steps": 200, "lambda_": 0.15, "rho": 0.1, "lr_x": 0.4, "lr_z": 1.0}
"""The ablations' settings at the paper's scale (D.8.2)."""
SHORT = ("psnr", "psnr_best", "psnr_std", "ssim", "lpips", "div", "coverage", "seconds")
DRAWN = ("div", "agreement", "coverage", "clip", "aesthetic", "fid", "seconds")
SCENES = ("div", "agreement", "face_front", "janus", "seconds")


def window(low: float, high: float) -> Row:
    """Return a row with repulsion while t lies in [low T, high T]."""
    return Row(
        f"[{low:g}, {high:g}] T", {**ABLATION, "window": (low, high)}, {**ADAM, "gamma": 10},
        {**OF_FIG_17, "gamma": 150},
    )  # fmt: skip


def strength(label: str, builtin: float, paper: float) -> Row:
    """Return a row of half a face by RLSD with that gamma."""
    return Row(label, ABLATION, {**ADAM, "gamma": builtin, **THROUGHOUT}, {**OF_FIG_17, "gamma": paper})


def coupling(label: str, rho: float) -> Row:
    """Return a row of half a face without repulsion, with that weight of the coupling."""
    return Row(label, {**NO_REPULSION, "rho": rho}, ADAM)


def steps(method: str, label: str, builtin: int, paper: int, more: Values = NOTHING) -> Row:
    """Return a row of super-resolution by a method in that many steps; ``more``: settings at the built-in scale."""
    return Row(
        f"{label}, {'few' if builtin < 100 else 'many'} steps", {"method": method},
        {"task": "sr4", "steps": builtin, **more}, {"task": "sr8", "steps": paper, "particles": 2},
    )  # fmt: skip


def drawn(label: str, builtin: Values, paper: Values, **features: str) -> Row:
    """Return a row of text to image by VSD with these settings at each scale, and the same ``features`` at both."""
    return Row(label, {"method": "vsd", **features}, builtin, paper)


def vsd(gamma: float) -> Row:
    """Return a row of text to image by VSD with that gamma."""
    return Row(f"VSD, gamma {gamma:g}", {"method": "vsd", "gamma": gamma})


NONE = Row("no repulsion", NO_REPULSION, ADAM, OF_FIG_17)
ALL = strength("[0, 1] T", 10, 150)
LATE, EARLY = window(0, 0.5), window(0.5, 1)
FEW = steps("nonrepuls", "RLSD", 40, 200, {"lambda_": 0.05})  # as in the preset of 50 steps
MANY = steps("nonrepuls", "RLSD", 200, 1000)
DINO = drawn("DINO", {"gamma": 20}, {"gamma": 10})
UP = ("VSD, gamma 0", "VSD, gamma 40")
INTERACTING = next(entry for entry in TABLES if entry.name == "table15")
FEW_DO = Claim(
    "In few steps RLSD is at most 1 dB worse than in many", "psnr", ("RLSD, many steps", "RLSD, few steps"), by=-1,
    unmet="40 steps are too few for z to reach its image; 100 are within half a decibel of 200 (docs/cost.md).",
)  # fmt: skip
THREE_D_NOTE = (
    "The paper's 20 particles are 20 views of one scene in its authors' program, and its scenes differ by their seed. "
    "Here four scenes repel one another, each seen by 5 cameras per step at the paper's scale."
)

FIGURES = (
    Entry(
        "fig15", "Fig. 15",
        "With a fifth of the steps (200 instead of 1000) RLSD restores super-resolution better than PSLD does, in the "
        "same time.",
        (FEW, steps("psld", "PSLD", 40, 200), MANY, steps("psld", "PSLD", 200, 1000)),
        (
            Claim("In few steps RLSD is better than PSLD", "psnr", ("PSLD, few steps", "RLSD, few steps")),
            Claim("RLSD takes no more time than PSLD", "seconds", ("RLSD, few steps", "PSLD, few steps")),
        ),
        figures=("psnr", "psnr_best", "ssim", "lpips", "residual", "seconds"),
        plots=(("seconds", "psnr"),),
        note=TUNED,
    ),
    Entry(
        "fig16", "Fig. 16",
        "RLSD needs few steps: super-resolution in 200 steps looks like that in 1000.",
        (FEW, MANY),
        (FEW_DO,),
        figures=("psnr", "psnr_best", "ssim", "lpips", "residual", "seconds"),
    ),
    Entry(
        "fig17", "Fig. 17",
        "The strength of the repulsion: as gamma grows, the samples become more diverse (and fewer steps need a larger "
        "gamma).",
        (NONE, strength("weak", 3, 100), strength("medium", 6, 150), strength("strong", 10, 200)),
        (
            Claim("Div grows with gamma", "div", ("no repulsion", "weak", "medium", "strong")),
            Claim("More hidden attributes vary", "coverage", ("no repulsion", "strong"), only="builtin"),
            Claim("PSNR falls in return", "psnr", ("strong", "no repulsion")),
        ),
        figures=SHORT, plots=(("div", "psnr"),),
    ),
    Entry(
        "fig18", "Fig. 18",
        "Repulsion only while t is in [0, t_r]: the closer t_r is to T, the more diverse the samples, since the early, "
        "noisy steps decide what an image shows.",
        (NONE, window(0, 0.25), LATE, window(0, 0.75), ALL),
        (
            Claim(
                "Repulsion only at the end makes almost no difference", "div", ("[0, 0.25] T", "no repulsion"),
                by=-0.005, only="builtin",
                unmet="The difference is smears of colour in the hidden half: a push at the end leaves them, and no "
                "later step removes them.",
            ),
            Claim("Div grows with t_r", "div", ("[0, 0.25] T", "[0, 0.5] T", "[0, 0.75] T", "[0, 1] T")),
        ),
        figures=SHORT, plots=(("div", "psnr"),),
    ),
    Entry(
        "fig19", "Fig. 19",
        "Repulsion only while t is in [t_r, T]: the early half makes more difference than the late half, and t_r = T "
        "is no repulsion.",
        (NONE, window(0.75, 1), EARLY, window(0.25, 1), ALL, LATE),
        (
            Claim("The early half makes more difference than the late half", "div", ("[0, 0.5] T", "[0.5, 1] T")),
            Claim("The early half alone makes the samples more diverse", "div", ("no repulsion", "[0.5, 1] T")),
        ),
        figures=SHORT, plots=(("div", "psnr"),),
    ),
    Entry(
        "fig20-21", "Figs 20, 21",
        "The images of Table 15: in one, two interacting particles are enough for diverse samples; the other needs all "
        "four.",
        INTERACTING.rows,
        (
            Claim("Two that repel already make the samples more diverse", "div", ("0 interact", "2 interact")),
            Claim("All four make them even more diverse", "div", ("2 interact", "4 interact")),
        ),
        figures=SHORT,
    ),
    Entry(
        "fig22", "Fig. 22",
        "With images beside latents RLSD is sharper than NonAug-RLSD, whose shirt has no detail.",
        half_face("rlsd", "nonaug"),
        (
            Claim("RLSD restores better than NonAug-RLSD", "psnr", ("NonAug-RLSD", "RLSD"), unmet=GOOD_DECODER),
            Claim(
                "RLSD is sharper than NonAug-RLSD", "sharpness", ("NonAug-RLSD", "RLSD"),
                unmet="This autoencoder loses no detail (37 dB), so x has none to restore; and NonAug's hidden halves "
                "have more edges than the clean image's, from eye patches and round glasses.",
            ),
            Claim("RLSD explains the measurement better", "residual", ("RLSD", "NonAug-RLSD")),
        ),
        figures=("psnr", "psnr_best", "sharpness", "lpips", "residual", "div", "seconds"),
    ),
    Entry(
        "fig23-24", "Figs 23, 24",
        "The coupling of image and latent, without repulsion: a looser coupling gives more diverse and worse samples, "
        "a tighter one better and more similar samples.",
        (
            *(coupling(f"rho~ {rho:g}", rho) for rho in (0.03, 0.07, 0.12)),
            *(coupling(f"rho {rho:g}", float(f"{1e-6 / rho**2:g}")) for rho in (0.03, 0.07, 0.12)),
        ),
        (
            Claim(
                "Div falls with rho~", "div", ("rho~ 0.12", "rho~ 0.07", "rho~ 0.03"),
                unmet="From 0.07 to 0.12 it does. At 0.03 the coupling is too loose for 100 steps: the hidden pixels "
                "of x have not yet reached D(z), and all samples have the same smears.",
            ),
            Claim("PSNR grows with rho~", "psnr", ("rho~ 0.03", "rho~ 0.07", "rho~ 0.12")),
            Claim(
                "Div grows with rho", "div", ("rho 0.03", "rho 0.07", "rho 0.12"),
                unmet="Weights sigma_v^2 / rho^2 of 0.001 and less have no effect at this scale: the hidden pixels of "
                "x stay the noise that they started from (13 to 16 dB), and Div measures noise.",
            ),
            Claim("PSNR falls with rho", "psnr", ("rho 0.12", "rho 0.07", "rho 0.03")),
        ),
        figures=SHORT, plots=(("div", "psnr"),),
        note="The text varies rho, and the weight (--rho) is rho~ = sigma_v^2 / rho^2; the authors' scripts vary that "
        "weight. The two change in opposite directions, so both are run: a larger rho~ is a tighter coupling, a larger "
        "rho a looser one. The paper's sentence is the expected result for both.",
    ),
    Entry(
        "fig25", "Fig. 25",
        "A failure: on ImageNet the pixels that fill a mask lack fine detail; a building's wall lacks its windows.",
        methods(FREEFORM, "nonrepuls", builtin=ADAM),
        (
            Claim(
                "The filled-in pixels have less detail than the clean image", "sharpness", ("NonRepuls-RLSD", 0.95),
                unmet="Heads have almost no fine detail to lose under the strokes: the filled-in pixels are sharp and "
                "right, and traces along the edges of the strokes count as detail.",
            ),
        ),
        data="pictures", figures=("sharpness", "psnr", "ssim", "lpips"),
    ),
    Entry(
        "fig26-27", "Figs 26, 27",
        "A failure: if the whole face is hidden, the filled-in pixels can be blurred and unnatural; even the best "
        "samples lack details, such as an eyebrow.",
        (
            Row("half face", NO_REPULSION, ADAM),
            Row("full face", {"task": "inpaint_full_face", "method": "nonrepuls"}, ADAM),
        ),
        (
            Claim("A hidden face is more blurred than a hidden half", "sharpness", ("full face", "half face")),
            Claim("The filled-in pixels have less detail than the clean image", "sharpness", ("full face", 0.95)),
        ),
        figures=("psnr", "psnr_best", "sharpness", "lpips", "div"),
    ),
    Entry(
        "fig28", "Fig. 28",
        "A failure: the box of the full face, on ImageNet images, is filled without detail.",
        methods({"task": "inpaint_full_face"}, "nonrepuls", builtin=ADAM),
        (Claim("The filled-in pixels have less detail than the clean image", "sharpness", ("NonRepuls-RLSD", 0.95)),),
        data="pictures", figures=("sharpness", "psnr", "ssim", "lpips"),
    ),
    Entry(
        "fig29", "Fig. 29",
        "A failure: a gamma that is too high (200 in 200 steps) breaks the images.",
        (NONE, strength("too strong", 100, 200)),
        (Claim("It costs 3 dB or more", "psnr", ("too strong", "no repulsion"), by=3),),
        figures=SHORT,
    ),
    Entry(
        "fig30", "Fig. 30 (D.10.1)",
        "Two particles, two Gaussians: without repulsion both often end in the same mode; gamma = 1 prevents it; at "
        "gamma = 2000 they end far from both modes.",
        tuple(Row(f"gamma {g:g}", {"gammas": (g,)}) for g in (0, 0.1, 0.3, 1, 10, 100, 2000)),
        (
            Claim("Without repulsion a third of the pairs or more collapse", "collapsed", (1 / 3, "gamma 0")),
            Claim("gamma = 1 prevents almost all collapses", "collapsed", ("gamma 1", 0.05)),
            Claim("gamma = 2000 misses the modes", "misfit", ("gamma 1", "gamma 2000"), by=1),
        ),
        command="toy", data="", figures=("collapsed", "misfit"), plots=(("gamma", "collapsed"), ("gamma", "misfit")),
    ),
    Entry(
        "fig31", "Fig. 31 (D.10.2)",
        "Text to image by VSD: diversity grows with gamma, while quality and agreement with the prompt fall slightly. "
        "From gamma = 30 on it comes close to ancestral sampling, the upper bound.",
        (*map(vsd, (0, 10, 20, 30, 40)), Row("Ancestral", {"method": "ancestral"})),
        (
            Claim("Div grows with gamma", "div", tuple(f"VSD, gamma {g}" for g in (0, 10, 20, 30, 40))),
            Claim("Without repulsion VSD is less diverse than Ancestral", "div", ("VSD, gamma 0", "Ancestral")),
            *(
                Claim(
                    f"At gamma {g} it comes close to Ancestral", "div", ("Ancestral", f"VSD, gamma {g}"), by=-0.02,
                    unmet="It misses the bound by 0.003, while prompts differ by 0.07; gamma 40 meets it.",
                )
                for g in (30, 40)
            ),
            Claim("It costs little agreement with the prompt", "agreement", UP, by=-0.05, only="builtin"),
            Claim("It costs CLIP score", "clip", UP[::-1], only="paper"),
            Claim("It costs aesthetic score", "aesthetic", UP[::-1], only="paper"),
            Claim("It costs FID", "fid", UP, only="paper"),
        ),
        command="text-to-image", data="captions", figures=DRAWN,
        plots=tuple(("div", figure) for figure in ("agreement", "clip", "aesthetic", "fid")),
    ),
    Entry(
        "fig32", "Fig. 32 (D.10.2)",
        "The features that the kernel compares: DINO's make the images of a prompt differ, Euclidean distance has "
        "almost no effect.",
        (
            Row("no repulsion", {"method": "vsd", "gamma": 0}),
            drawn("Euclidean", {"gamma": 20}, {"gamma": 10}, features="pixels"),
            DINO,
        ),
        (
            Claim("DINO makes more difference than Euclidean distance", "div", ("Euclidean", "DINO")),
            Claim("DINO makes a difference", "div", ("no repulsion", "DINO")),
        ),
        command="text-to-image", data="kernels", figures=DRAWN,
    ),
    Entry(
        "fig33", "Fig. 33 (D.10.2)",
        "The features that the kernel compares: with LPIPS images have artifacts or follow the prompt less than with "
        "DINO.",
        (drawn("LPIPS", {"gamma": 20, "features": "heads-layers"}, {"gamma": 10, "features": "lpips"}), DINO),
        (
            Claim("DINO makes more difference than LPIPS", "div", ("LPIPS", "DINO")),
            Claim("DINO follows the prompt no less", "agreement", ("LPIPS", "DINO"), by=-0.01, only="builtin"),
            Claim("DINO follows the prompt better than LPIPS", "clip", ("LPIPS", "DINO"), only="paper"),
        ),
        command="text-to-image", data="kernels", figures=DRAWN,
        note="Built-in scale: LPIPS is replaced by all layers of the built-in ViT, compared as LPIPS does.",
    ),
    *(
        Entry(
            name, f"{where} (D.10.3)",
            f'Text to 3D, "{what}": without repulsion the scenes look alike; with repulsion they differ in shape and '
            "colour, with less detail.",
            (
                Row("no repulsion", {"gamma": 0}, {}, {"seed": seed}),
                Row("repulsion", {}, {"gamma": 20}, {"gamma": 200, "seed": seed}),
            ),
            (
                Claim("Repulsion makes the scenes more diverse", "div", ("no repulsion", "repulsion")),
                Claim(
                    "The scenes agree with the prompt no less", "agreement", ("no repulsion", "repulsion"), by=-0.05,
                    only="builtin",
                ),
            ),
            command="text-to-3d", data=data, figures=SCENES, note=THREE_D_NOTE,
        )
        for name, where, what, data, seed in (
            ("fig34-38", "Figs 34-38", "an ice cream sundae", "sundae", 0),
            ("fig39", "Fig. 39", "a bulldozer made out of toy bricks", "bulldozer", 1),
        )
    ),
)  # fmt: skip
