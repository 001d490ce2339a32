"""Text to image: score distillation moves particles until they are different pictures of a prompt."""
