"""Text to 3D: score distillation moves scenes until their pictures from all sides fit a prompt, and differ."""
