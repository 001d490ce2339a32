"""A scene: its field, its renderers, cameras and lights."""
