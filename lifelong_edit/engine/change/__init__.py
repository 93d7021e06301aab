"""From a wish to a committed entry."""
