"""``rsd calibrate``: compare the spread of samples with exact posteriors."""
