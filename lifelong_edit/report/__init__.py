"""Reports of a store: an HTML page, a database to browse, numbers for experiment trackers."""
