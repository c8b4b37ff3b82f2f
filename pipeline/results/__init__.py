"""What runs leave behind: records, locks, and how far they are."""
