"""Running a study: its plan, the order of its fits, what its folder records, progress, and memory."""
