"""Networks in plain torch: they take layers and attention from `ops`, plain torch by default."""
