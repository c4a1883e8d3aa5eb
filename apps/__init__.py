"""What people start: commands, jobs, the page, and training."""

PART_OF = "gensift"
