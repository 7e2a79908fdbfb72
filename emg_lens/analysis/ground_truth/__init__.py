"""Models whose circuits are known, to test attribution methods on."""
