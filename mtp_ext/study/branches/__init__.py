"""How many next tokens the nucleus keeps: the work that summing them out is (figure 4 of the paper)."""
