"""Colours of action classes: the published table, and a palette made to be told apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Nine hand-picked hues, then each next colour is the one farthest (CIELAB) from all before, from grey, white and black,
# in normal vision and in simulated deuteranopia and protanopia (Machado et al. 2009); lightness and chroma are bounded.
# So the first colours differ most, and a class keeps its colour whatever the number of classes.
_PALETTE_TEXT = """
    3b7cb8 e8923a 1b9170 e3c93f 8a5fb0 74bdea c4473d e596bd 7a5a41 97e787 97a770 9f2070 30efb7 7897ff 8f7000 58dfe7
    0058b7 585818 008797 ffaf9f c79f58 8f3858 c7d768 d76078 af87bf 508f50 80a7ef 873087 c7609f 70c78f 78e7cf b77838
    7870d7 ff8f80 78dfff 9f9720 c77058 a76060 b770cf 9f5880 58489f 38588f cfbf70 10bfb7 486800 607838 e7b750 785080
    cf788f 30afcf 0097d7 df97df 306028 874048 409787 e7a758 ffb7e7 5868bf 48dfb7 ff78a7 387858 589f40 70689f af3870
"""
_PALETTE = _PALETTE_TEXT.split()

_GREYS = {
    "background": "c9c9ce",
    "bg": "c9c9ce",
    "sil": "c9c9ce",  # Breakfast
    "none": "c9c9ce",
    "action_start": "a9a9b0",  # 50Salads
    "action_end": "8b8b93",
}


def published_colours(count: int = 256) -> np.ndarray:
    """The colour table of TST's qualitative figures (`scripts/visualize.py`, known from PASCAL VOC).

    The bits of the class index, three at a time from the lowest, go to red, green and blue, from bit 7 downwards.

    Returns:
        uint8 [count, 3]; class 0 is black. Divide by 255 for matplotlib.
    """
    index = np.arange(count)
    table = np.zeros((count, 3), np.uint8)
    for position in range(8):
        for channel in range(3):
            bit = (index >> (3 * position + channel)) & 1
            table[:, channel] |= (bit << (7 - position)).astype(np.uint8)
    return table


def class_colours(class_names: Sequence[str]) -> np.ndarray:
    """Colours for the classes: background-like names grey, class `i` otherwise always the palette's colour `i`.

    Beyond the palette's 64 colours they repeat, each time darker.

    Returns:
        float [classes, 3] in 0..1.
    """
    colours = np.empty((len(class_names), 3))
    for index, name in enumerate(class_names):
        if name.lower() in _GREYS:
            colours[index] = _rgb(_GREYS[name.lower()])
        else:
            turn, position = divmod(index, len(_PALETTE))
            colours[index] = _rgb(_PALETTE[position]) * 0.7**turn
    return colours


def hex_code(colour: np.ndarray) -> str:
    """`#rrggbb` of a colour [3] in 0..1."""
    return "#" + "".join(f"{round(255 * float(channel)):02x}" for channel in colour)


def ink_on(colour: np.ndarray) -> str:
    """Black or white, whichever reads better on `colour` [3] in 0..1 (relative luminance, WCAG 2)."""
    linear = np.where(np.asarray(colour) <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return "black" if float(linear @ (0.2126, 0.7152, 0.0722)) > 0.18 else "white"


def _rgb(code: str) -> np.ndarray:
    return np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 255
