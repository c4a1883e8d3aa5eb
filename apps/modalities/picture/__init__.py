"""Pictures: their rewards, files, report and view."""
