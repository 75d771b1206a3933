"""What a round may tell about one device: sensitivity, accounting and budgets, with ``math`` alone."""
