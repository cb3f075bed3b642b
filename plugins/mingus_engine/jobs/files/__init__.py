"""Jobs of file sets: back up, restore, prove."""
