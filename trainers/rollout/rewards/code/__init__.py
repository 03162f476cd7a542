"""Judging programs: what is tested, and the jail in which it runs."""
