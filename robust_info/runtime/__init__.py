"""The machine below us: its devices, files and versions."""
