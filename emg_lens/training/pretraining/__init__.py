"""Pre-training by masked reconstruction: specification, recipe, batches, loop, run folder."""
