"""``rsd ui``: a page in the browser that drives the same runner as the command line, and shows the particles."""
