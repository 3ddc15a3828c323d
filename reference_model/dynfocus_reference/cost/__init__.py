"""What DPE and CCE cost in time, tokens and memory: the questions of Tables 8–10, asked of this code."""
