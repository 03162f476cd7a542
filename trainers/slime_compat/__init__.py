"""Functions written for slime, run as they are: its arguments, its samples, and the modules that they import."""
