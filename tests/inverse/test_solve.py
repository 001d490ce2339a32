"""The Python API, as a notebook uses it."""

import pytest
import torch

import rsd
from rsd.features import load_features
from rsd.priors import load_prior
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.solve import Run, Settings


@pytest.fixture
def prior(tiny_folder):
    return load_prior(str(tiny_folder("epsilon")))


def problem(task="sr2"):
    f = make_operator(task, size=16, seed=0)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return f, measure(f, x, 0.001, seed=0)


def test_restore_returns_images_and_a_record_a_step(prior):
    f, y = problem()
    seen = []
    result = rsd.restore(y, f, prior=prior, features="pixels", gamma=3.0, particles=3, steps=4, progress=seen.append)
    assert result.images.shape == (3, 3, 16, 16) and torch.isfinite(result.images).all()
    assert result.records == seen and [r.step for r in seen] == [0, 1, 2, 3]


def test_more_steps_fit_the_measurement_better(prior):
    f, y = problem()
    settings = dict(prior=prior, features="pixels", particles=1, gamma=0.0, lr_x=0.1)
    misfit = [float((f(rsd.restore(y, f, steps=steps, **settings).images) - y).square().mean()) for steps in (4, 40)]
    assert misfit[1] < 0.2 * misfit[0]


def test_the_image_s_name_is_part_of_the_randomness(prior):
    f, y = problem()
    one, two, again = (
        Run(prior, f, y, Settings(particles=1, steps=1, gamma=0.0), image=name).particles.render() for name in "aba"
    )
    assert torch.equal(one, again) and not torch.equal(one, two)


def test_a_user_s_own_feature_map(prior):
    f, y = problem()
    mean_colour = lambda x: x.mean((2, 3))  # noqa: E731
    result = rsd.restore(y, f, prior=prior, features=mean_colour, gamma=3.0, particles=2, steps=3)
    assert result.records[0].repulsion > 0


def test_wrong_names_are_told():
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
    settings = dict(prior=prior, features="pixels", particles=1, steps=3)
    assert torch.equal(rsd.restore(y, operator, **settings).images, rsd.restore(y, f, **settings).images)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"particles": 0}, "particles is 0; give 1 or more."),
        ({"seed": -1}, "seed is -1; give 0 or more."),
        ({"chunk": -1}, "chunk is -1; give 1 or more."),
        ({"steps": 1001}, "steps is 1001; give 1 to 1000"),
        ({"lr_x": float("nan")}, "lr_x is nan; give a finite number, 0 or more."),
        ({"lambda_": -1.0}, "lambda is -1.0; give a finite number, 0 or more."),
        ({"gamma": float("inf")}, r"gamma is inf; give a finite number \(below 0 attracts\)."),
        ({"window": (0.5, 0.2)}, "give LO HI with 0 <= LO < HI <= 1."),
        ({"method": "hybrid", "particles": 2}, "Method hybrid needs 3 particles or more"),
    ],
)
def test_values_that_cannot_work_are_told(prior, values, told):
    f, y = problem()
    with pytest.raises(ValueError, match=told):
        rsd.restore(y, f, prior=prior, features="pixels", **values)


def test_a_run_goes_on_with_its_own_measurement_and_operator_only(prior):
    f, y = problem()
    settings = Settings(particles=1, steps=4, gamma=0.0)
    run = Run(prior, f, y, settings)
    next(run.steps())
    state = run.state()
    rounded = y * (1 + 1e-6 * torch.randn(y.shape))
    Run(prior, f, rounded, settings).load_state(state)
    with pytest.raises(ValueError, match="The measurement is not the one"):
        Run(prior, f, y + 0.01, settings).load_state(state)
    with pytest.raises(ValueError, match="The operator .* is not the one"):
        Run(prior, make_operator("sr2", size=16, downsample="bicubic"), y, settings).load_state(state)
