"""The study file: its keys, their validation, and the shipped studies."""
