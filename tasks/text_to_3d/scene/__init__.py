"""A scene: its field, and how it is seen."""
