"""Running a study: its plan, its workers, the order of its fits, the record in its folder, and progress."""
