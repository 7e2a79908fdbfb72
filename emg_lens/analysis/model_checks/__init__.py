"""Checks of a model before it is studied: faults that change results without an error."""
