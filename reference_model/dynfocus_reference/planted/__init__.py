"""A small world of rendered videos with planted evidence, and the study that asks the paper's questions of it."""
