"""The paper's experiments, one command each: this folder stands above the other tasks and starts their commands."""
