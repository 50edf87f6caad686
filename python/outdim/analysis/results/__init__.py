"""What the steps found: frozen results, their tidy tables, and what is said of them in words."""
