"""Names that parts of a program carry, for those who read it."""

UNLIKELY = "unlikely"
"""What runs only where something went as it seldom does. No estimate counts it."""
