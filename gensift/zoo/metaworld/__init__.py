"""Meta-World: six manipulation tasks of a simulated robot arm, with scripted experts."""
