"""The experiments in the paper's tables. Claims are the paper's sentences, since its tables were available as images
only."""

from __future__ import annotations

from .entry import Claim, Entry, Row, Values

LABELS = {
    "nonrepuls": "NonRepuls-RLSD", "rlsd": "RLSD", "hybrid": "Hybrid-RLSD", "nonaug": "NonAug-RLSD",
    "latent-red-diff": "Latent RED-diff", "psld": "PSLD", "latent-dps": "Latent DPS", "dps": "DPS", "pigdm": "PiGDM",
    "fps-smc": "FPS-SMC", "red-diff": "RED-diff",
}  # fmt: skip
"""The methods of `rsd restore` as the tables name them."""

NOTHING: Values = {}
OURS, LATENT = "nonrepuls", ("nonrepuls", "latent-red-diff", "psld")
PIXELS = ("dps", "pigdm", "fps-smc", "red-diff")
SR: dict[str, Values] = {"builtin": {"task": "sr4", "steps": 200}, "paper": {"task": "sr8"}}
SMALL = ("psnr_small", "psnr", "psnr_best", "psnr_std", "lpips", "residual", "seconds")
GOOD_DECODER = (
    "The built-in autoencoder is so good (37 dB) that latent methods lose almost nothing by fitting y through it. "
    "Where y does not determine x, the coupling ties D(z) to an x that lags behind (docs/results.md)."
)
SYMMETRIC = (
    "PSLD completes these heads by symmetry, cleanly and almost identically in all samples, and three of the four "
    "clean images are symmetric except for a cheek. After 100 steps RLSD's hidden halves still have smears of colour, "
    "since x has not yet reached D(z)."
)
STUCK = (
    "Without x, z gets stuck: most samples are heads with almost the right magnitudes but another head's hair, mouth "
    "or shirt. "
)
HALF: Values = {"task": "inpaint_half_face"}
FREEFORM: Values = {"task": "inpaint_freeform"}
AS_MANY: Values = {"steps": 200}
"""At the built-in scale all methods of a table take the same number of steps, that of most of RLSD's packaged
settings."""
ADAM: Values = {"x_step": "adam", "lambda_": 0.2, "lr_x": 0.2, "lr_z": 0.4}
THROUGHOUT: Values = {"window": (0, 1)}
REPELS: Values = {**ADAM, "gamma": 6, **THROUGHOUT}
STRONG: Values = {**ADAM, "gamma": 10, **THROUGHOUT}
"""At the built-in scale masks use the paper's x-step, an Adam step, with settings tuned for it, and repel at all
timesteps; the packaged settings use the exact minimiser, and repel until t = 0.2 T."""
TUNED = (
    "Built-in scale: all methods take the same number of steps. RLSD's settings were tuned on validation heads; those "
    "of each other method are the best of six on two validation heads (docs/comparison.md)."
)


def methods(task: Values, *names: str, builtin: Values = NOTHING, paper: Values = NOTHING) -> tuple[Row, ...]:
    """Return a row for each method on a task, given as its settings."""
    return tuple(Row(LABELS[name], {**task, "method": name}, builtin, paper) for name in names)


def beats(*others: str, figure: str = "psnr", unmet: str = "") -> tuple[Claim, ...]:
    """Return the claims that NonRepuls-RLSD restores better than each of the others."""
    return tuple(
        Claim(f"NonRepuls-RLSD restores better than {LABELS[one]}", figure, (LABELS[one], LABELS[OURS]), unmet=unmet)
        for one in others
    )


def half_face(*names: str) -> tuple[Row, ...]:
    """Return rows of half a face: 100 steps at the built-in scale, which RED-diff's packaged settings do not give."""
    own = {"nonrepuls": ADAM, "rlsd": REPELS, "hybrid": REPELS, "red-diff": {"steps": 100}}
    return tuple(row for name in names for row in methods(HALF, name, builtin=own.get(name, NOTHING)))


INTERACTING: tuple[Values, Values] = STRONG, {"steps": 200, "gamma": 100}
PHASES: Values = {"task": "phase_retrieval", "particles": 6}
REPULSION = (
    Claim("Repulsion makes the samples more diverse", "div", ("NonRepuls-RLSD", "RLSD")),
    Claim("Repulsion lowers the mean PSNR", "psnr", ("RLSD", "NonRepuls-RLSD")),
    Claim("Hybrid's samples are more diverse than without repulsion", "div", ("NonRepuls-RLSD", "Hybrid-RLSD")),
    Claim("Hybrid restores better than if all particles repel", "psnr", ("RLSD", "Hybrid-RLSD")),
)

