"""What TRL's trainers lack, as thin additions to them."""
