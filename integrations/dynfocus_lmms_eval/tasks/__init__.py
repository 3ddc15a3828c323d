"""Tasks that lmms-eval lacks. Every `.yaml` here is one; the modules hold what they name."""