TABLES = (
    Entry(
        "table2", "Table 2, Figs 2, 5, 6",
        "Inpainting of half a face: RLSD restores it better than DPS, PSLD and RED-diff. Repulsion trades quality for "
        "diversity, and Hybrid, three particles that interact and one that does not, balances the two.",
        half_face("nonrepuls", "rlsd", "hybrid", "latent-red-diff", "psld", "dps", "red-diff"),
        (
            *beats("latent-red-diff", figure="psnr_small", unmet=GOOD_DECODER),
            *beats("psld", figure="psnr_small", unmet=SYMMETRIC),
            *beats("dps", "red-diff", figure="psnr_small"),
            Claim("NonRepuls-RLSD has a lower FID than PSLD", "fid", ("NonRepuls-RLSD", "PSLD"), only="paper"),
            *REPULSION,
        ),
        figures=(*SMALL[:4], "ssim", "lpips", "fid", "div", "coverage", "residual", "seconds"),
        plots=(("div", "psnr"),),
        note=f"Pixel methods work at half the size (psnr_small is PSNR at theirs), as in the paper. {TUNED}",
    ),
    Entry(
        "table3", "Table 3, Figs 3, 7",
        "Phase retrieval: NonAug-RLSD, with six particles that repel while t is in [0.4 T, T], finds more modes than "
        "Latent RED-diff. With images beside latents the algorithm is unstable on this task.",
        (
            *methods(PHASES, "nonaug", "latent-red-diff"),
            Row(
                "NonRepuls-RLSD", {**PHASES, "method": "nonrepuls"},
                {"steps": 400, "lambda_": 0.08, "lr_z": 0.3, "rho": 0.075, "lr_x": 0.2},
                {"steps": 1000, "lambda_": 0.02, "lr_z": 0.6, "rho": 0.075, "lr_x": 0.4},
            ),
            *methods(PHASES, "latent-dps", builtin={"steps": 400}),
        ),
        (
            Claim("Repulsion makes the samples more diverse", "div", ("Latent RED-diff", "NonAug-RLSD")),
            Claim(
                "The best sample is better than Latent RED-diff's", "psnr_best", ("Latent RED-diff", "NonAug-RLSD"),
                unmet=f"{STUCK}Both find the image by luck, on the same heads (0 and 2). Repulsion spreads the other "
                "samples, and their best is as good.",
            ),
            Claim(
                "NonAug-RLSD restores better than augmented RLSD", "psnr", ("NonRepuls-RLSD", "NonAug-RLSD"),
                unmet=f"{STUCK}x is free to fit the magnitudes pixel by pixel, and takes z along: almost all samples "
                "are the clean image. The paper's decoder computes 48 pixel values from each value of a latent, this "
                "one 12, and with that decoder the algorithm was unstable.",
            ),
            Claim(
                "NonAug-RLSD restores better than Latent DPS", "psnr_best", ("Latent DPS", "NonAug-RLSD"),
                unmet=f"{STUCK}Latent DPS starts from noise, in which heads do not yet differ, and finds every image "
                "in its 400 steps.",
            ),
        ),
        note=TUNED,
    ),
    Entry(
        "table4", "Table 4, Fig. 8",
        "High dynamic range, where diversity matters little: NonRepuls-RLSD restores better than Latent RED-diff and "
        "Latent DPS.",
        methods({"task": "hdr"}, "nonrepuls", "latent-red-diff", "latent-dps", builtin=AS_MANY),
        (
            *beats(
                "latent-red-diff",
                unmet="It is better where y determines a pixel (40 to 49 dB against 37 to 45 dB) and worse where "
                "clip(2x) saturates (33 to 38 dB against 37 to 41 dB), which is 20 to 76% of these images: there only "
                "the coupling acts on x, which lags behind D(z).",
            ),
            *beats("latent-dps"),
        ),
        note=TUNED,
    ),
    Entry(
        "table5", "Table 5",
        "Super-resolution x8 to 512 px: NonRepuls-RLSD restores better than PSLD, which leaves Stable Diffusion's "
        "artifacts in faces.",
        methods({}, *LATENT, **SR),
        beats("psld", "latent-red-diff"),
        note=f"Built-in scale: x4 to 64 px. {TUNED}",
    ),
    Entry(
        "table6", "Table 6",
        "Super-resolution x8, compared at 256 px with methods on pixels: NonRepuls-RLSD restores better.",
        methods({}, *LATENT, *PIXELS, **SR),
        beats(*PIXELS, figure="psnr_small"),
        figures=SMALL,
        note="Each method has its own measurement, of its prior's size divided by the same factor, as in the paper. "
        f"{TUNED}",
    ),
    Entry(
        "table7", "Table 7",
        "From the same image of 64 px, RLSD (x8 to 512 px) restores better than RED-diff on pixels (x4 to 256 px).",
        (
            *methods({}, "nonrepuls", **SR),
            *methods({}, "red-diff", builtin={"task": "sr2", "steps": 200}, paper={"task": "sr4"}),
        ),
        beats("red-diff", figure="psnr_small"),
        figures=SMALL,
        note=f"Built-in scale: from 16 px, x4 to 64 px against x2 to 32 px. {TUNED}",
    ),
    Entry(
        "table8", "Table 8, Fig. 12",
        "Motion deblurring at 512 px: NonRepuls-RLSD restores better than PSLD.",
        methods({"task": "deblur_motion"}, *LATENT, builtin=AS_MANY),
        beats("psld", "latent-red-diff"),
        note=TUNED,
    ),
    Entry(
        "table9", "Table 9",
        "Motion deblurring, compared at 256 px with methods on pixels: NonRepuls-RLSD restores better.",
        methods({"task": "deblur_motion"}, *LATENT, *PIXELS, builtin=AS_MANY),
        beats(*PIXELS, figure="psnr_small"),
        figures=SMALL,
        note=TUNED,
    ),
    Entry(
        "table10", "Table 10",
        "Inpainting of half a face, compared at 256 px with more methods on pixels: RLSD restores better.",
        half_face("nonrepuls", "rlsd", "psld", *PIXELS),
        beats(*PIXELS, figure="psnr_small"),
        figures=(*SMALL, "div"),
        note=TUNED,
    ),
    Entry(
        "table11", "Table 11, Figs 9-11",
        "80% of the pixels are dropped at random, at 512 px: NonRepuls-RLSD restores more detail than PSLD.",
        methods({"task": "inpaint_random"}, *LATENT, builtin=AS_MANY),
        (
            *beats(
                "psld",
                unmet="Known pixels are restored at 80 dB, against PSLD's 37 to 45 dB. But the four fifths that y "
                "leaves open are a decibel worse (32 to 38 dB against 34 to 39), since x follows D(z) there.",
            ),
            *beats("latent-red-diff"),
            Claim("It is sharper than PSLD", "sharpness", ("PSLD", "NonRepuls-RLSD")),
        ),
        figures=("psnr", "psnr_best", "ssim", "lpips", "sharpness", "residual", "seconds"),
        note=TUNED,
    ),
    Entry(
        "table12", "Table 12",
        "80% of the pixels are dropped, compared at 256 px with methods on pixels: NonRepuls-RLSD restores better.",
        methods({"task": "inpaint_random"}, *LATENT, *PIXELS, builtin=AS_MANY),
        beats(*PIXELS, figure="psnr_small"),
        figures=SMALL,
        note=TUNED,
    ),
    Entry(
        "table13", "Table 13, Figs 13, 14",
        "Free-form masks over 10-20% of ImageNet images, 500 steps: NonRepuls-RLSD restores better than PSLD.",
        (
            *methods(FREEFORM, "nonrepuls", builtin=ADAM),
            *methods(FREEFORM, "latent-red-diff"),
            *methods(FREEFORM, "psld", paper={"steps": 500}),
        ),
        beats("psld", "latent-red-diff"),
        data="pictures",
        note=TUNED,
    ),
    Entry(
        "table14", "Table 14",
        "Inpainting of half a face, the best particle of each image: by it RLSD with repulsion restores better, since "
        "some of its modes are better than those without repulsion.",
        half_face("nonrepuls", "rlsd", "hybrid", "psld"),
        (
            Claim(
                "By its best particle RLSD restores better than without repulsion", "psnr_best",
                ("NonRepuls-RLSD", "RLSD"),
                unmet="What repulsion adds in range it loses in the mean: its hidden halves have other eyes, patches "
                "and smears, and these clean images are symmetric. Over 32 heads the best of four is 27.3 dB without "
                "repulsion and 27.0 dB with it, a tie (± 1.1 dB; docs/results.md).",
            ),
            Claim(
                "By its best particle RLSD restores better than PSLD", "psnr_best", ("PSLD", "RLSD"), unmet=SYMMETRIC
            ),
        ),
        figures=("psnr_best", "psnr", "psnr_std", "ssim", "lpips", "div", "seconds"),
        note=TUNED,
    ),
    Entry(
        "table15", "Table 15",
        "Four particles of which none, two or four repel one another, with free-form masks: the more particles "
        "interact, the more diverse the samples, at some cost in quality.",
        tuple(
            Row(label, {**FREEFORM, **settings}, builtin, paper)
            for label, settings, builtin, paper in (
                ("0 interact", {"method": "nonrepuls"}, ADAM, {"steps": 200}),
                ("2 interact", {"method": "hybrid", "interacting": 2}, *INTERACTING),
                ("4 interact", {"method": "rlsd"}, *INTERACTING),
            )
        ),
        (
            Claim("Div grows with the number that interact", "div", ("0 interact", "2 interact", "4 interact")),
            Claim("PSNR is best if none interact", "psnr", ("4 interact", "0 interact")),
        ),
        plots=(("div", "psnr"),),
        note="The paper does not give this gamma. We use 100 at its scale, the lowest in its ablations with 200 steps.",
    ),
)  # fmt: skip
