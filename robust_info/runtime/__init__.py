"""The machine below us: files, versions, and a check of its arithmetic."""
