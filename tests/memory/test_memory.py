"""The memory that a plan predicts, which plan is chosen, and the measured peak."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from rsd import memory
from rsd.distributed import rank_output
from rsd.engine import Record
from rsd.errors import plain_warnings
from rsd.features import Decoded, load_features
from rsd.memory import Memory, Need, Plans, fitting, needs, plan, save_memory
from rsd.memory.meta import Bytes, to_meta
from rsd.memory.usage import allowed, available, peak_bytes, reset_peak
from rsd.priors import load_prior
from rsd.priors.base import Condition
from rsd.tasks.inverse.methods import METHODS
from rsd.tasks.inverse.operators import make_operator
from rsd.tasks.inverse.run import Run, Settings
from tests.graphs import most_kept

NEED = Need(epsilon=10, graph=100, pull=120, decode=90)
LEAN = Need(epsilon=10, graph=15, pull=50, decode=30)


@pytest.mark.parametrize(
    ("free", "chunk", "chosen", "told"),
    [
        (1000, None, (8, True, False), ""),  # 8 * 120
        (850, None, (2, True, False), ""),  # 6 * 100 + 2 * 120
        (500, None, (4, False, False), "flat, 4 of 8 particles"),
        (130, None, (1, False, False), "flat, 1 of 8 particles"),
        (60, None, (1, False, True), "lean, 1 of 8 particles"),
        (10, None, (1, False, True), ""),
        (500, 3, (3, False, False), ""),
    ],
)
def test_the_first_plan_that_fits(monkeypatch, free, chunk, chosen, told):
    monkeypatch.setattr(memory, "SHARE", 1.0)
    found = fitting(NEED, LEAN, 8, chunk, free)
    assert (found.chunk, found.keep, found.lean) == chosen and told in found.why


def test_small_pictures_are_not_measured(monkeypatch):
    prior = load_prior("heads")
    found = plan("auto", chunk=None, n=4, prior=prior)
    assert (found.chunk, found.keep, found.lean) == (None, True, False)
    assert found.why.startswith("fast, less than 1 GiB of the ")


def test_networks_without_a_dry_run_get_the_flat_plan_with_a_note(monkeypatch, tiny_folder):
    monkeypatch.setattr(memory, "available", lambda device: 1)
    prior = load_prior(str(tiny_folder()))
    embed = lambda z: prior.decode(z).flatten(1)  # noqa: E731  its network is out of reach
    for chunk in (None, 3):
        found = plan("auto", chunk=chunk, n=4, prior=prior, embed=embed)
        assert (found.chunk, found.keep, found.lean) == (chunk or 1, False, False) and "cannot be measured" in found.why


@pytest.mark.parametrize(
    ("kind", "features"),
    [pytest.param("epsilon", "heads-layers", marks=pytest.mark.slow), ("v_prediction", "pixels")],
)
def test_built_in_features_and_both_predictions_can_be_measured(monkeypatch, tiny_folder, kind, features):
    monkeypatch.setattr(memory, "available", lambda device: 1)
    prior = load_prior(str(tiny_folder(kind)))
    z = torch.randn(2, *prior.latent_shape)
    found = plan("auto", chunk=None, n=4, prior=prior, embed=Decoded(prior, load_features(features)))
    assert found.lean and "GiB of the" in found.why
    with torch.no_grad():
        assert torch.equal(prior.epsilon(z, 500), prior.epsilon(z, torch.tensor([500, 500])))


def test_a_gradient_through_the_unet_is_counted(tiny_folder):
    prior = load_prior(str(tiny_folder()))
    plain, guided, glued = (
        needs(prior, None, prior.condition(), lean=False, through=names)
        for names in ((), ("epsilon", "decode"), ("epsilon", "decode", "encode"))
    )
    assert 1.5 * plain.epsilon < guided.epsilon < glued.epsilon and guided.decode == plain.decode < guided.epsilon
    through = {name for name, entry in METHODS.items() if entry.through}
    assert through == {
        "dps",
        "pigdm",
        "latent-dps",
        "psld",
        "resample",
        "particle-guidance",
        "score-prior",
        "proximal-guidance",
    }


def test_pixel_priors_are_measured_where_a_mebibyte_a_pixel_is_not_free(monkeypatch, tiny_heads_pixels):
    prior, asked = load_prior(str(tiny_heads_pixels)), []
    assert plan("auto", chunk=None, n=1, prior=prior).why.startswith("fast, less than 1 GiB of the ")
    monkeypatch.setattr(memory, "available", lambda device: 32**2 * 2**20)
    monkeypatch.setattr(memory, "needs", lambda *parts, **how: asked.append(how) or NEED)
    run = Run(
        prior, make_operator("sr4", size=32), torch.zeros(1, 3, 8, 8), Settings(method="dps", steps=2), embed=None
    )
    assert run.memory.keep and [how["through"] for how in asked] == [("epsilon", "decode")] * 2
    assert asked[0]["state"] == 4 * 3 * 2 * 3 * 32**2  # x and z, each with two moments, in float32


def test_what_particles_hold_for_good_is_counted():
    need = replace(NEED, state=7)
    assert need.of(8, 2, False) == 8 * 7 + 2 * 120 and need.of(8, 8, True) == 8 * 7 + 8 * 120


def test_plans_are_made_once_and_what_was_learned_stays(monkeypatch):
    made, told = [], []

    def planned(mode, **how):
        made.append(mode)
        return Memory(4, why=f"{mode}, {how['n']}")

    monkeypatch.setattr(memory, "plan", planned)
    plans = Plans(told.append)
    ask = lambda mode="auto", **how: plans(mode, prior=None, **{"n": 4, "chunk": None, "through": (), **how})  # noqa: E731
    ask().chunk = 2
    assert ask().chunk == 2 and ask(mode="flat").chunk == 4 and ask(n=3).chunk == 4 and ask(through=("epsilon",))
    assert ask(condition=Condition(guidance=2.0, negative=torch.zeros(1))).chunk == 4 and ask(embed=len).chunk == 4
    assert ask(condition=Condition("other")).chunk == 2
    assert len(made) == 6 and told == [f"{mode}, {n}" for mode, n in zip(made, (4, 4, 3, 4, 4, 4), strict=True)]


def test_wrappers_of_the_same_feature_map_share_a_plan(monkeypatch):
    monkeypatch.setattr(memory, "plan", lambda mode, **how: Memory(4, why=mode))
    told = []
    plans = Plans(told.append)
    features, first, second = len, *(Decoded(prior, len) for prior in ("a", "b"))  # as for two pictures
    ask = lambda embed, prior: plans("auto", prior=prior, embed=embed, n=4, chunk=None)  # noqa: E731
    ask(first, "a").chunk = 2
    assert ask(second, "b").chunk == 2 and ask(second, "b").parts == ("b", second) and told == ["auto"]
    assert ask(Decoded("b", len, decode=features), "b").chunk == 4  # another decoder takes other memory


class Lean:
    lean = False

    def save_memory(self, lean):
        self.lean = lean


def test_where_one_particle_does_not_fit_its_graph_is_kept_in_part():
    part, seen = Lean(), []

    def work(rows):
        seen.append((rows.start, rows.stop, part.lean))
        if not part.lean:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return rows.start

    found = Memory(None, parts=(part, None))
    with pytest.warns(UserWarning, match="--memory lean"):
        assert found.each(2, work) == [0, 1]
    assert seen == [(0, 2, False), (0, 1, False), (0, 1, True), (1, 2, True)] and found.lean and found.chunk == 1


def test_auto_goes_by_a_dry_run(monkeypatch, tiny_folder, tiny_vit):
    prior, free = load_prior(str(tiny_folder())), 10**9
    monkeypatch.setattr(memory, "available", lambda device: free)
    monkeypatch.setattr(memory, "SMALL", 0)
    embed, calls = Decoded(prior, load_features(str(tiny_vit))), prior.calls.copy()
    measured = {}

    def measured_once(*parts, lean, **how):
        if lean not in measured:
            measured[lean] = needs(*parts, lean=lean, **how)
        return measured[lean]

    monkeypatch.setattr(memory, "needs", measured_once)
    free = 1
    plan("auto", chunk=None, n=4, prior=prior, embed=embed, condition=prior.condition())
    need, lean = measured[False], measured[True]
    assert lean.graph < need.graph / 2 and lean.pull < need.pull and lean.epsilon == need.epsilon
    for free in (need.of(4, 4, True), need.of(4, 2, False), lean.of(4, 1, False)):
        free = int(free / memory.SHARE) + 1
        found = plan("auto", chunk=None, n=4, prior=prior, embed=embed, condition=prior.condition())
        assert memory.SHARE * free >= (lean if found.lean else need).of(4, found.chunk, found.keep)
    assert found.lean and prior.calls == calls and not embed.lean  # nothing was computed, nothing changed


def test_a_dry_run_counts_the_bytes_of_a_network():
    net = nn.Sequential(nn.Linear(10, 100), nn.Tanh(), nn.Linear(100, 1000), nn.Tanh())
    for p in net.parameters():
        p.requires_grad_(False)
    shade = to_meta(net)
    assert all(p.is_meta for p in shade.parameters()) and not any(p.is_meta for p in net.parameters())
    x = torch.empty(7, 10, device="meta", requires_grad=True)
    with Bytes() as count:
        y = shade(x)
        assert count.now == 4 * 7 * (100 + 1000)  # tanh keeps its output; the layers' outputs are gone
        assert count.peak == 4 * 7 * (100 + 1000 + 1000)
        (x * 2).sum()
        assert count.now == 4 * 7 * (100 + 1000) and y.shape == (7, 1000)


def test_lean_has_the_same_gradient(tiny_folder, tiny_vit):
    prior = load_prior(str(tiny_folder()), dtype="float64")
    embed = Decoded(prior, load_features(str(tiny_vit)).double())
    z = torch.randn(2, *prior.latent_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for lean in (False, True, False):
        save_memory(lean, prior, embed)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            found.append(torch.autograd.grad(embed(z).square().sum(), z)[0])
    assert found[0].abs().max() > 0
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-12)


def test_a_full_memory_is_reported_by_whichever_process_has_it(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    def full(rows):
        if rows.stop - rows.start > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return rows.start

    with plain_warnings(), rank_output(all_ranks=False):
        print("hello")
        warnings.warn("what all processes find", stacklevel=1)
        assert Memory().each(3, full) == [0, 1, 2]
    told = capsys.readouterr()
    assert told.out == "" and "all processes" not in told.err
    assert "Memory is full (process 1 of 2): 1 instead of 3 particles go through a network at once" in told.err


@pytest.fixture(params=["tiny", pytest.param("heads", marks=pytest.mark.slow)])
def graphs_kept(request, tiny_folder, tiny_vit):
    """``graphs_kept(N, MEMORY)``: the peak number of bytes that autograd keeps over two repelling steps of RLSD, with
    tiny random networks or the built-in ones; and a bound below which no graph of theirs is."""
    built_in = request.param == "heads"
    prior = load_prior("heads" if built_in else str(tiny_folder()))
    features = load_features("heads" if built_in else str(tiny_vit))
    operator = make_operator("inpaint_half_face", size=prior.image_size)
    y = operator(torch.zeros(1, 3, prior.image_size, prior.image_size))

    def kept(particles: int, mode: str) -> int:
        settings = Settings(particles=particles, steps=2, gamma=6.0, memory=mode)
        run = Run(prior, operator, y, settings, embed=Decoded(prior, features))
        records: list[Record] = []
        peak = most_kept(lambda: records.extend(run.steps()))
        assert records[-1].repulsion > 0
        return peak

    return kept, 1e7 if built_in else 5e5


def test_what_flat_keeps_does_not_grow_with_n(graphs_kept):
    kept, graph = graphs_kept
    two, five = kept(2, "flat"), kept(5, "flat")
    assert graph < two == five
    assert kept(5, "fast") > 3 * five and kept(2, "lean") < two / 2


def grouped(root, lines, **files):
    """Create a file system with these lines in /proc/self/cgroup, and files of /sys/fs/cgroup by their path."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for path, text in files.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


