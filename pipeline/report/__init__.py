"""The report's first page: what the paper claims, what was found, and which runs that rests on."""
