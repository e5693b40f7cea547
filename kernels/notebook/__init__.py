"""What a person sees who works by hand: tables in a notebook, bars anywhere. Knows no search."""
