"""How far each layer of a model is from its next token: the logit lens against the final distribution."""
