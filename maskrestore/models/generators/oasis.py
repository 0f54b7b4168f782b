"""The OASIS image generator, in SPADE's names.

Schönfeld, Sushko, Zhang, Gall, Schiele, Khoreva, "You Only Need Adversarial Supervision for
Semantic Image Synthesis", ICLR 2021 (section 3.3). SPADE's form with one block and one doubling
less, without edges, and with a style: one normal vector that stands at every pixel before the
labels.
"""

from collections.abc import Mapping

from torch import Tensor

from maskrestore.models.spade import WIDTHS

BLOCKS = {name: name != "head_0" for name in WIDTHS if name != "G_middle_1"}
"""SPADE's names of body.0 to body.5, and whether x is doubled before each."""

STYLE_SIZE = 64
"""Of the official files."""


def spade_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an OASIS file as those of a SPADEGenerator of these blocks."""
    renamed = {}
    for name, tensor in state.items():
        for number, block in enumerate(BLOCKS):
            name = name.replace(f"body.{number}.", f"{block}.")
        renamed[name.replace(".first_norm.", ".param_free_norm.")] = tensor
    return renamed
