"""Who is measured: our searches, those of others, and the limits that no search can beat."""
