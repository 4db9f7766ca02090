"""The fast form of each op that has one: the same function as its readable form, with the factors inside.

==============  ======================================================================================
``products``    matrix products: the factor goes to the smallest of the three arrays
``rows``        softmax, norms, cross-entropy: some rows at a time
``elements``    sums, biases, dropout, activations: some elements at a time
``blocks``      what they share
==============  ======================================================================================

The op's page names its kernel, ``fast = Kernel(forward, backward)``; ``engine.Kernel`` says what the two must do.
Every kernel is held to the readable form, which stays the specification: ``tests/ops/test_kernels.py``.
"""
