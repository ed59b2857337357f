"""Foreign names and formats. They are translated in this room and nowhere else."""
