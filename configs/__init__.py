"""Settings that ship with the package: one YAML file a row of the paper, and those tuned for the built-in prior."""
