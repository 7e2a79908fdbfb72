"""The study file: its parts, their validation, and the shipped studies."""
