"""The machine below us: its files, its versions, and whether it counts right."""
