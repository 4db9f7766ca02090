"""The fast forms of ops: the same functions as the readable forms, with the factors fused.

==============  ======================================================================================
``products``    matrix products: the factor is applied to the smallest of the three arrays
``rows``        softmax, norms, cross-entropy: some rows at a time
``elements``    sums, biases, dropout, activations: some elements at a time
``blocks``      parts of rows and elements that stay in cache
==============  ======================================================================================

A class of ops assigns its two functions, ``fast_forward, fast_backward = elements.silu, elements.activation_backward``;
``engine.Op`` defines their interface. They take the op as their first argument, so that no module here imports a
module of ops. The readable form is the specification: ``tests/ops/test_kernels.py`` compares each with it.
"""