STAT = "anon 5\ninactive_file 30\ntotal_inactive_file 40\n"


def test_limits_of_control_groups(tmp_path):
    """Version 2 limits the group and those above it; pages of files can be reclaimed."""
    own = {"memory.max": "1000\n", "memory.current": "100\n", "memory.stat": STAT}
    above = {"memory.max": "500\n", "memory.current": "480\n", "memory.stat": STAT}
    free = {"memory.max": "max\n", "memory.current": "480\n", "memory.stat": STAT}
    files = {"a/b": own, "a": above, "": free}
    flat = {f"{group}/{name}".lstrip("/"): text for group, them in files.items() for name, text in them.items()}
    grouped(tmp_path / "v2", "0::/a/b\n", **flat)
    assert [*allowed(tmp_path / "v2")] == [930, 50]
    grouped(tmp_path / "hidden", "0::/outside/of/the/container\n", **above)
    assert [*allowed(tmp_path / "hidden")] == [50]


def test_limits_of_control_groups_of_version_1(tmp_path):
    files = {"memory.limit_in_bytes": "1000", "memory.usage_in_bytes": "100", "memory.stat": STAT}
    lines = "5:cpu,cpuacct:/x\n4:memory:/job\n1:name=systemd:/y\n0::/z\n"
    grouped(tmp_path, lines, **{f"memory/job/{name}": text for name, text in files.items()})
    assert [*allowed(tmp_path)] == [940]


def test_no_control_groups_no_limit(tmp_path):
    assert not [*allowed(tmp_path)] and available(torch.device("cpu")) > 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="resets the peak through /proc")
def test_the_peak_is_measured_and_reset():
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_bytes(cpu)
    big = torch.ones(32 * 2**20)  # too big for the allocator to take from freed memory or to keep
    del big
    grown = peak_bytes(cpu) - before
    reset_peak(cpu)
    assert grown > 120 * 2**20 and peak_bytes(cpu) - before < 80 * 2**20  # of 128 MiB
