"""Read and write files: in one step, with checksums, in worker processes."""
