"""How tasks are balanced: weights of their losses, shares of the steps, gradients that conflict."""
