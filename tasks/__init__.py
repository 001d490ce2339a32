"""The commands' tasks. A folder imports nothing from the others, except tasks/reproduce, which runs them."""
