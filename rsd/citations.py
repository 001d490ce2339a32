"""BibTeX of the methods and models that a run used, written beside its results."""

from __future__ import annotations

from collections.abc import Iterable

BIBTEX = {
    "rlsd": """@inproceedings{zilberstein2025repulsive,
  title     = {Repulsive Latent Score Distillation for Solving Inverse Problems},
  author    = {Zilberstein, Nicolas and Mardani, Morteza and Segarra, Santiago},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  url       = {https://arxiv.org/abs/2406.16683}
}""",
    "red-diff": """@inproceedings{mardani2024variational,
  title     = {A Variational Perspective on Solving Inverse Problems with Diffusion Models},
  author    = {Mardani, Morteza and Song, Jiaming and Kautz, Jan and Vahdat, Arash},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2305.04391}
}""",
    "latent-diffusion": """@inproceedings{rombach2022high,
  title     = {High-Resolution Image Synthesis with Latent Diffusion Models},
  author    = {Rombach, Robin and Blattmann, Andreas and Lorenz, Dominik and Esser, Patrick and Ommer, Bj{\\"o}rn},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022},
  url       = {https://arxiv.org/abs/2112.10752}
}""",
    "dino": """@inproceedings{caron2021emerging,
  title     = {Emerging Properties in Self-Supervised Vision Transformers},
  author    = {Caron, Mathilde and Touvron, Hugo and Misra, Ishan and J{\\'e}gou, Herv{\\'e} and Mairal, Julien
               and Bojanowski, Piotr and Joulin, Armand},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2021},
  url       = {https://arxiv.org/abs/2104.14294}
}""",
}


def bibtex(keys: Iterable[str]) -> str:
    """The entries of ``keys``, each once, in their order."""
    return "\n\n".join(BIBTEX[key] for key in dict.fromkeys(keys)) + "\n"
