"""The older place of check_used."""

from .options import check_used as check_used
