"""Drawing of plain numbers with matplotlib, one file per kind of figure."""
