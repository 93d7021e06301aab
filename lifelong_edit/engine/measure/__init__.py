"""What the edits did to the model, in figures."""
