"""Links from a task instance to its images."""
