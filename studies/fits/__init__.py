"""Fits: one model on one fold at one combination of levels, from recordings to a folder of results."""
