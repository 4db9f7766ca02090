"""The fast form of each op that has one: the same function as its readable form, with the factors inside.

==============  ======================================================================================
``products``    matrix products: the factor goes to the smallest of the three arrays
``rows``        softmax, norms, cross-entropy: some rows at a time
``elements``    sums, biases, dropout, activations: some elements at a time
``blocks``      what they share
==============  ======================================================================================

The op's page names the two functions, ``fast_forward, fast_backward = elements.silu, elements.activation_backward``;
``engine.Op`` defines what they compute. They take the op as their first argument, so that no module here imports a
page of ops. The readable form is the specification: ``tests/ops/test_kernels.py`` compares each with it.
"""
