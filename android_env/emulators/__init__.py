"""Android emulators: their files, a single emulator, a fleet of them, and a check of what the machine lacks."""
