"""The problems that RLSD is put to; each folder knows its own and shares nothing with the others."""
