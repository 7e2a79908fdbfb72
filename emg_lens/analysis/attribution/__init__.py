"""Attribution: how much single attention edges, or groups of edges, contribute to a model's output."""
