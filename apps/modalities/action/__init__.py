"""Episodes of a robot: their files, report and view."""
