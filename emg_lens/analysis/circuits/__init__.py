"""Circuits: minimal sets of attention edges that keep a model's decision."""
