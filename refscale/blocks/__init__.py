"""What block-scaled hardware can say: MX, NVFP4 and tiled FP8, to the bit.

In reading order:

1. ``table``: a ``BlockCast`` says all that decides bits; ``BLOCK_FORMATS`` are the named ones.
2. ``rounding``: one block in exact arithmetic, with every rule for its scale: the specification.
3. ``parts``: an array in such a format, by parts or by bits: ``Blocks``, ``BlockCodes``, ``decode_blocks``.
4. ``cast``: whole arrays converted, fast: ``quantize_blocks``, ``encode_blocks``, ``split_blocks``.
5. ``product``: products of such matrices, exact, or summed as hardware does.
6. ``layout``: codes as they lie in memory on hardware.
7. ``operand``: the operands of a training step, each converted along the axis that is summed over: a ``Recipe``.

    >>> from refscale.blocks import encode_blocks, quantize_blocks
    >>> quantize_blocks([1.0, 2.0, 3.0, 60.0], "mxfp4").tolist()
    [0.0, 0.0, 4.0, 48.0]
    >>> encode_blocks([1.0, 2.0, 3.0, 60.0], "mxfp4").scales.tolist()  # 2^(130 - 127)
    [130]
"""

from refscale.blocks.cast import encode_blocks, quantize_blocks, split_blocks
from refscale.blocks.layout import pack_nibbles, tile_scales, unpack_nibbles, untile_scales
from refscale.blocks.operand import RECIPES, Operand, Recipe
from refscale.blocks.parts import DEQUANTIZE_ARITHMETICS, BlockCodes, Blocks, decode_blocks, dequantize_blocks
from refscale.blocks.product import block_matmul
from refscale.blocks.rounding import round_block_exact, scale_exact
from refscale.blocks.table import (
    ARITHMETICS,
    BLOCK_FORMATS,
    ELEMENT_ARITHMETICS,
    NONFINITES,
    SCALE_ARITHMETICS,
    SCALE_RULES,
    Arithmetic,
    BlockCast,
    Nonfinite,
    ScaleRule,
    get_block_cast,
)

__all__ = [
    "ARITHMETICS",
    "BLOCK_FORMATS",
    "DEQUANTIZE_ARITHMETICS",
    "ELEMENT_ARITHMETICS",
    "NONFINITES",
    "RECIPES",
    "SCALE_ARITHMETICS",
    "SCALE_RULES",
    "Arithmetic",
    "BlockCast",
    "BlockCodes",
    "Blocks",
    "Nonfinite",
    "Operand",
    "Recipe",
    "ScaleRule",
    "block_matmul",
    "decode_blocks",
    "dequantize_blocks",
    "encode_blocks",
    "get_block_cast",
    "pack_nibbles",
    "quantize_blocks",
    "round_block_exact",
    "scale_exact",
    "split_blocks",
    "tile_scales",
    "unpack_nibbles",
    "untile_scales",
]
