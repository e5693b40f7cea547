"""What one search took: counts, and time by stage, measured and predicted."""
