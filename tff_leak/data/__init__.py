"""Images: where they come from, how they are transformed and shared out."""
