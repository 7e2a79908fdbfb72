"""Verify that a cut removes the influence of a source token on a destination token."""
