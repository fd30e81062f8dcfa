"""Adapters: each makes a :class:`spectroscope.Specimen` from an existing model and data.

An adapter is a function ``(**options) -> Specimen``, registered as an entry point of the group
``spectroscope.adapters`` in pyproject.toml. The first line of its docstring is what
``spectroscope list`` prints. Start from `pitch.py`: a network, its weights, its inputs, its metric.
docs/adapters.md explains each step. Helpers shared by adapters are in `support/`.

This folder is installed as ``spectroscope.adapters``; adapters in other distributions are found in
the same way.
"""
