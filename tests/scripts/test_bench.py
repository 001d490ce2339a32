"""The benchmarks: the baseline is Algorithm 1, and the counts are right."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from rsd.tasks.inverse.run import Decoded, Run
from scripts import bench_force, bench_memory, bench_step
from scripts.bench import plain, timing
from scripts.bench import problem as benchmark
from scripts.cost import Pass, counted, steps
from tests.inverse.test_rlsd import BASE, SIZE, Toy, problem

WEIGHT = torch.randn(3 * SIZE * SIZE, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 10


def features(x):
    return torch.tanh(x.flatten(1) @ WEIGHT)


@pytest.mark.parametrize("memory", ["fast", "flat"])
@pytest.mark.parametrize("gamma", [0.0, 3.0])
def test_ours_is_the_plain_algorithm(memory, gamma):
    settings, prior, (operator, y) = replace(BASE, gamma=gamma, memory=memory), Toy(), problem()
    run = Run(prior, operator, y, settings, embed=Decoded(prior, features))
    *_, printed = plain.steps(prior, features, operator, y, settings, gamma)
    list(run.steps())
    torch.testing.assert_close(run.finish(), printed, rtol=0, atol=1e-8)


def test_contenders_alternate_and_first_steps_do_not_count(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(timing, "clock", lambda device: now[0])

    def taking(name, *seconds):
        for one in seconds:
            now[0] += one
            order.append(name)
            yield

    found = timing.alternating({"plain": taking("plain", 9, 1, 2), "ours": taking("ours", 9, 5, 7)}, 3, "cpu")
    assert found == {"plain": 1.5, "ours": 6.0} and order == ["plain", "ours"] * 3
    assert timing.alternating({"ours": taking("ours", 9)}, 1, "cpu") == {"ours": 9.0}


def test_time_inside_networks_is_part_of_the_whole():
    prior, (operator, y) = Toy(), problem()
    embed = Decoded(prior, features)
    run = Run(prior, operator, y, replace(BASE, gamma=3.0), embed=embed)
    inside, start = timing.NetworkTimer("cpu"), timing.clock("cpu")
    with inside.watching(prior, embed):
        list(run.steps())
    assert 0 < inside.seconds < timing.clock("cpu") - start and not inside.started
    assert "decode" not in vars(prior) and embed.features is features


def test_counted_flops_and_bytes():
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(10, 100), nn.Tanh(), nn.Linear(100, 1000)).requires_grad_(False)
    found = counted("net", net, torch.empty(7, 10, device="meta"), 0)
    assert found.forward == found.backward == 2 * 7 * (10 * 100 + 100 * 1000)
    assert found.kept == 4 * 7 * (100 + 1000)  # what tanh keeps, and the output
    assert found.made_forward == 4 * 7 * (100 + 100 + 1000) and found.made_backward >= 4 * 7 * (100 + 100 + 10)


def test_a_step_decodes_once_less_than_printed():
    passes = [Pass(str(k), 0, 10**k, 2 * 10**k, 7 * 10**k, 0, 0) for k in (1, 3, 2, 0, 0, 4, 5)]
    found = steps(passes)
    assert found["no repulsion"] == 10 + 3000 and found["Algorithm 1 as printed, no repulsion"] == 10 + 4000
    assert found["repulsion, fast"] == 10 + 6000 + 300 and found["Algorithm 1 as printed"] == 10 + 7000 + 300
    assert found["repulsion, flat"] == 10 + 7000 + 400 and found["repulsion, cheap"] == 10 + 3000 + 6
    assert found["repulsion, lean"] == 10 + 9000 + 500
    assert found["proximal guidance, no repulsion"] == 30 + 1000 + 20000
    assert found["proximal guidance by TAESD, no repulsion"] == 30 + 1 + 200000
    assert found["PSLD, no repulsion"] == 30 + 3000 + 30000
    assert steps(passes, Pass.made)["no repulsion"] == 70 + 7000


@pytest.fixture(params=["tiny", pytest.param("heads", marks=pytest.mark.slow)])
def networks(request, tiny_folder, tiny_vit, monkeypatch):
    """The benchmark's networks: tiny random ones of 16 px, or the built-in ones."""
    if request.param == "tiny":
        prior, features, decoder = benchmark.load_prior, benchmark.load_features, benchmark.load_decoder
        monkeypatch.setattr(benchmark, "load_prior", lambda name, **how: prior(str(tiny_folder()), **how))
        monkeypatch.setattr(benchmark, "load_features", lambda name, **how: features(str(tiny_vit), **how))
        monkeypatch.setattr(benchmark, "load_decoder", lambda name, _: decoder(name, prior("heads")))
    return request.param


@pytest.mark.slow
def test_the_benchmarks_write_what_the_contract_says(networks, tmp_path, monkeypatch, capsys):
    file = tmp_path / "step.json"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = ["--cheap", "every-2nd", "--json", str(file)]
    monkeypatch.setattr("sys.argv", ["bench_step", "--particles", "2", "--steps", "3", *flags])
    bench_step.main()
    found = json.loads(file.read_text())
    assert {"gamma0", "exact", "cheap", "cosine", "flat", "overhead", "max_abs_diff"} <= set(found)
    assert found["guidance0"] > 0 and found["guidance"] > 0
    assert found["max_abs_diff"] < 1e-4
    assert 0 < found["overhead"] < (0.5 if networks == "heads" else 1)  # tiny networks take less time than the rest
    assert 0.4 < found["cosine"] < 0.99  # two of three steps, of unequal forces, each twice as strong
    assert "exact" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        monkeypatch.setattr("sys.argv", ["bench_step", "--only", "exakt"])
        bench_step.main()


def test_pictures_that_are_not_finite_are_reported(capsys):
    near, wrong = torch.tensor(1e-6), torch.tensor(float("nan"))
    assert bench_step.largest({"gamma0": near, "exact": 2 * near}) == pytest.approx(2e-6)
    assert bench_step.largest({"gamma0": near, "exact": wrong, "flat": near}) is None
    assert "The images of exact, or the plain ones, are not finite" in capsys.readouterr().out


@pytest.mark.slow  # processes of their own, each of which imports everything
def test_peak_memory_by_number(tmp_path, monkeypatch, capsys):
    file = tmp_path / "new" / "memory.json"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fixed = ["bench_memory", "--particles", "1", "8", "--steps", "1", "--json", str(file), "--memory"]
    for memory, most in (("flat", 1.1), ("fast", 1.5)):
        monkeypatch.setattr("sys.argv", [*fixed, memory])
        bench_memory.main()
        one, eight = json.loads(file.read_text()).values()
        assert 0.98 < eight / one < most
    assert eight / one > 1.1  # with all graphs kept


def test_cosines_of_cheap_forces(networks, tmp_path, monkeypatch):
    file = tmp_path / "force.json"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("sys.argv", ["bench_force", "--particles", "2", "--steps", "2", "--json", str(file)])
    bench_force.main()
    found = json.loads(file.read_text())
    assert found["bfloat16"] > 0.99 and 0 < found["small-picture"] < 0.9 and 0 < found["small-decoder"] < 0.9
    # of two steps both are in the window, and of every second or third step is the first alone
    assert found["window"] == pytest.approx(1, abs=1e-5) and found["every-2nd"] == pytest.approx(found["every-3rd"])
    assert 0.1 < found["every-2nd"] < 0.99
