"""Files: written in one step, read with a checksum."""
