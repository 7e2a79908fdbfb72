"""The data sets we read, one file a family."""
