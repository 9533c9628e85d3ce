"""What trainers need beyond TRL's."""
