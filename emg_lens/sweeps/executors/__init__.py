"""The executors of a planned sweep; all give the same results.

`VerifiedLoop` runs one forward for each condition, on any TransformerLens model, and verifies every cut. `PlainTree`
walks the plan through the model's own blocks, so that layers in common are computed once. `FoldedTree` does the same
with folded weights, for encoders with parts that declare `folds`.

Each has `run(root, x, keep, done)`: it passes outputs to `keep` as soon as they are finished, and skips those in
`done`.
"""
