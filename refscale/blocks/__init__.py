"""Block-scaled formats, bit-exact: MX, NVFP4 and tiled FP8.

In reading order:

1. ``table``: a ``BlockCast`` defines a conversion to the last bit; ``BLOCK_FORMATS`` lists the named ones.
2. ``rounding``: conversion of one block in exact arithmetic, with every scale rule: the specification.
3. ``parts``: an array in a block-scaled format, as values or codes: ``Blocks``, ``BlockCodes``, ``decode_blocks``.
4. ``cast``: fast conversion of arrays: ``quantize_blocks``, ``encode_blocks``, ``split_blocks``.
5. ``product``: products of block-scaled matrices, exact, or with the accumulators of hardware.
6. ``layout``: layouts of codes in the memory of hardware.
7. ``operand``: operands of a training step, each converted along the axis that is summed over: a ``Recipe``.

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
