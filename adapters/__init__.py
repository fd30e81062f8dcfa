"""Adapters: each makes a :class:`spectroscope.Specimen` of a model and data that exist.

Installed as ``spectroscope.adapters``; found by entry point, like those of other distributions.
"""
