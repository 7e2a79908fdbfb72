"""Results: what the finished fits of a study show, as tables that views and reports read."""
