"""The table of backgrounds, from a sweep's files."""

import csv

import torch

from rsd.media import write_png
from scripts.specks import main


def test_a_noisy_background_is_many_times_ancestral_s(tmp_path, capsys):
    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with open(tmp_path / "sweep.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["method", "gamma", "features", "prompt", "folder", "div", "agreement", "coverage"])
        for method, gamma, amount, agreement in (("ancestral", 0, 0.02, "1"), ("vsd", 20.0, 0.2, "")):
            for prompt in ("a", "b"):
                folder = f"runs/{method}/{prompt}"
                rows.writerow([method, gamma, "", prompt, folder, 0.1, agreement, 1.5])
                for k in range(2):
                    write_png(tmp_path / folder / "particles" / f"{k:02d}.png", amount * noise[k : k + 1])
    main([str(tmp_path)])
    ancestral, vsd = capsys.readouterr().out.splitlines()[2:]
    assert ancestral.startswith("| ancestral | 2 | 0.100 | 1.000 | 1.50 |") and ancestral.endswith("| 1.00 | 0% |")
    assert vsd.startswith("| vsd, γ = 20 | 2 | 0.100 | nan | 1.50 |")
    assert 85 < float(vsd.split("|")[-3]) < 115  # a hundred times, up to the rounding to bytes
    assert vsd.endswith("| 100% |")
