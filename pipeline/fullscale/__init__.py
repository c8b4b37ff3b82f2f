"""The paper's memory tables: which step each published number is of."""
