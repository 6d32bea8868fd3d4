"""How well the token after the next one is predicted with the next one summed out (section 4 of the paper)."""
