"""Text to 3D: scenes that score distillation moves until their pictures from all sides fit a prompt, and differ."""
