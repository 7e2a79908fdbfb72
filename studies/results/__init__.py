"""Results of the finished fits, as tables that views and reports read."""
