"""What is made: folders, plans, records."""
