"""refscale: Unit Scaling (arXiv 2303.11257) as an executable specification in NumPy.

In reading order:

==================  =====================================================================
``formats``         what FP16 and FP8 can say: formats as data, rounding, codes
``special``         erf and gelu without SciPy
``exact``           the right answer, on any machine: correctly rounded products, sums, functions
``blocks``          block-scaled formats: MX, NVFP4, tiled FP8; their scales, casts and products, to the bit
``scales``          what a factor is: constraints, residual rules, schemes
``precision``       where rounding happens: FP16 and FP8 policies
``engine``          how a gradient is made: Tensor, Tape, Op, apply, backward
``ops``             the op table: forward, backward and factors of every op
``graph``           when factors are legal: cut-edges, gradient factors, the recipe
``functional``      what users call: linear, attention, residual, losses
``layers``          parameters as data, and the blocks of models
``data``            text that comes with Python; words and characters, batches of them
``models``          BERT, character models, decoders, written once for every scheme and precision
``published``       models as other libraries write them; a trained one, adapted to unit scale
``squad``           questions, windows, answers: the data and the scores of SQuAD 1.1
``tasks``           what is learned: masked words, the next character, answers to questions
``rivals``          what unit scaling replaces: loss scaling, per-tensor scaling
``optim``           SGD, Adam, AdamW, LAMB as pairs of pure functions; schedules
``analysis``        what the numbers did: recorded scales, reports, SNR, figures
``train``           training out of the box
``sweep``           many runs: a grid, learning rates that are searched, any executor; the comparison
``testing``         how to state such a claim as a test: assertions, strategies
``golden``          golden vectors, and the kit that holds a backend to them
``claims``          the specification: numbered claims, each with the function that checks it
``cli``             one command
``memory``          freed memory that stays with the process, for speed; only if you ask
==================  =====================================================================
"""

__version__ = "0.1.0"
