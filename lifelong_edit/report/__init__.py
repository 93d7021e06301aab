"""What a ledger says, told to people and to experiment trackers."""
