"""One file of before → after pairs per rule of the planner."""
