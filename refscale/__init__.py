"""refscale: Unit Scaling (arXiv 2303.11257) as an executable specification in NumPy.

The core is the specification: arithmetic, engine, ops, factors, models. In reading order, each part importing only
those above it:

==================  =====================================================================
``formats``         FP16, FP8 and other formats as data; rounding to them; their codes
``special``         erf and gelu without SciPy
``exact``           correctly rounded products, sums and functions, the same bits on any machine
``blocks``          block-scaled formats: MX, NVFP4, tiled FP8; their scales, casts and products, to the bit
``scales``          scale factors: constraints, residual rules, schemes
``precision``       precision policies: the places where tensors are rounded, and the formats
``engine``          automatic differentiation with factors: Tensor, Tape, Op, apply, backward
``ops``             the op table: forward, backward and factors of every op
``prediction``      σ of every tensor and gradient of a recorded graph, from factors and shapes
``graph``           legal factors: cut-edges, gradient factors, the recipe
``functional``      functions of tensors for models: linear, attention, residual, losses
``layers``          parameters as data, and the blocks of models
``data``            the text that comes with Python; word and character tokenizers, batches
``models``          BERT, character models, decoders, written once for every scheme and precision
==================  =====================================================================

The instruments measure the core, train its models, and check other backends against it. The core imports none of them:

==================  =====================================================================
``programs``        a model of your own: specs, a loss and batches
``adapt``           a trained program of your own, the same function at unit scale
``published``       model files of other libraries; a trained model, adapted to unit scale
``squad``           SQuAD 1.1 and 2.0: windows of the data, answers, scores
``rivals``          the techniques that unit scaling replaces: loss scaling, per-tensor scaling
``tasks``           training tasks: masked words, the next character, answers to questions
``optim``           SGD, Adam, AdamW, LAMB as pairs of pure functions; schedules
``stats``           statistics of tensors: σ, exponents, overflow and underflow of casts; reports
``train``           training out of the box
``analysis``        recorded scales, predictions, SNR, plots
``bridge``          PyTorch modules as programs, and back as modules with factors
``sweep``           grids of runs, learning-rate search, any executor; comparison of the results
``testing``         tools to state a claim as a test: strategies, exact constructions, assertions
``golden``          golden vectors, and the kit that checks a backend against them
``claims``          the specification in numbers: claims, each with the function that checks it
``cli``             the command ``refscale``
==================  =====================================================================

Both use ``errors``, ``names`` (names that are imported at their first use, old names), ``arguments`` (checks of single
arguments), ``spellings`` (names with options), ``arrays`` (checks of array arguments, write protection), ``files``,
``modules`` (objects of a user's file), ``records`` (JSON files with a schema), ``progress`` and ``memory`` (an option:
the process keeps freed memory, for speed).

``import refscale as rs`` is enough to begin: ``rs.quantize``, ``rs.Tape``, ``rs.plan``, …; ``dir(rs)`` lists the names.
The module of a name is imported at its first use.

Docstrings cite arXiv 2303.11257 as "the paper" and github.com/graphcore-research/unit-scaling-demo as "the authors'
code"; its folders examples and bert are in the branch 2023-01-paper.
"""

__version__ = "0.2.0"

TYPE_CHECKING = False  # as typing's, without importing typing
if TYPE_CHECKING:
    from refscale import functional, ops
    from refscale.analysis.report.first_step import report
    from refscale.blocks import quantize_blocks
    from refscale.engine import Op, Tape, Tensor, apply, backward
    from refscale.formats import Cast, decode, encode, get_format, quantize
    from refscale.graph import gradient_factors, plan
    from refscale.precision import get_precision
    from refscale.scales import get_scheme, regular, unit
else:
    from refscale.names import lazily

    __getattr__, __dir__ = lazily(
        __name__,
        {
            "": ("functional", "ops"),
            "analysis.report.first_step": ("report",),
            "blocks": ("quantize_blocks",),
            "engine": ("Op", "Tape", "Tensor", "apply", "backward"),
            "formats": ("Cast", "decode", "encode", "get_format", "quantize"),
            "graph": ("gradient_factors", "plan"),
            "precision": ("get_precision",),
            "scales": ("get_scheme", "regular", "unit"),
        },
    )

__all__ = [
    "Cast",
    "Op",
    "Tape",
    "Tensor",
    "apply",
    "backward",
    "decode",
    "encode",
    "functional",
    "get_format",
    "get_precision",
    "get_scheme",
    "gradient_factors",
    "ops",
    "plan",
    "quantize",
    "quantize_blocks",
    "regular",
    "report",
    "unit",
]
