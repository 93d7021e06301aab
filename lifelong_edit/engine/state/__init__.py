"""An open store and its live model."""
