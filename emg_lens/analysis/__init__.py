"""Looking inside a model: live edges, attention maps."""
