"""What would be so, worked out before anything is touched."""
