"""The commands: one file each, thin shells over functions of the library."""
