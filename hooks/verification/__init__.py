"""Verification: does a cut remove the influence of a source token on a destination token?"""
