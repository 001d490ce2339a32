"""Text to image: particles that score distillation moves until they are pictures of a prompt, and different ones."""
