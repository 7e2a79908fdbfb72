"""The ways to run a planned sweep, with the same results.

`VerifiedLoop` runs one forward a condition, on any TransformerLens model, and verifies every cut. `PlainTree` walks the
plan through the model's own blocks, so that a common prefix is computed once. `FoldedTree` and `Stacked` run an encoder
whose arithmetic is known exactly from its parts: the one depth-first, the other level by level.

Each has `run(root, x, keep, done)`: it gives its outputs to `keep` as soon as they are finished, and leaves out those
that are `done`.
"""
