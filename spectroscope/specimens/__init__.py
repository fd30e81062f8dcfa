"""Specimens: a model together with data to run it on."""
