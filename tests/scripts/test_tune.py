"""Which settings tuning selects, and the meaning of candidates."""

from __future__ import annotations

from pathlib import Path

from rsd.tasks.inverse.packaged import parse
from scripts import tune

FIGURES = {"a": (30.0, 0.01), "b": (29.4, 0.03), "c": (29.2, 0.02), "d": (20.0, 0.50)}


def test_every_script_starts():
    scripts = [file for file in Path(tune.__file__).parent.glob("*.py") if file.name != "__init__.py"]
    assert len(scripts) > 5 and all('if __name__ == "__main__":\n' in file.read_text() for file in scripts)


def test_the_best_psnr_wins_or_the_largest_div_within_a_decibel_of_it():
    assert tune.best(FIGURES, apart=False) == "a"
    assert tune.best(FIGURES, apart=True) == "b"


def test_a_task_has_settings_of_its_own_where_they_gain_half_a_decibel():
    by_task = {
        "sr4": {"a": (30.0, 0.0), "b": (31.2, 0.0)},
        "hdr": {"a": (30.0, 0.0), "b": (29.6, 0.0)},
        "deblur_motion": {"a": (33.0, 0.0), "b": (32.4, 0.0)},
    }
    rows = {row["task"]: row for row in tune.rows("dps", by_task)}
    assert all(row["all"] == "b" for row in rows.values())  # 31.07 in the mean, a: 31.0
    assert {task: row["takes"] for task, row in rows.items()} == {"sr4": "b", "hdr": "b", "deblur_motion": "a"}


def test_a_candidate_that_diverges_on_a_task_is_not_for_all(tmp_path):
    rows = tune.rows("dps", {"sr4": {"a": (30.0, 0.0), "b": (29.8, 0.0)}, "hdr": {"b": (25.0, 0.0)}})
    assert {row["all"] for row in rows} == {"b"}
    options = parse([__file__, "--task", "inpaint_half_face", "--clean", "--out", str(tmp_path)])[0]
    trial = tune.Trial("dps", "sr4", "a", options)
    assert trial.figures is None
    (tmp_path / "summary.json").write_text('{"mean": {"psnr_mean": 30.0, "div": 0.1}, "failed": {"head": "diverged"}}')
    assert trial.figures is None
    (tmp_path / "summary.json").write_text('{"mean": {"psnr_mean": 30.0, "div": 0.1}, "failed": {}}')
    assert trial.figures == (30.0, 0.1)


def test_methods_whose_particles_interact_take_the_largest_div_where_rlsd_repels():
    rows = {row["task"]: row for row in tune.rows("svgd", {"inpaint_half_face": FIGURES, "sr4": FIGURES})}
    assert {task: row["takes"] for task, row in rows.items()} == {"inpaint_half_face": "b", "sr4": "a"}


def test_candidates_scale_the_packaged_settings_and_keep_what_they_do_not_say():
    packaged, _ = parse([__file__, "--task", "inpaint_half_face", "--method", "resample"])
    flags = tune.flags("resample", "every=5 fits=25 gamma=4", packaged)
    assert flags == ["--hyper", "every=5", "fits=25", "zeta=0.3", "lr_z=0.02", "gamma=4"]
    packaged, _ = parse([__file__, "--task", "inpaint_half_face", "--method", "rlsd"])
    assert tune.flags("rlsd", "lambda=x0.5 lr_z=x1", packaged) == ["--lambda", "0.025", "--lr-z", "0.6"]
    packaged, _ = parse([__file__, "--task", "inpaint_half_face", "--method", "svgd"])
    assert tune.flags("svgd", "lambda=0.1 gamma=2", packaged) == ["--lambda", "0.1", "--gamma", "2"]


def test_rlsd_repels_where_it_says():
    rlsd = ["--clean", "--method", "rlsd"]
    assert {t for t in tune.TASKS if parse([__file__, *rlsd, "--task", t])[0].gamma > 0} == set(tune.REPELS)


def test_every_method_has_as_many_candidates(tmp_path):
    every = list(tune.trials(tune.Tune(out=tmp_path), tmp_path))
    per_pair: dict[tuple[str, str], list[str]] = {}
    for one in every:
        per_pair.setdefault((one.method, one.task), []).append(one.candidate)
    assert {len(set(found)) for found in per_pair.values()} == {6}
    assert len({one.options.out for one in every}) == len(every)
    assert ("pigdm", "hdr") not in per_pair and ("nonaug", "sr4") not in per_pair  # not linear; latent-red-diff again
