"""The way of a picture through a restoration: its file (``source``) and its geometry (``frame``)."""
