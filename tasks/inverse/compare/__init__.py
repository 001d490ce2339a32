"""``rsd compare``: methods side by side."""
