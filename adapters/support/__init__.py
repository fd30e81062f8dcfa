"""Helpers of the adapters: downloads, file readers, networks, images."""
