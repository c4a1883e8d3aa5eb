"""What a step computes anew, and what it keeps: policies for keys and values."""
