"""Android emulators: their files, one, several, and what a machine lacks for them."""
