"""Fitting models to trials."""
