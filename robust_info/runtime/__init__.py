"""The machine: files, processes, versions and a test of its arithmetic."""
