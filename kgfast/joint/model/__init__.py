"""The model of joint training: a Transformer over packed texts, rows of entities, how tasks share them."""
