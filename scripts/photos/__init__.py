"""The built-in prior "photos": its data, training and evaluation."""
