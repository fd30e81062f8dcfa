"""Interventions on activations, and what is learned by them."""
