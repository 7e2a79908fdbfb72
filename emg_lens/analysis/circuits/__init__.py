"""Circuits: smallest sets of attention edges that keep a model's decision."""
