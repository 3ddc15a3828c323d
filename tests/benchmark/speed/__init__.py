"""How fast, against a plain twin and against the machine: `python -m tests.benchmark.speed`."""
