"""Label maps as files, in the format and orientation of the image they belong to."""
