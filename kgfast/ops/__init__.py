"""The ops that torch sees: `library` registers them, `autograd` makes their gradients."""
