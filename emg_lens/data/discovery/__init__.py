"""Find out how an unknown folder of recordings is laid out, and write a description of it and a first study."""
