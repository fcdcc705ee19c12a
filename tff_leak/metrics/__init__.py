"""What an attack recovered and what the task lost, each figure with its controls."""
