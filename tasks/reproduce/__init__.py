"""The paper's experiments, which run the other tasks' commands."""
