"""Files of tasks, and what is written for them."""
