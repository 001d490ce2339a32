"""BibTeX entries of methods and models, written beside the results."""

from __future__ import annotations

import re
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
    "sds": """@inproceedings{poole2023dreamfusion,
  title     = {{DreamFusion}: Text-to-{3D} using {2D} Diffusion},
  author    = {Poole, Ben and Jain, Ajay and Barron, Jonathan T. and Mildenhall, Ben},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  url       = {https://arxiv.org/abs/2209.14988}
}""",
    "magic3d": """@inproceedings{lin2023magic3d,
  title     = {{Magic3D}: High-Resolution Text-to-{3D} Content Creation},
  author    = {Lin, Chen-Hsuan and Gao, Jun and Tang, Luming and Takikawa, Towaki and Zeng, Xiaohui and Huang, Xun
               and Kreis, Karsten and Fidler, Sanja and Liu, Ming-Yu and Lin, Tsung-Yi},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2023},
  url       = {https://arxiv.org/abs/2211.10440}
}""",
    "perp-neg": """@misc{armandpour2023reimagine,
  title     = {Re-imagine the Negative Prompt Algorithm: Transform {2D} Diffusion into {3D}, alleviate {Janus}
               problem and Beyond},
  author    = {Armandpour, Mohammadreza and Sadeghian, Ali and Zheng, Huangjie and Sadeghian, Amir
               and Zhou, Mingyuan},
  year      = {2023},
  url       = {https://arxiv.org/abs/2304.04968}
}""",
    "mvdream": """@inproceedings{shi2024mvdream,
  title     = {{MVDream}: Multi-view Diffusion for {3D} Generation},
  author    = {Shi, Yichun and Wang, Peng and Ye, Jianglong and Long, Mai and Li, Kejie and Yang, Xiao},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2308.16512}
}""",
    "vsd": """@inproceedings{wang2023prolificdreamer,
  title     = {{ProlificDreamer}: High-Fidelity and Diverse Text-to-{3D} Generation
               with Variational Score Distillation},
  author    = {Wang, Zhengyi and Lu, Cheng and Wang, Yikai and Bao, Fan and Li, Chongxuan and Su, Hang and Zhu, Jun},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  url       = {https://arxiv.org/abs/2305.16213}
}""",
    "lora": """@inproceedings{hu2022lora,
  title     = {{LoRA}: Low-Rank Adaptation of Large Language Models},
  author    = {Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi
               and Wang, Shean and Wang, Lu and Chen, Weizhu},
  booktitle = {International Conference on Learning Representations},
  year      = {2022},
  url       = {https://arxiv.org/abs/2106.09685}
}""",
    "nfsd": """@inproceedings{katzir2024noise,
  title     = {Noise-Free Score Distillation},
  author    = {Katzir, Oren and Patashnik, Or and Cohen-Or, Daniel and Lischinski, Dani},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2310.17590}
}""",
    "svgd": """@inproceedings{liu2016stein,
  title     = {Stein Variational Gradient Descent: A General Purpose {Bayesian} Inference Algorithm},
  author    = {Liu, Qiang and Wang, Dilin},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2016},
  url       = {https://arxiv.org/abs/1608.04471}
}""",
    "csd": """@inproceedings{kim2023collaborative,
  title     = {Collaborative Score Distillation for Consistent Visual Editing},
  author    = {Kim, Subin and Lee, Kyungmin and Choi, June Suk and Jeong, Jongheon and Sohn, Kihyuk and Shin, Jinwoo},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  url       = {https://arxiv.org/abs/2307.04787}
}""",
    "particle-guidance": """@inproceedings{corso2024particle,
  title     = {Particle Guidance: non-{I.I.D.} Diverse Sampling with Diffusion Models},
  author    = {Corso, Gabriele and Xu, Yilun and De Bortoli, Valentin and Barzilay, Regina and Jaakkola, Tommi},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2310.13102}
}""",
    "edm": """@inproceedings{karras2022elucidating,
  title     = {Elucidating the Design Space of Diffusion-Based Generative Models},
  author    = {Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022},
  url       = {https://arxiv.org/abs/2206.00364}
}""",
    "latent-diffusion": """@inproceedings{rombach2022high,
  title     = {High-Resolution Image Synthesis with Latent Diffusion Models},
  author    = {Rombach, Robin and Blattmann, Andreas and Lorenz, Dominik and Esser, Patrick and Ommer, Bj{\\"o}rn},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022},
  url       = {https://arxiv.org/abs/2112.10752}
}""",
    "dps": """@inproceedings{chung2023diffusion,
  title     = {Diffusion Posterior Sampling for General Noisy Inverse Problems},
  author    = {Chung, Hyungjin and Kim, Jeongsol and McCann, Michael T. and Klasky, Marc L. and Ye, Jong Chul},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  url       = {https://arxiv.org/abs/2209.14687}
}""",
    "pigdm": """@inproceedings{song2023pseudoinverse,
  title     = {Pseudoinverse-Guided Diffusion Models for Inverse Problems},
  author    = {Song, Jiaming and Vahdat, Arash and Mardani, Morteza and Kautz, Jan},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  url       = {https://openreview.net/forum?id=9_gsMA8MRKQ}
}""",
    "fps-smc": """@inproceedings{dou2024diffusion,
  title     = {Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering Perspective},
  author    = {Dou, Zehao and Song, Yang},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://github.com/ZehaoDou-official/FPS-SMC-2023}
}""",
    "psld": """@inproceedings{rout2023solving,
  title     = {Solving Linear Inverse Problems Provably via Posterior Sampling with Latent Diffusion Models},
  author    = {Rout, Litu and Raoof, Negin and Daras, Giannis and Caramanis, Constantine and Dimakis, Alexandros G.
               and Shakkottai, Sanjay},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  url       = {https://arxiv.org/abs/2307.00619}
}""",
    "resample": """@inproceedings{song2024solving,
  title     = {Solving Inverse Problems with Latent Diffusion Models via Hard Data Consistency},
  author    = {Song, Bowen and Kwon, Soo Min and Zhang, Zecheng and Hu, Xinyu and Qu, Qing and Shen, Liyue},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2307.08123}
}""",
    "daps": """@inproceedings{zhang2025improving,
  title     = {Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing},
  author    = {Zhang, Bingliang and Chu, Wenda and Berner, Julius and Meng, Chenlin and Anandkumar, Anima
               and Song, Yang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2025},
  url       = {https://arxiv.org/abs/2407.01521}
}""",
    "diffpir": """@inproceedings{zhu2023diffpir,
  title     = {Denoising Diffusion Models for Plug-and-Play Image Restoration},
  author    = {Zhu, Yuanzhi and Zhang, Kai and Liang, Jingyun and Cao, Jiezhang and Wen, Bihan and Timofte, Radu
               and Van Gool, Luc},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
  year      = {2023},
  url       = {https://arxiv.org/abs/2305.08995}
}""",
    "dpir": """@article{zhang2021dpir,
  title     = {Plug-and-Play Image Restoration with Deep Denoiser Prior},
  author    = {Zhang, Kai and Li, Yawei and Zuo, Wangmeng and Zhang, Lei and Van Gool, Luc and Timofte, Radu},
  journal   = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year      = {2021},
  url       = {https://arxiv.org/abs/2008.13751}
}""",
    "ddrm-jpeg": """@misc{kawar2022jpeg,
  title     = {JPEG Artifact Correction using Denoising Diffusion Restoration Models},
  author    = {Kawar, Bahjat and Song, Jiaming and Ermon, Stefano and Elad, Michael},
  year      = {2022},
  url       = {https://arxiv.org/abs/2209.11888}
}""",
    "blind-dps": """@inproceedings{chung2023parallel,
  title     = {Parallel Diffusion Models of Operator and Image for Blind Inverse Problems},
  author    = {Chung, Hyungjin and Kim, Jeongsol and Kim, Sehui and Ye, Jong Chul},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2023},
  url       = {https://arxiv.org/abs/2211.10656}
}""",
    "latino": """@inproceedings{spagnoletti2025latino,
  title     = {LATINO-PRO: LAtent consisTency INverse sOlver with PRompt Optimization},
  author    = {Spagnoletti, Alessio and Prost, Jean and Almansa, Andr{\\'e}s and Papadakis, Nicolas
               and Pereyra, Marcelo},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2025},
  url       = {https://arxiv.org/abs/2503.12615}
}""",
    "score-prior": """@inproceedings{feng2023score,
  title     = {Score-Based Diffusion Models as Principled Priors for Inverse Imaging},
  author    = {Feng, Berthy T. and Smith, Jamie and Rubinstein, Michael and Chang, Huiwen and Bouman, Katherine L.
               and Freeman, William T.},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2023},
  url       = {https://arxiv.org/abs/2304.11751}
}""",
    "imagen": """@inproceedings{saharia2022photorealistic,
  title     = {Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding},
  author    = {Saharia, Chitwan and Chan, William and Saxena, Saurabh and Li, Lala and Whang, Jay and Denton, Emily
               and Ghasemipour, Kamyar and Gontijo Lopes, Raphael and Karagol Ayan, Burcu and Salimans, Tim
               and Ho, Jonathan and Fleet, David J. and Norouzi, Mohammad},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022},
  url       = {https://arxiv.org/abs/2205.11487}
}""",
    "palette": """@inproceedings{saharia2022palette,
  title     = {Palette: Image-to-Image Diffusion Models},
  author    = {Saharia, Chitwan and Chan, William and Chang, Huiwen and Lee, Chris A. and Ho, Jonathan
               and Salimans, Tim and Fleet, David J. and Norouzi, Mohammad},
  booktitle = {ACM SIGGRAPH Conference Proceedings},
  year      = {2022},
  url       = {https://arxiv.org/abs/2111.05826}
}""",
    "instant-ngp": """@article{mueller2022instant,
  title     = {Instant Neural Graphics Primitives with a Multiresolution Hash Encoding},
  author    = {M{\\"u}ller, Thomas and Evans, Alex and Schied, Christoph and Keller, Alexander},
  journal   = {ACM Transactions on Graphics},
  volume    = {41},
  number    = {4},
  year      = {2022},
  url       = {https://arxiv.org/abs/2201.05989}
}""",
    "dpp": """@inproceedings{chen2018fast,
  title     = {Fast Greedy {MAP} Inference for Determinantal Point Process to Improve Recommendation Diversity},
  author    = {Chen, Laming and Zhang, Guoxin and Zhou, Eric},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2018},
  url       = {https://arxiv.org/abs/1709.05135}
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


def short(key: str) -> str:
    """Format an entry as "Author et al. (year), url", without accents."""
    found = [re.search(rf"{name} += \{{(.*)\}},?\n", BIBTEX[key]) for name in ("year", "url")]
    year, url = (match[1] if match else "" for match in found)
    author = BIBTEX[key].partition("author    = {")[2].partition("},\n")[0]
    people = [person.split(",")[0] for person in re.split(r"\s+and\s+", re.sub(r"\{\\.(\w)\}", r"\1", author))]
    who = " & ".join(people) if len(people) < 3 else f"{people[0]} et al."
    return f"{who} ({year}), {url}"


def bibtex(keys: Iterable[str]) -> str:
    """Return the entries of ``keys`` in order, without duplicates."""
    return "\n\n".join(BIBTEX[key] for key in dict.fromkeys(keys)) + "\n"
