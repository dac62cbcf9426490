"""Two numbers a profile fitted on one published point, frozen, and everything else predicted."""
