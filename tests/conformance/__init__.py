"""The clauses of the Channel Layer Specification, each a test, held against several layers.

The specification: https://channels.readthedocs.io/en/latest/channel_layer_spec.html

One file for each group of clauses; ``test_original_*.py`` are the lists of requirements in the
backend document that Channels began with. Every test has its clause as its docstring, and uses
nothing of a layer but what the specification names. ``layers.py`` says how each layer is made.

Our own layer runs with the ordinary suite, where every clause must pass. ``make conformance``
(``python -m tests.conformance``) runs all layers and writes the table in docs/conformance.rst.
"""
