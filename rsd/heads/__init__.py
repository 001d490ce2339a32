"""The built-in world: procedural cartoon heads with known attributes, cameras and captions."""
