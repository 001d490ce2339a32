"""Posterior samplers, one a file."""
