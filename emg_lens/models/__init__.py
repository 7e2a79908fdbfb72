"""The models: IsoNet, and those that follow it."""
