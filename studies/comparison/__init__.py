"""Comparison of finished runs: which trials they share, differences of their models, and of their ablations."""
