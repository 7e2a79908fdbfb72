"""Cohorts that are made, so that what the label depends on is known."""
