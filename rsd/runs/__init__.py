"""Runs: what one is, its folder, its settings, and several of them."""
