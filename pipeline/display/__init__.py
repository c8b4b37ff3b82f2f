"""What a person sees while Snakemake works: how far each table is, what each run came to, and every error."""
