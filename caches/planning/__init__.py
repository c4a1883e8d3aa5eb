"""What a static cache decides before a run: update steps, step lengths and corrections."""
