"""The photographs of "photos": which files of which packages, which are left out and why, and which are held out.

The choice was made by looking at every picture of the packages on contact sheets (``photos contact-sheets``).
"""

from __future__ import annotations

from dataclasses import dataclass

PACKAGES = (
    "gnome-backgrounds",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "ukui-wallpapers",
)
"""Debian packages; lomiri-wallpapers depends on its two editions and has no pictures itself."""
SKIMAGE = "scikit-image"


@dataclass(frozen=True)
class Photograph:
    """A photograph: its ``name``, its package, its file (its end, in a Debian package), and whether it is held out."""

    name: str
    package: str
    file: str
    held: bool = False


def _of(package: str, pattern: str, names: str, held: str) -> list[Photograph]:
    return [Photograph(name, package, pattern.format(name), name in held.split()) for name in names.split()]


LOMIRI = (
    "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace Wine_by_Jakkub_Mede "
    "aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich "
    "life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt "
    "sunset_by_Aitzol_Berasategi"
)
MATE = "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower"
PLASMA = "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path summer_1am"
PHOTOGRAPHS = (
    *_of(
        "lomiri-wallpapers-16.04", "/{}.jpg", LOMIRI,
        "Picture_1A_by_freespace friends_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi",
    ),
    *_of("lomiri-wallpapers-20.04", "/{}.jpg", "Kleiber_by_Lukas_Baubkus", ""),
    *_of("mate-backgrounds", "/nature/{}.jpg", MATE, "Dune LadyBird YellowFlower"),
    *_of("plasma-workspace-wallpapers", "/{}/contents/images/2560x1600.jpg", PLASMA, "ColorfulCups EveningGlow Path"),
    *_of(SKIMAGE, "{}.png", "camera coins brick grass gravel", ""),
    *_of(SKIMAGE, "{}.png", "astronaut chelsea coffee", "astronaut chelsea coffee"),
    *_of(SKIMAGE, "{}.jpg", "rocket", "rocket"),
)  # fmt: skip
"""All photographs. A quarter of those in the Debian packages and four of scikit-image's colour photographs are held
out. The list is fixed: results on the held-out ones stay comparable."""

LEFT_OUT = {
    "gnome-backgrounds": "all pictures are drawn or rendered",
    "ukui-wallpapers": "all pictures are drawn or rendered",
    "lomiri-wallpapers-16.04/analogpattern_by_Peter_Nerlich.jpg": "grain without a scene",
    "lomiri-wallpapers-16.04/umang_by_Abhishek_Mudgal.jpg": "a drawn gradient",
    "lomiri-wallpapers-20.04/Fossa_by_Jasper_Roks.jpg": "drawn",
    "lomiri-wallpapers-20.04/Infinite-Sea_by_Aury88.jpg": "composed and drawn",
    "lomiri-wallpapers-20.04/Painting-Colors_by__herobrine7gamer.jpg": "drawn",
    "mate-backgrounds/abstract": "drawn; Elephants is a painting",
    "mate-backgrounds/desktop": "drawn; the northern lights are blurred until nothing is left of the photograph",
    "plasma-workspace-wallpapers/*/screenshot": "small copies",
    "plasma-workspace-wallpapers/Altai": "drawn",
    "plasma-workspace-wallpapers/Autumn": "drawn",
    "plasma-workspace-wallpapers/Canopee": "drawn",
    "plasma-workspace-wallpapers/Cascade": "drawn",
    "plasma-workspace-wallpapers/Cluster": "drawn",
    "plasma-workspace-wallpapers/Elarun": "drawn",
    "plasma-workspace-wallpapers/Flow": "drawn",
    "plasma-workspace-wallpapers/FlyingKonqui": "drawn",
    "plasma-workspace-wallpapers/Honeywave": "rendered",
    "plasma-workspace-wallpapers/IceCold": "drawn",
    "plasma-workspace-wallpapers/Kay": "drawn",
    "plasma-workspace-wallpapers/Kokkini": "drawn",
    "plasma-workspace-wallpapers/MilkyWay": "drawn",
    "plasma-workspace-wallpapers/Opal": "drawn",
    "plasma-workspace-wallpapers/PastelHills": "drawn",
    "plasma-workspace-wallpapers/Patak": "drawn",
    "plasma-workspace-wallpapers/SafeLanding": "drawn",
    "plasma-workspace-wallpapers/Shell": "drawn",
    "plasma-workspace-wallpapers/Volna": "drawn",
    "scikit-image/motorcycle": "its documentation names no licence",
    "scikit-image/clock_motion": "blurred by motion",
    "scikit-image/hubble_deep_field, moon": "astronomical, with the noise of their sensors",
    "scikit-image/cell, ihc, microaneurysms, retina, lfw_subset": "medical pictures, and thumbnails of faces",
    "scikit-image/page, text": "scans of text",
    "scikit-image/chessboard, color, horse, logo, phantom": "drawn",
}  # fmt: skip

SKIMAGE_LICENCES = {
    "camera": ("Lav Varshney", "CC0"),
    "coins": ("Brooklyn Museum Collection", "no known copyright restrictions"),
    "brick": ("CC0Textures", "CC0"),
    "grass": ("linolafett", "CC0"),
    "gravel": ("CC0Textures", "CC0"),
    "astronaut": ("NASA", "public domain"),
    "chelsea": ("Stefan van der Walt", "CC0"),
    "coffee": ("Rachel Michetti", "CC0"),
    "rocket": ("SpaceX", "public domain"),
}
"""Author and licence, from the docstrings of skimage.data."""
